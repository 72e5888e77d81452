//! The marker of a sink's objects, as bytes. Pure. It never names less than
//! what is visible: an object is announced here before it can be seen.

use serde::{Deserialize, Serialize};
use tidegate_engine::time::Time;

/// The folder of markers beside the objects. Readers of data pass over names
/// that begin with an underscore.
pub(super) const FOLDER: &str = "_tidegate";
/// Version of the layout; newer ones are refused.
const VERSION: u32 = 1;

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) version: u32,
    /// Rows up to this epoch are in objects.
    pub(super) epoch: u64,
    /// An object of the rows after it may be visible.
    pub(super) announced: Option<Announced>,
    /// The log whose rows and epochs these are.
    pub(super) log: String,
    /// The process that writes here.
    pub(super) session: String,
}

/// An object that may be visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announced {
    /// Its last epoch.
    pub(super) epoch: u64,
    pub(super) name: String,
}

impl Marker {
    pub(super) fn new(log: &str, session: &str) -> Marker {
        Marker { version: VERSION, epoch: 0, announced: None, log: log.into(), session: session.into() }
    }

    /// # Errors
    /// A sentence about what was read.
    pub(super) fn read(bytes: &[u8]) -> Result<Marker, String> {
        let marker: Marker =
            serde_json::from_slice(bytes).map_err(|error| format!("it cannot be read: {error}"))?;
        if marker.version != VERSION {
            return Err(format!(
                "its version {} is not known; this program writes {VERSION}",
                marker.version
            ));
        }
        Ok(marker)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Whether nobody's rows are there.
    pub(super) fn is_empty(&self) -> bool {
        self.epoch == 0 && self.announced.is_none()
    }
}

/// A name that no other process of this or another machine is likely to have:
/// the time in milliseconds and the process's number.
pub(super) fn fresh_name(now: Time) -> String {
    format!("{:x}-{:x}", now.0 / 1000, std::process::id())
}

/// The name of the object whose rows follow an epoch. The log is part of it: a
/// topology that begins anew must not overwrite what another has written.
pub(super) fn object_name(sink: &str, log: &str, after: u64, extension: &str) -> String {
    format!("{sink}-{log}-{:010}.{extension}", after + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_as_it_was_written_and_a_newer_one_refused() {
        let announced = Announced { epoch: 17, name: "x".into() };
        let marker = Marker { epoch: 13, announced: Some(announced), ..Marker::new("a1", "b2") };
        let text =
            r#"{"version":1,"epoch":13,"announced":{"epoch":17,"name":"x"},"log":"a1","session":"b2"}"#;
        assert_eq!(String::from_utf8_lossy(&marker.bytes()), format!("{text}\n"));
        assert_eq!(Marker::read(text.as_bytes()), Ok(marker));
        let newer = text.replace("\"version\":1", "\"version\":2");
        assert!(Marker::read(newer.as_bytes()).is_err_and(|reason| reason.contains("version 2")));
        assert!(Marker::read(b"{}").is_err() && Marker::read(b"").is_err());
    }

    #[test]
    fn names_sort_as_epochs_do_and_belong_to_one_log() {
        assert_eq!(object_name("load", "a1", 9, "parquet"), "load-a1-0000000010.parquet");
        assert!(object_name("load", "a1", 8, "x") < object_name("load", "a1", 9, "x"));
        assert_ne!(object_name("load", "a1", 9, "x"), object_name("load", "a2", 9, "x"));
    }
}
