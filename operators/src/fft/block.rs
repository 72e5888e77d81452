//! Samples of a key, gathered until they are a block. Pure.

use std::collections::VecDeque;

/// How blocks lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) rows: usize,
    /// Rows from the beginning of a block to that of the next.
    pub(super) hop: usize,
    /// A block with a gap gives nothing.
    pub(super) drops_gaps: bool,
    /// Samples in a second, if the file says so.
    pub(super) rate: Option<f64>,
}

/// Two samples this many periods apart have a gap between them: a device's
/// clock shakes by less, and one lost sample is more.
const GAP_PERIODS: f64 = 1.5;

const MICROS: f64 = 1e6;

/// Samples that are no whole block yet, and their times in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Block {
    pub(super) times: VecDeque<i64>,
    pub(super) samples: VecDeque<f64>,
}

/// A block without a gap.
#[derive(Debug, PartialEq)]
pub(super) struct Whole {
    pub(super) start_us: i64,
    pub(super) samples: Vec<f64>,
    /// Samples in a second; `None` where all have one time.
    pub(super) rate: Option<f64>,
}

impl Block {
    /// The next sample, in order of time; `None` where there was none to be had.
    pub(super) fn push(&mut self, frame: &Frame, at_us: i64, sample: Option<f64>) -> Option<Whole> {
        let Some(sample) = sample.filter(|sample| sample.is_finite()) else {
            if frame.drops_gaps {
                self.drop_first(self.samples.len());
            }
            return None;
        };
        self.times.push_back(at_us);
        self.samples.push_back(sample);
        if self.samples.len() < frame.rows {
            return None;
        }
        if let Some(behind) = self.last_gap(frame).filter(|_| frame.drops_gaps) {
            self.drop_first(behind);
            return None;
        }
        let (first_us, last_us) = (*self.times.front()?, *self.times.back()?);
        let span_us = last_us.saturating_sub(first_us) as f64;
        let measured = (frame.rows.saturating_sub(1)) as f64 * MICROS / span_us;
        let rate = frame.rate.or((span_us > 0.0).then_some(measured));
        let whole = Whole { start_us: first_us, samples: self.samples.iter().copied().collect(), rate };
        self.drop_first(frame.hop);
        Some(whole)
    }

    fn drop_first(&mut self, count: usize) {
        self.times.drain(..count.min(self.times.len()));
        self.samples.drain(..count.min(self.samples.len()));
    }

    /// The first sample behind the last gap.
    fn last_gap(&self, frame: &Frame) -> Option<usize> {
        let spans =
            || self.times.iter().zip(self.times.iter().skip(1)).map(|(from, to)| to.saturating_sub(*from));
        let period_us = match frame.rate {
            Some(rate) => MICROS / rate,
            None => {
                let mut all: Vec<i64> = spans().collect();
                let middle = all.len() / 2;
                if all.is_empty() {
                    return None;
                }
                *all.select_nth_unstable(middle).1 as f64
            }
        };
        let last = spans().enumerate().rfind(|(_, span)| *span as f64 > GAP_PERIODS * period_us);
        last.map(|(before, _)| before + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame { rows: 4, hop: 2, drops_gaps: true, rate: None };

    /// Start, first sample and rate of each block; samples are their times.
    fn blocks(frame: &Frame, times: &[(i64, bool)]) -> Vec<(i64, f64, Option<f64>)> {
        let mut block = Block::default();
        let pushed = times.iter().filter_map(|(at, good)| {
            let sample = good.then_some(*at as f64);
            block.push(frame, *at, sample).map(|whole| (whole.start_us, whole.samples[0], whole.rate))
        });
        pushed.collect()
    }

    fn good(times: &[i64]) -> Vec<(i64, bool)> {
        times.iter().map(|at| (*at, true)).collect()
    }

    #[test]
    fn blocks_overlap() {
        let found = blocks(&FRAME, &good(&[0, 10, 20, 30, 40, 50, 60, 70]));
        let rate = Some(100_000.0);
        assert_eq!(found, [(0, 0.0, rate), (20, 20.0, rate), (40, 40.0, rate)]);
        let whole = Frame { hop: 4, ..FRAME };
        assert_eq!(blocks(&whole, &good(&[0, 10, 20, 30, 40, 50, 60])), [(0, 0.0, rate)]);
    }

    #[test]
    fn a_gap_ends_a_block_and_the_next_begins_behind_it() {
        let times = [0, 10, 20, 40, 50, 60, 70, 80];
        let rate = Some(100_000.0);
        assert_eq!(blocks(&FRAME, &good(&times)), [(40, 40.0, rate)]);
        let known = Frame { rate: Some(100_000.0), ..FRAME };
        assert_eq!(blocks(&known, &good(&times)), [(40, 40.0, rate)]);
        let shaking = [0, 11, 19, 31];
        assert_eq!(blocks(&known, &good(&shaking)).len(), 1, "clocks shake");
        let kept = Frame { drops_gaps: false, ..FRAME };
        assert_eq!(blocks(&kept, &good(&times)).len(), 3);
    }

    #[test]
    fn a_missing_value_is_a_gap() {
        let mut times = good(&[0, 10, 20, 30, 40, 50, 60]);
        times[2].1 = false;
        assert_eq!(blocks(&FRAME, &times), [(30, 30.0, Some(100_000.0))]);
        let kept = Frame { drops_gaps: false, ..FRAME };
        assert_eq!(blocks(&kept, &times)[0].0, 0);
    }

    #[test]
    fn samples_of_one_instant_need_a_rate() {
        let burst = [5, 5, 5, 5];
        assert_eq!(blocks(&FRAME, &good(&burst)), [(5, 5.0, None)]);
        let known = Frame { rate: Some(8.0), ..FRAME };
        assert_eq!(blocks(&known, &good(&burst)), [(5, 5.0, Some(8.0))]);
        // A missing one moves all behind it, although times do not tell.
        let torn = [(5, true), (5, true), (5, false), (5, true), (5, true), (5, true), (5, true)];
        assert_eq!(blocks(&known, &torn[..6]), []);
        assert_eq!(blocks(&known, &torn).len(), 1);
    }
}
