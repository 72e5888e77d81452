//! Answers that are remembered for a time, and no more than so many: the oldest
//! are forgotten first. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::{Answer, Key};

/// The memory of a look-up.
pub(super) struct Cache {
    size: usize,
    keep: Duration,
    answers: HashMap<Key, (Instant, Answer)>,
    /// Keys in the order they came, with when.
    order: VecDeque<(Instant, Key)>,
}

impl Cache {
    pub(super) fn new(size: usize, keep: Duration) -> Cache {
        Cache { size, keep, answers: HashMap::new(), order: VecDeque::new() }
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
        while self.answers.len() >= self.size && !self.answers.contains_key(&key) {
            let Some((since, oldest)) = self.order.pop_front() else { break };
            // One that was asked for again stands further behind as well.
            if self.answers.get(&oldest).is_some_and(|(known, _)| *known == since) {
                self.answers.remove(&oldest);
            }
        }
        self.order.push_back((now, key.clone()));
        self.answers.insert(key, (now, answer));
        if self.order.len() > self.size.saturating_mul(2) {
            let answers = &self.answers;
            self.order.retain(|(since, key)| answers.get(key).is_some_and(|(known, _)| known == since));
        }
    }
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
}
