//! Answers that are remembered for a time, and no more than so many: the oldest
//! are forgotten first. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::{Answer, Key};

/// Most bytes of answers, whatever number of keys is asked for.
const BYTES_MAX: usize = 256 << 20;

/// The memory of a look-up.
pub(super) struct Cache {
    size: usize,
    bytes_max: usize,
    bytes: usize,
    keep: Duration,
    answers: HashMap<Key, (Instant, Answer)>,
    /// Keys in the order they came, with when.
    order: VecDeque<(Instant, Key)>,
}

impl Cache {
    pub(super) fn new(size: usize, keep: Duration) -> Cache {
        let (answers, order) = (HashMap::new(), VecDeque::new());
        Cache { size, bytes_max: BYTES_MAX, bytes: 0, keep, answers, order }
    }

    /// The answer, if it is still good.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Answer> {
        let (since, answer) = self.answers.get(key)?;
        (now.duration_since(*since) < self.keep).then(|| answer.clone())
    }

    pub(super) fn put(&mut self, key: Key, answer: Answer, now: Instant) {
        if self.size == 0 || self.keep.is_zero() {
            return;
        }
        self.forget(&key);
        let bytes = bytes_of(&key, &answer);
        while self.answers.len() >= self.size || self.bytes.saturating_add(bytes) > self.bytes_max {
            let Some((since, oldest)) = self.order.pop_front() else { break };
            // One that was asked for again stands further behind as well.
            if self.answers.get(&oldest).is_some_and(|(known, _)| *known == since) {
                self.forget(&oldest);
            }
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.order.push_back((now, key.clone()));
        self.answers.insert(key, (now, answer));
        if self.order.len() > self.size.saturating_mul(2) {
            let answers = &self.answers;
            self.order.retain(|(since, key)| answers.get(key).is_some_and(|(known, _)| known == since));
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some((_, answer)) = self.answers.remove(key) {
            self.bytes = self.bytes.saturating_sub(bytes_of(key, &answer));
        }
    }
}

fn bytes_of(key: &Key, answer: &Answer) -> usize {
    answer.bytes().saturating_add(key.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_good_for_a_time_and_the_oldest_go_first() {
        let key = |byte: u8| -> Key { [byte].into() };
        let now = Instant::now();
        let mut cache = Cache::new(2, Duration::from_secs(10));
        cache.put(key(1), Answer::nothing(), now);
        cache.put(key(2), Answer::nothing(), now + Duration::from_secs(1));
        assert!(cache.get(&key(1), now + Duration::from_secs(9)).is_some());
        assert!(cache.get(&key(1), now + Duration::from_secs(10)).is_none(), "too old");
        // Asked for again, it is no longer the oldest.
        cache.put(key(1), Answer::nothing(), now + Duration::from_secs(11));
        cache.put(key(3), Answer::nothing(), now + Duration::from_secs(11));
        let at = now + Duration::from_secs(11);
        assert!(cache.get(&key(1), at).is_some() && cache.get(&key(3), at).is_some());
        assert_eq!(cache.answers.len(), 2);
        for round in 0..100 {
            cache.put(key(1), Answer::nothing(), at + Duration::from_secs(round));
        }
        assert!(cache.order.len() <= 4, "{}", cache.order.len());
    }
    #[tokio::test(start_paused = true)]
    async fn answers_have_a_limit_in_bytes_too() {
        let key = |byte: u8| -> Key { [byte].into() };
        let now = Instant::now();
        let mut cache = Cache::new(1_000, Duration::from_secs(10));
        cache.bytes_max = 1_000;
        for byte in 0..100 {
            cache.put(key(byte), Answer::failed(&"x".repeat(299)), now);
            cache.put(key(byte), Answer::failed(&"x".repeat(299)), now);
            assert!(cache.bytes <= 1_000 && cache.bytes == cache.answers.len() * 300, "{}", cache.bytes);
        }
        assert!((97..100).all(|byte| cache.get(&key(byte), now).is_some()));
        assert_eq!(cache.answers.len(), 3);
    }
}
