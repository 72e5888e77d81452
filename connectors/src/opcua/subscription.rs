//! Sequence numbers of a subscription: what is missing, what has been seen,
//! what may be acknowledged. No message is acknowledged before it is durable.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The last number before it wraps to 1 (OPC UA Part 4, section 5.13.1).
const SEQUENCE_MAX: u32 = u32::MAX;

/// Sequence numbers, shared with the committer.
pub(crate) type Acknowledgements = Arc<Mutex<Sequence>>;

/// Locks the sequence numbers.
pub(crate) fn sequence(shared: &Acknowledgements) -> MutexGuard<'_, Sequence> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Acknowledgements on their way: given back if they do not arrive.
#[derive(Debug)]
pub(crate) struct Acks {
    pub(crate) subscription: u32,
    pub(crate) numbers: Vec<u32>,
    home: Acknowledgements,
}

impl Acks {
    /// Everything that may be acknowledged now.
    pub(crate) fn take(home: &Acknowledgements) -> Acks {
        let mut sequence = sequence(home);
        let numbers = std::mem::take(&mut sequence.acknowledgeable);
        Acks { subscription: sequence.subscription, numbers, home: Arc::clone(home) }
    }

    /// The server has them.
    pub(crate) fn arrived(mut self) {
        self.numbers.clear();
    }
}

impl Drop for Acks {
    fn drop(&mut self) {
        let mut sequence = sequence(&self.home);
        // Another subscription has the same numbers for other messages.
        if sequence.subscription == self.subscription {
            sequence.acknowledgeable.append(&mut self.numbers);
        }
    }
}

/// What is known of a subscription's messages.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// The subscription's number at the server.
    subscription: u32,
    /// The last number seen; 0 before the first.
    last: u32,
    /// Whether it is known which number comes next.
    is_known: bool,
    /// Messages handed on, by ticket, until they may be acknowledged.
    unacknowledged: VecDeque<(u64, u32)>,
    next_ticket: u64,
    acknowledgeable: Vec<u32>,
}

impl Sequence {
    /// The number that comes next.
    pub(crate) fn expected(&self) -> u32 {
        after(self.last)
    }

    /// Numbers that are missing before `number`; none for an old one.
    pub(crate) fn missing_before(&self, number: u32) -> Vec<u32> {
        let ahead = number.wrapping_sub(self.expected());
        // Over half the range ahead is behind: a repeat.
        if !self.is_known || ahead > SEQUENCE_MAX / 2 {
            return Vec::new();
        }
        let mut missing = Vec::new();
        let mut at = self.expected();
        // A server keeps far fewer messages than this.
        while at != number && missing.len() < 10_000 {
            missing.push(at);
            at = after(at);
        }
        missing
    }

    /// Whether this number has been seen already.
    pub(crate) fn is_repeat(&self, number: u32) -> bool {
        self.is_known && number.wrapping_sub(self.expected()) > SEQUENCE_MAX / 2
    }

    /// A message with data has been seen; answers its ticket.
    pub(crate) fn seen(&mut self, number: u32) -> u64 {
        self.last = number;
        self.is_known = true;
        self.next_ticket += 1;
        self.unacknowledged.push_back((self.next_ticket, number));
        self.next_ticket
    }

    /// Everything up to this ticket is durable.
    pub(crate) fn durable(&mut self, ticket: u64) {
        while let Some((first, number)) = self.unacknowledged.front().copied() {
            if first > ticket {
                break;
            }
            self.unacknowledged.pop_front();
            self.acknowledgeable.push(number);
        }
    }

    /// The subscription of an earlier process, read up to `last`. What the
    /// server has of before need not come again.
    pub(crate) fn take_over(&mut self, subscription: u32, last: u32, available: &[u32]) {
        self.restart(subscription);
        (self.last, self.is_known) = (last, true);
        self.acknowledgeable = available.iter().copied().filter(|number| self.is_repeat(*number)).collect();
    }

    /// Tickets of an earlier process mean nothing in this one.
    pub(crate) fn tickets_after(&mut self, ticket: u64) {
        self.next_ticket = self.next_ticket.max(ticket);
    }

    /// A new subscription counts from 1; tickets go on.
    pub(crate) fn restart(&mut self, subscription: u32) {
        *self = Sequence { subscription, next_ticket: self.next_ticket, ..Sequence::default() };
    }
}

fn after(number: u32) -> u32 {
    if number == SEQUENCE_MAX { 1 } else { number + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_missing_over_the_wrap() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.missing_before(7), [0_u32; 0], "the first message may have any number");
        sequence.seen(u32::MAX - 1);
        assert_eq!(sequence.missing_before(2), [u32::MAX, 1]);
        assert_eq!(sequence.missing_before(u32::MAX), [0_u32; 0]);
        sequence.seen(2);
        assert!(sequence.is_repeat(2) && sequence.is_repeat(1) && !sequence.is_repeat(3));
    }

    #[test]
    fn acknowledges_only_what_is_durable() {
        let home = Acknowledgements::default();
        let none: [u32; 0] = [];
        let first = sequence(&home).seen(1);
        sequence(&home).seen(2);
        assert_eq!(Acks::take(&home).numbers, none);
        sequence(&home).durable(first);
        let lost = Acks::take(&home);
        assert_eq!(lost.numbers, [1]);
        assert_eq!(Acks::take(&home).numbers, none, "on its way");
        drop(lost);
        sequence(&home).durable(first + 1);
        let both = Acks::take(&home);
        assert_eq!(both.numbers, [1, 2], "what did not arrive is sent again");
        both.arrived();
        assert_eq!(Acks::take(&home).numbers, none);
    }

    #[test]
    fn acknowledgements_of_an_old_subscription_are_not_given_to_a_new_one() {
        let home = Acknowledgements::default();
        sequence(&home).restart(7);
        let ticket = sequence(&home).seen(1);
        sequence(&home).durable(ticket);
        let old = Acks::take(&home);
        sequence(&home).restart(8);
        drop(old);
        assert_eq!(Acks::take(&home).numbers, [0_u32; 0]);
    }

    #[test]
    fn a_subscription_that_is_taken_over_goes_on_where_it_was_read() {
        let home = Acknowledgements::default();
        sequence(&home).take_over(7, 4, &[2, 3, 4, 5, 6]);
        assert_eq!(Acks::take(&home).numbers, [2, 3, 4], "they are durable");
        assert_eq!(sequence(&home).missing_before(6), [5]);
        sequence(&home).take_over(8, 0, &[1, 2]);
        assert_eq!(Acks::take(&home).numbers, [0_u32; 0]);
        assert_eq!(sequence(&home).missing_before(2), [1], "nothing was read, so the first one is missing");
        assert!(!sequence(&home).is_repeat(1));
    }
}
