//! What we asked a broker for, remembered across restarts: a session that the
//! broker kept still has topics that the file no longer names. A small file,
//! written only when the topics change.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_engine::storage::files::write_atomically;

/// The subscriptions of one client at one broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subscriptions {
    /// `host:port`.
    pub(super) broker: String,
    /// Our name there.
    pub(super) client_id: String,
    /// Filters, as they were subscribed.
    pub(super) filters: Vec<String>,
    /// With this QoS.
    pub(super) qos: u8,
}

impl Subscriptions {
    /// Whether they belong to the same session.
    pub(super) fn is_of(&self, other: &Subscriptions) -> bool {
        self.broker == other.broker && self.client_id == other.client_id
    }
}

/// What to say to the broker after a connection was made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Filters that are no longer wanted.
    pub(super) unsubscribe: Vec<String>,
    /// Whether to subscribe to all filters.
    pub(super) subscribe: bool,
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    path: PathBuf,
}

impl Memory {
    /// In the topology's folder, one file per node.
    pub(super) fn new(data_dir: &Path, node: &str) -> Memory {
        Memory { path: data_dir.join(format!("mqtt-{node}.json")) }
    }

    /// Reads it; a file that cannot be read counts as absent.
    pub(super) fn read(&self) -> Option<Subscriptions> {
        let bytes = std::fs::read(&self.path).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Replaces it.
    ///
    /// # Errors
    /// A sentence naming the file.
    pub(super) fn write(&self, now: &Subscriptions) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("cannot write {}: {error}", self.path.display());
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let bytes = serde_json::to_vec(now).map_err(|error| error.to_string())?;
        write_atomically(&self.path, &[&bytes]).map_err(failed)
    }
}

/// What has to be said so that the broker's session has the filters of `now`.
pub(super) fn plan(before: Option<&Subscriptions>, now: &Subscriptions, session_present: bool) -> Plan {
    let known = before.filter(|before| before.is_of(now));
    match known {
        Some(before) if session_present => Plan {
            unsubscribe: before.filters.iter().filter(|old| !now.filters.contains(old)).cloned().collect(),
            subscribe: before.qos != now.qos || now.filters.iter().any(|new| !before.filters.contains(new)),
        },
        // A fresh session, or one of which nothing is known here.
        Some(_) | None => Plan { unsubscribe: Vec::new(), subscribe: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(filters: &[&str]) -> Subscriptions {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        Subscriptions { broker: "b:1883".into(), client_id: "c".into(), filters, qos: 1 }
    }

    #[test]
    fn says_only_what_changed() {
        let (old, new) = (topics(&["a", "b"]), topics(&["b", "c"]));
        let plan_of = |before: Option<&Subscriptions>, now: &Subscriptions, present: bool| {
            let Plan { unsubscribe, subscribe } = plan(before, now, present);
            (unsubscribe, subscribe)
        };
        assert_eq!(plan_of(Some(&old), &new, true), (vec!["a".to_owned()], true));
        assert_eq!(plan_of(Some(&new), &new, true), (vec![], false));
        assert_eq!(plan_of(Some(&old), &new, false), (vec![], true));
        assert_eq!(plan_of(None, &new, true), (vec![], true));
        let elsewhere = Subscriptions { broker: "other:1883".into(), ..old };
        assert_eq!(plan_of(Some(&elsewhere), &new, true), (vec![], true));
    }

    #[test]
    fn is_remembered_and_a_broken_file_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let memory = Memory::new(folder.path(), "n");
        assert_eq!(memory.read(), None);
        memory.write(&topics(&["a"])).expect("is written");
        assert_eq!(memory.read(), Some(topics(&["a"])));
        std::fs::write(folder.path().join("mqtt-n.json"), "{").expect("is written");
        assert_eq!(memory.read(), None);
    }
}
