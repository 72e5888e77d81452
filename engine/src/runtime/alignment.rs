//! How far the sources of a topology are, so that one that runs ahead waits for
//! the slowest. Whoever has nothing to give is not waited for: it may be silent
//! for ever. `Standings` is pure; `Alignment` shares it and wakes who waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::time::Time;

/// How far a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody waits for it: it is idle, away, or has ended.
    Out,
    /// It is read, and has not given a row yet.
    Begins,
    /// Event time has come so far.
    At(Time),
}

/// All sources that have event time.
#[derive(Debug, Default)]
pub struct Standings(BTreeMap<Arc<str>, Standing>);

impl Standings {
    /// Takes what a source says of itself; answers whether it is news.
    pub fn set(&mut self, source: &Arc<str>, standing: Standing) -> bool {
        self.0.insert(Arc::clone(source), standing) != Some(standing)
    }

    /// Whether a source is more than `drift_us` ahead of the slowest of the others.
    #[must_use]
    pub fn is_ahead(&self, source: &str, drift_us: i64) -> bool {
        let Some(Standing::At(own)) = self.0.get(source) else { return false };
        let others = self.0.iter().filter(|(name, _)| name.as_ref() != source);
        let slowest = others.filter_map(|(_, standing)| match standing {
            Standing::Out => None,
            Standing::Begins => Some(i64::MIN),
            Standing::At(time) => Some(time.0),
        });
        slowest.min().is_some_and(|slowest| own.0 > slowest.saturating_add(drift_us))
    }
}

/// How one source stands. Apart from idleness of watermarks, which asks whether
/// silence is to be believed: whoever others wait for in vain is out, whatever
/// is known of its peer. Its rows may be late for nobody, since watermarks wait.
#[derive(Debug)]
pub(super) struct Stands {
    /// Event time as told last.
    reached: Option<Time>,
    /// When it rose, or the source was opened.
    risen_at: Instant,
    /// It is open, or has not been yet.
    is_open: bool,
    /// It has been open.
    has_begun: bool,
    /// The rows that came last could all not be used.
    gives_rejects: bool,
}

impl Stands {
    /// Whoever is about to open is waited for as long as whoever is silent.
    pub(super) fn new(now: Instant) -> Stands {
        Stands { reached: None, risen_at: now, is_open: true, has_begun: false, gives_rejects: false }
    }

    /// Its peer is there.
    pub(super) fn opened(&mut self, now: Instant) {
        (self.is_open, self.has_begun, self.risen_at) = (true, true, now);
    }

    /// Its peer is away.
    pub(super) fn lost(&mut self) {
        self.is_open = !self.has_begun;
    }

    /// It has given rows, some of which can be used or none.
    pub(super) fn gave(&mut self, any: bool) {
        self.gives_rejects = !any;
    }

    /// Event time of its rows has come to `reached`. With rows in transit it is
    /// busy, or held up by whoever reads them.
    pub(super) fn judge(
        &mut self,
        reached: Option<Time>,
        is_idle: bool,
        nothing_in_transit: bool,
        idle: Duration,
        now: Instant,
    ) -> Standing {
        if reached > self.reached {
            (self.reached, self.risen_at) = (reached, now);
        }
        let is_still = now.saturating_duration_since(self.risen_at) >= idle;
        if !self.is_open || is_idle || (is_still && (nothing_in_transit || self.gives_rejects)) {
            return Standing::Out;
        }
        reached.map_or(Standing::Begins, Standing::At)
    }
}

/// The standings of a running topology.
#[derive(Debug)]
pub(super) struct Alignment {
    standings: Mutex<Standings>,
    news: watch::Sender<u64>,
}

impl Alignment {
    /// No source has said anything. All that have event time begin, so that the
    /// first to start does not run ahead of those that are about to.
    pub(super) fn new<'a>(sources: impl Iterator<Item = &'a str>) -> Arc<Alignment> {
        let standings = Standings(sources.map(|name| (name.into(), Standing::Begins)).collect());
        Arc::new(Alignment { standings: Mutex::new(standings), news: watch::Sender::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Standings> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A source says how far it is.
    pub(super) fn set(&self, source: &Arc<str>, standing: Standing) {
        let is_news = self.lock().set(source, standing);
        if is_news {
            self.news.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Whether a source waits.
    pub(super) fn is_ahead(&self, source: &str, drift_us: i64) -> bool {
        self.lock().is_ahead(source, drift_us)
    }

    /// Wakes whoever waits when a standing has changed.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_waited_for_in_vain_is_out() {
        let start = Instant::now();
        let (idle, at) = (Duration::from_secs(10), |seconds| start + Duration::from_secs(seconds));
        let mut stands = Stands::new(start);
        let judge = |stands: &mut Stands, reached: Option<i64>, is_empty, seconds| {
            stands.judge(reached.map(Time), false, is_empty, idle, at(seconds))
        };
        stands.lost();
        assert_eq!(judge(&mut stands, None, true, 9), Standing::Begins, "it may still come");
        assert_eq!(judge(&mut stands, None, true, 10), Standing::Out);
        stands.opened(at(11));
        assert_eq!(judge(&mut stands, None, true, 20), Standing::Begins);
        assert_eq!(judge(&mut stands, Some(5), true, 20), Standing::At(Time(5)));
        assert_eq!(judge(&mut stands, Some(5), true, 29), Standing::At(Time(5)));
        // Nothing comes and nothing is known of its peer.
        assert_eq!(judge(&mut stands, Some(5), true, 30), Standing::Out);
        assert_eq!(judge(&mut stands, Some(5), false, 30), Standing::At(Time(5)), "rows wait for a reader");
        stands.gave(false);
        assert_eq!(judge(&mut stands, Some(5), false, 30), Standing::Out, "rows that can all not be used");
        stands.gave(true);
        assert_eq!(judge(&mut stands, Some(6), true, 31), Standing::At(Time(6)));
        stands.lost();
        assert_eq!(judge(&mut stands, Some(6), true, 31), Standing::Out);
    }

    #[test]
    fn only_those_that_give_rows_are_waited_for() {
        let (a, b, c): (Arc<str>, Arc<str>, Arc<str>) = ("a".into(), "b".into(), "c".into());
        let mut standings = Standings::default();
        assert!(standings.set(&a, Standing::At(Time(20))));
        assert!(!standings.is_ahead("a", 5), "alone");
        standings.set(&b, Standing::Begins);
        assert!(standings.is_ahead("a", 5), "b is read and has given nothing");
        assert!(!standings.is_ahead("b", 5));
        standings.set(&b, Standing::At(Time(15)));
        assert!(!standings.is_ahead("a", 5), "not more than five");
        assert!(standings.is_ahead("a", 4));
        assert!(!standings.set(&b, Standing::At(Time(15))), "no news");
        standings.set(&c, Standing::At(Time(0)));
        assert!(standings.is_ahead("a", 5) && standings.is_ahead("b", 5));
        assert!(!standings.is_ahead("c", 5), "the slowest never waits");
        standings.set(&c, Standing::Out);
        assert!(!standings.is_ahead("a", 5));
        standings.set(&b, Standing::Out);
        assert!(!standings.is_ahead("a", 0), "nobody is left to wait for");
    }
}
