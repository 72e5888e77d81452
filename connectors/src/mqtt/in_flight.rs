//! Packet ids of what we have sent and what is still to come for each. A
//! packet that answers something else than what was sent ends the connection:
//! believing it could call a message delivered that is not.

use std::collections::HashMap;

use super::link::Broken;

/// What the broker still has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaits {
    /// PUBACK for a QoS 1 message.
    PubAck,
    /// PUBREC for a QoS 2 message.
    PubRec,
    /// PUBCOMP for a QoS 2 message.
    PubComp,
    /// SUBACK.
    SubAck,
    /// UNSUBACK.
    UnsubAck,
}

/// All of one connection.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    last: u16,
    open: HashMap<u16, Awaits>,
}

impl InFlight {
    /// An id for a new packet; the least lately used ones come first.
    ///
    /// # Errors
    /// All ids are in use.
    pub(super) fn take(&mut self, awaits: Awaits) -> Result<u16, Broken> {
        for _ in 0..u16::MAX {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.open.contains_key(&self.last) {
                self.open.insert(self.last, awaits);
                return Ok(self.last);
            }
        }
        Err(Broken::Lost("the broker leaves every message without an answer".into()))
    }

    /// An answer came: what is awaited next, if anything.
    ///
    /// # Errors
    /// Nothing of this kind was awaited.
    pub(super) fn answered(&mut self, id: u16, what: Awaits, next: Option<Awaits>) -> Result<(), Broken> {
        match self.open.get_mut(&id) {
            Some(awaits) if *awaits == what => match next {
                Some(next) => *awaits = next,
                None => drop(self.open.remove(&id)),
            },
            other => {
                let instead = other.map_or("nothing".to_owned(), |awaits| format!("{awaits:?}"));
                return Err(Broken::Lost(format!(
                    "the broker sends {what:?} for packet {id}, where {instead} was due"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_zero_and_never_taken_twice() {
        let mut all = InFlight::default();
        let first: Vec<_> = (0..u16::MAX).map(|_| all.take(Awaits::PubAck)).collect();
        assert_eq!(first, (1..=u16::MAX).map(Ok).collect::<Vec<_>>());
        assert!(all.take(Awaits::PubAck).is_err());
        assert_eq!(all.answered(700, Awaits::PubAck, None), Ok(()));
        assert_eq!(all.take(Awaits::SubAck), Ok(700));
    }

    #[test]
    fn only_the_answer_that_is_due_is_believed() {
        let mut all = InFlight::default();
        assert_eq!(all.take(Awaits::PubRec), Ok(1));
        for wrong in [Awaits::PubAck, Awaits::PubComp, Awaits::SubAck] {
            assert!(all.answered(1, wrong, None).is_err(), "{wrong:?}");
        }
        assert_eq!(all.answered(1, Awaits::PubRec, Some(Awaits::PubComp)), Ok(()));
        assert!(all.answered(1, Awaits::PubRec, None).is_err());
        assert_eq!(all.answered(1, Awaits::PubComp, None), Ok(()));
        assert!(all.answered(1, Awaits::PubComp, None).is_err());
    }
}
