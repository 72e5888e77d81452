//! Rows that wait for their answers, in the order they came, with the watermarks
//! between them: no watermark leaves before a row that came before it. Pure.

use std::collections::VecDeque;

use arrow::array::RecordBatch;

use super::{Answer, Key};
use crate::event::Watermark;
use crate::lookup::Order;

/// What waits.
pub(super) enum Entry {
    Rows(Waiting),
    Watermark(Watermark),
}

/// Rows of one batch.
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) batch: RecordBatch,
    /// Which of the keys each row has; `None`: one with a NULL, of which
    /// nothing is known.
    pub(super) rows: Vec<Option<usize>>,
    /// The answer to each key.
    pub(super) answers: Vec<Option<Answer>>,
    pub(super) missing: usize,
}

/// All that waits.
pub(super) struct Queue {
    order: Order,
    entries: VecDeque<Entry>,
    rows: usize,
    next: u64,
}

impl Queue {
    pub(super) fn new(order: Order) -> Queue {
        Queue { order, entries: VecDeque::new(), rows: 0, next: 0 }
    }

    /// Rows that wait.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of the next rows.
    pub(super) fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if let Entry::Rows(waiting) = &entry {
            self.rows += waiting.batch.num_rows();
        }
        self.entries.push_back(entry);
    }

    /// An answer has come for a key of these rows.
    pub(super) fn answer(&mut self, (id, key): (u64, usize), answer: Answer) {
        let rows = self.entries.iter_mut().find_map(|entry| match entry {
            Entry::Rows(waiting) if waiting.id == id => Some(waiting),
            Entry::Rows(_) | Entry::Watermark(_) => None,
        });
        let Some(waiting) = rows else { return };
        if let Some(place) = waiting.answers.get_mut(key).filter(|place| place.is_none()) {
            *place = Some(answer);
            waiting.missing -= 1;
        }
    }

    /// What may leave now.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let is_ready = |entry: &Entry| match entry {
            Entry::Rows(waiting) => waiting.missing == 0,
            Entry::Watermark(_) => true,
        };
        let at = match self.order {
            _ if self.entries.front().is_some_and(is_ready) => 0,
            Order::Rows => return None,
            Order::Any => {
                self.entries.iter().position(|entry| is_ready(entry) && matches!(entry, Entry::Rows(_)))?
            }
        };
        let entry = self.entries.remove(at)?;
        if let Entry::Rows(waiting) = &entry {
            self.rows -= waiting.batch.num_rows();
        }
        Some(entry)
    }
}

/// Keys that somebody waits for: who, and whether they have been asked for.
#[derive(Default)]
pub(super) struct Asked {
    waiters: std::collections::HashMap<Key, Vec<(u64, usize)>>,
    /// Keys that no request has yet.
    todo: VecDeque<Key>,
}

impl Asked {
    /// Somebody waits for a key; it is asked for once.
    pub(super) fn ask(&mut self, key: &Key, waiter: (u64, usize)) {
        if let Some(waiters) = self.waiters.get_mut(key) {
            waiters.push(waiter);
            return;
        }
        self.waiters.insert(key.clone(), vec![waiter]);
        self.todo.push_back(key.clone());
    }

    /// Keys that no request has yet.
    pub(super) fn todo(&self) -> usize {
        self.todo.len()
    }

    /// Keys for the next request.
    pub(super) fn next(&mut self, keys_max: usize) -> Option<Vec<Key>> {
        let count = self.todo.len().min(keys_max.max(1));
        (count > 0).then(|| self.todo.drain(..count).collect())
    }

    /// An answer to the key is there: who has waited for it?
    pub(super) fn answered(&mut self, key: &Key) -> Vec<(u64, usize)> {
        self.waiters.remove(key).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::time::Time;

    fn rows(queue: &mut Queue, count: usize) -> u64 {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![0; count]));
        let batch = RecordBatch::try_from_iter([("a", column)]).expect("a batch");
        let id = queue.id();
        let (rows, answers) = (vec![Some(0); count], vec![None]);
        queue.push(Entry::Rows(Waiting { id, batch, rows, answers, missing: 1 }));
        id
    }

    fn left(queue: &mut Queue) -> Vec<String> {
        let mut left = Vec::new();
        while let Some(entry) = queue.pop() {
            left.push(match entry {
                Entry::Rows(waiting) => format!("{} rows", waiting.batch.num_rows()),
                Entry::Watermark(watermark) => format!("{watermark:?}"),
            });
        }
        left
    }

    #[test]
    fn rows_leave_in_order_or_as_they_are_ready_and_no_watermark_overtakes() {
        for (order, first) in [(Order::Rows, vec![]), (Order::Any, vec!["2 rows"])] {
            let mut queue = Queue::new(order);
            let one = rows(&mut queue, 1);
            queue.push(Entry::Watermark(Watermark::Time(Time(5))));
            let two = rows(&mut queue, 2);
            queue.answer((two, 0), Answer::nothing());
            queue.answer((two, 0), Answer::nothing());
            assert_eq!(left(&mut queue), first, "{order:?}");
            queue.answer((one, 0), Answer::nothing());
            let rest = if order == Order::Rows {
                vec!["1 rows", "Time(Time(5))", "2 rows"]
            } else {
                vec!["1 rows", "Time(Time(5))"]
            };
            assert_eq!(left(&mut queue), rest);
            assert!(queue.is_empty() && queue.rows() == 0);
        }
    }

    #[test]
    fn a_key_is_asked_for_once_while_somebody_waits() {
        let key = |byte: u8| -> Key { [byte].into() };
        let mut asked = Asked::default();
        for (number, byte) in [1, 2, 1, 3].into_iter().enumerate() {
            asked.ask(&key(byte), (0, number));
        }
        assert_eq!(asked.next(2), Some(vec![key(1), key(2)]));
        asked.ask(&key(1), (1, 0));
        assert_eq!(asked.next(2), Some(vec![key(3)]));
        assert_eq!(asked.next(2), None);
        assert_eq!(asked.answered(&key(1)), [(0, 0), (0, 2), (1, 0)]);
        asked.ask(&key(1), (2, 0));
        assert_eq!(asked.next(2), Some(vec![key(1)]), "it is asked for again");
    }
}
