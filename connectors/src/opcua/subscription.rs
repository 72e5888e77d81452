//! Sequence numbers of a subscription: what is missing, what has been seen,
//! what may be acknowledged. Pure.

use std::collections::VecDeque;

/// The last number before it wraps to 1 (OPC UA Part 4, section 5.13.1).
const SEQUENCE_MAX: u32 = u32::MAX;

/// What is known of a subscription's messages.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// The last number seen; 0 before the first.
    last: u32,
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
        if self.last == 0 || ahead > SEQUENCE_MAX / 2 {
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
        self.last != 0 && number.wrapping_sub(self.expected()) > SEQUENCE_MAX / 2
    }

    /// A message with data has been seen; answers its ticket.
    pub(crate) fn seen(&mut self, number: u32) -> u64 {
        self.last = number;
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

    /// Takes the numbers to acknowledge with the next publish.
    pub(crate) fn take_acknowledgements(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.acknowledgeable)
    }

    /// Gives back what a failed publish did not deliver.
    pub(crate) fn give_back(&mut self, numbers: Vec<u32>) {
        self.acknowledgeable.extend(numbers);
    }

    /// A new subscription counts from 1; tickets go on.
    pub(crate) fn restart(&mut self) {
        *self = Sequence { next_ticket: self.next_ticket, ..Sequence::default() };
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
        let mut sequence = Sequence::default();
        let first = sequence.seen(1);
        sequence.seen(2);
        assert_eq!(sequence.take_acknowledgements(), [0_u32; 0]);
        sequence.durable(first);
        assert_eq!(sequence.take_acknowledgements(), [1]);
        sequence.give_back(vec![1]);
        sequence.durable(first + 1);
        assert_eq!(sequence.take_acknowledgements(), [1, 2]);
    }
}
