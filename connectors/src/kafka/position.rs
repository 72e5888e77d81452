//! Where a Kafka source stands: the next offset of each partition. Kept in
//! checkpoints, so its form is for ever; a partition keeps its index.

use serde::{Deserialize, Serialize};

/// Next offsets, in the order of the engine's partition index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offsets(pub(super) Vec<Place>);

/// One partition: topic, partition, and the offset to read next; `None` where
/// the partition belongs to another member of the group now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place(pub(super) String, pub(super) i32, pub(super) Option<i64>);

impl Offsets {
    /// The next offset of a partition.
    pub(super) fn next(&self, topic: &str, partition: i32) -> Option<i64> {
        let place = self.0.iter().find(|place| place.1 == partition && place.0 == topic)?;
        place.2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_engine::source::Position;

    #[test]
    fn the_form_in_checkpoints_does_not_change() {
        let offsets = Offsets(vec![Place("orders".into(), 0, Some(1042)), Place("orders".into(), 1, None)]);
        let position = Position::of(&offsets);
        assert_eq!(position.0.as_ref(), br#"[["orders",0,1042],["orders",1,null]]"#);
        let back: Offsets = position.read().expect("reads what it wrote");
        assert_eq!(back.next("orders", 0), Some(1042));
        assert_eq!(back.next("orders", 1), None);
        assert_eq!(back.next("other", 0), None);
    }
}
