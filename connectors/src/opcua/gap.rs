//! Gaps that are still to be told. An item's gap stands right before its next
//! value and is no younger than that, so that no value is late because of it: a
//! new subscription begins with values as old as their last change.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_engine::time::Time;
use tokio::time::Instant;

use super::held::{Held, Place};
use super::nodes::Item;

/// Gaps that wait for the next value of their item, and meanwhile the place
/// whose reader would tell them again.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    reasons: HashMap<Arc<Item>, Arc<str>>,
    /// When those whose item is silent are told all the same.
    until: Option<Instant>,
    /// What becomes `Place::held` when all are told.
    held: Option<Held>,
}

impl Owed {
    /// A gap of these items; those that no value follows are told at `until`.
    pub(crate) fn add(&mut self, items: Vec<Arc<Item>>, reason: &str, until: Instant, place: &Place) {
        if items.is_empty() {
            return;
        }
        if self.until.is_none() {
            self.held.clone_from(&place.held);
        }
        let reason: Arc<str> = reason.into();
        self.reasons.extend(items.into_iter().map(|item| (item, Arc::clone(&reason))));
        self.until.get_or_insert(until);
    }

    pub(crate) fn is_any(&self) -> bool {
        !self.reasons.is_empty()
    }

    /// When `rest` is due.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// The gap before a value of this time: its reason and its own time.
    pub(crate) fn before(&mut self, item: &Arc<Item>, value: Time, now: Time) -> Option<(Arc<str>, Time)> {
        let reason = self.reasons.remove(item)?;
        Some((reason, value.min(now)))
    }

    /// Every other, if it is time.
    pub(crate) fn rest(&mut self, now: Instant) -> Vec<(Arc<Item>, Arc<str>)> {
        if self.until.is_some_and(|until| until <= now) { self.reasons.drain().collect() } else { Vec::new() }
    }

    /// Another subscription may be taken over from now on.
    pub(crate) fn hold(&mut self, held: Option<Held>, place: &mut Place) {
        *self.held_in(place) = held;
    }

    /// This message of the subscription was handed on.
    pub(crate) fn read(&mut self, number: u32, place: &mut Place) {
        self.held_in(place).iter_mut().for_each(|held| held.last = number);
    }

    /// All rows so far were made: where they leave the source. Who goes on from
    /// a place before a gap was told tells it again.
    pub(crate) fn settle(&mut self, place: &mut Place) {
        if !self.is_any() && self.until.take().is_some() {
            place.held = self.held.take();
        }
    }

    fn held_in<'a>(&'a mut self, place: &'a mut Place) -> &'a mut Option<Held> {
        if self.until.is_some() { &mut self.held } else { &mut place.held }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opcua::types::NodeId;

    use super::*;

    fn item(number: u32) -> Arc<Item> {
        Arc::new(Item { node: NodeId::new(1, number), name: number.to_string().into(), tags: Vec::new() })
    }

    fn held(subscription: u32, last: u32) -> Option<Held> {
        Some(Held { subscription, last, keep_alive: Duration::ZERO, server_started: 1, asked: 1 })
    }

    #[test]
    fn a_gap_is_told_once_before_the_next_value_and_is_never_younger() {
        let (mut owed, place, due) = (Owed::default(), Place::default(), Instant::now());
        owed.add(vec![item(1), item(2), item(3)], "away", due, &place);
        assert_eq!(owed.before(&item(1), Time(5), Time(9)), Some(("away".into(), Time(5))));
        assert_eq!(owed.before(&item(1), Time(6), Time(9)), None);
        // The clock of a device may be ahead.
        assert_eq!(owed.before(&item(2), Time(12), Time(9)), Some(("away".into(), Time(9))));
        assert_eq!(owed.rest(due.checked_sub(Duration::from_millis(1)).expect("a time")), []);
        assert_eq!(owed.rest(due), [(item(3), "away".into())]);
        assert!(!owed.is_any());
    }

    #[test]
    fn a_subscription_is_not_taken_over_from_a_place_before_its_gap() {
        let (mut owed, mut place) = (Owed::default(), Place { held: held(7, 4), ..Place::default() });
        owed.add(vec![item(1), item(2)], "restarted", Instant::now(), &place);
        owed.hold(held(8, 0), &mut place);
        assert!(owed.before(&item(1), Time(1), Time(1)).is_some());
        owed.read(1, &mut place);
        owed.settle(&mut place);
        assert_eq!(place.held, held(7, 4), "its numbers are not those of the new one");
        assert!(owed.before(&item(2), Time(1), Time(1)).is_some());
        owed.read(2, &mut place);
        // Another gap, before anything was settled.
        owed.add(vec![item(1)], "lost", Instant::now(), &place);
        owed.settle(&mut place);
        assert_eq!(place.held, held(7, 4));
        assert!(owed.before(&item(1), Time(1), Time(1)).is_some());
        owed.settle(&mut place);
        assert_eq!(place.held, held(8, 2));
        owed.read(3, &mut place);
        owed.settle(&mut place);
        assert_eq!(place.held, held(8, 3), "with no gap nothing waits");
    }

    #[test]
    fn a_gap_of_lost_messages_leaves_the_place_before_them() {
        let (mut owed, mut place) = (Owed::default(), Place { held: held(7, 4), ..Place::default() });
        owed.add(vec![item(1)], "lost", Instant::now(), &place);
        owed.read(6, &mut place);
        owed.settle(&mut place);
        assert_eq!(place.held, held(7, 4));
        owed.rest(Instant::now());
        owed.settle(&mut place);
        assert_eq!(place.held, held(7, 6));
    }
}
