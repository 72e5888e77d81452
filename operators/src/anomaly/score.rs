//! How far a value lies from what is usual for its key. Pure: values go in,
//! scores come out.
//!
//! Formulas: z-score and the modified z-score of Iglewicz and Hoaglin (NIST
//! e-Handbook 1.3.5.17), EWMA chart (6.3.2.4), tabular CUSUM (6.3.2.3).

use std::collections::VecDeque;

/// What is called unusual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Method {
    /// Distance from the mean of the last values, in standard deviations.
    ZScore,
    /// Distance from their median, in median absolute deviations.
    Mad,
    /// Exponentially weighted mean of all values, in its standard deviations;
    /// `weight` is that of the newest value.
    Ewma { weight: f64 },
    /// Sum of all that lies further than `drift` from the mean, in standard
    /// deviations.
    Cusum { drift: f64, restarts: bool },
}

/// Which values can be unusual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Both,
    Above,
    Below,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) method: Method,
    pub(super) side: Side,
    /// A score beyond this is an anomaly.
    pub(super) threshold: f64,
    /// Values that are looked back on, or learned from.
    pub(super) rows: usize,
    /// Values that are needed before the first score.
    pub(super) warmup: usize,
    /// Mean and standard deviation, where they are known beforehand.
    pub(super) baseline: Option<Baseline>,
}

/// What is usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Baseline {
    pub(super) mean: f64,
    pub(super) sigma: f64,
}

/// What is remembered of a key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Memory {
    /// The last values, or those that are learned from.
    pub(super) values: VecDeque<f64>,
    /// What was learned.
    pub(super) baseline: Option<Baseline>,
    /// Values since then.
    pub(super) count: u64,
    /// The weighted mean, or the sum upwards; both in standard deviations from the mean.
    pub(super) upper: f64,
    /// The sum downwards.
    pub(super) lower: f64,
}

/// The consistency constant of the modified z-score: 0.75 quantile of the
/// normal distribution, and its like for the mean absolute deviation.
const MAD_SCALE: f64 = 0.674_5;
const MEAN_DEVIATION_SCALE: f64 = 1.253_314;

impl Memory {
    /// The value's score, and whether it is an anomaly; `None` while there is
    /// too little to compare with.
    pub(super) fn judge(&mut self, spec: &Spec, value: f64) -> Option<(f64, bool)> {
        let score = match spec.method {
            Method::ZScore | Method::Mad => self.against_last(spec, value),
            Method::Ewma { .. } | Method::Cusum { .. } => {
                self.against_baseline(spec, value).map(|distance| self.carried_on(spec, distance))
            }
        }?;
        let is_anomaly = match spec.side {
            Side::Both => score.abs() > spec.threshold,
            Side::Above => score > spec.threshold,
            Side::Below => score < -spec.threshold,
        };
        if is_anomaly && matches!(spec.method, Method::Cusum { restarts: true, .. }) {
            (self.upper, self.lower) = (0.0, 0.0);
        }
        Some((score, is_anomaly))
    }

    /// Compares with the last values, then adds this one to them.
    fn against_last(&mut self, spec: &Spec, value: f64) -> Option<f64> {
        let score = (self.values.len() >= spec.warmup).then(|| match spec.method {
            Method::Mad => self.modified(value),
            Method::ZScore | Method::Ewma { .. } | Method::Cusum { .. } => {
                let Baseline { mean, sigma } = usual(&self.values);
                in_units(value - mean, sigma)
            }
        });
        if self.values.len() >= spec.rows {
            self.values.pop_front();
        }
        self.values.push_back(value);
        score
    }

    fn modified(&self, value: f64) -> f64 {
        let median = median(self.values.iter().copied().collect());
        let deviations: Vec<f64> = self.values.iter().map(|other| (other - median).abs()).collect();
        let mean_deviation = mean(deviations.iter().copied(), deviations.len());
        let mad = self::median(deviations);
        if mad > 0.0 {
            return MAD_SCALE * (value - median) / mad;
        }
        // More than half of the values are equal.
        in_units(value - median, MEAN_DEVIATION_SCALE * mean_deviation)
    }

    /// Distance from the mean in standard deviations, once they are known.
    fn against_baseline(&mut self, spec: &Spec, value: f64) -> Option<f64> {
        let Some(baseline) = spec.baseline.or(self.baseline) else {
            self.values.push_back(value);
            if self.values.len() >= spec.rows {
                self.baseline = Some(usual(&self.values));
                self.values = VecDeque::new();
            }
            return None;
        };
        self.count = self.count.saturating_add(1);
        Some(in_units(value - baseline.mean, baseline.sigma))
    }

    fn carried_on(&mut self, spec: &Spec, distance: f64) -> f64 {
        match spec.method {
            // What is learned from equal values: a sum would stay endless.
            _ if distance.is_infinite() => distance,
            Method::Ewma { weight } => self.ewma(weight, distance),
            Method::Cusum { drift, .. } => self.cusum(spec.side, drift, distance),
            Method::ZScore | Method::Mad => distance,
        }
    }

    fn ewma(&mut self, weight: f64, distance: f64) -> f64 {
        self.upper = weight * distance + (1.0 - weight) * self.upper;
        let rows = i32::try_from(self.count.saturating_mul(2)).unwrap_or(i32::MAX);
        let left = 1.0 - (1.0 - weight).powi(rows);
        self.upper / (weight / (2.0 - weight) * left).sqrt()
    }

    /// The larger of the two sums, downwards as a negative number.
    fn cusum(&mut self, side: Side, drift: f64, distance: f64) -> f64 {
        self.upper = (self.upper + distance - drift).max(0.0);
        self.lower = (self.lower - distance - drift).max(0.0);
        let is_up = match side {
            Side::Both => self.upper >= self.lower,
            Side::Above => true,
            Side::Below => false,
        };
        if is_up { self.upper } else { -self.lower }
    }
}

/// A distance in units; where the unit is nothing, every distance is endless.
fn in_units(distance: f64, unit: f64) -> f64 {
    if distance == 0.0 { 0.0 } else { distance / unit }
}

#[allow(clippy::cast_precision_loss, reason = "there are some thousand values")]
fn mean(values: impl Iterator<Item = f64>, count: usize) -> f64 {
    values.sum::<f64>() / count as f64
}

/// Mean and standard deviation of a sample. Both are computed from all values
/// each time: sums that are carried on would drift.
fn usual(values: &VecDeque<f64>) -> Baseline {
    let mean_of = mean(values.iter().copied(), values.len());
    let squares = values.iter().map(|value| (value - mean_of) * (value - mean_of));
    let variance = mean(squares, values.len().saturating_sub(1).max(1));
    Baseline { mean: mean_of, sigma: variance.sqrt() }
}

fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    let is_even = values.len().is_multiple_of(2);
    if values.is_empty() {
        return 0.0;
    }
    let (below, at, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if !is_even {
        return *at;
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    f64::midpoint(lower, *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Spec =
        Spec { method: Method::ZScore, side: Side::Both, threshold: 3.0, rows: 5, warmup: 3, baseline: None };

    fn scores(spec: &Spec, values: &[f64]) -> Vec<Option<(f64, bool)>> {
        let mut memory = Memory::default();
        values.iter().map(|value| memory.judge(spec, *value)).collect()
    }

    /// NIST e-Handbook 6.3.2.4: EWMA values of twenty measurements.
    #[test]
    fn ewma_is_that_of_the_handbook() {
        let values = [
            52.0, 47.0, 53.0, 49.3, 50.1, 47.0, 51.0, 50.1, 51.2, 50.5, 49.6, 47.6, 49.9, 51.3, 47.8, 51.2,
            52.6, 52.4, 53.6, 52.1,
        ];
        let table = [
            50.60, 49.52, 50.56, 50.18, 50.16, 49.21, 49.75, 49.85, 50.26, 50.33, 50.11, 49.36, 49.52, 50.05,
            49.38, 49.92, 50.73, 51.23, 51.94, 51.99,
        ];
        let sigma = 2.053_9;
        let spec = Spec {
            method: Method::Ewma { weight: 0.3 },
            baseline: Some(Baseline { mean: 50.0, sigma }),
            ..PLAIN
        };
        let mut memory = Memory::default();
        for (value, expected) in values.iter().zip(table) {
            let (score, is_anomaly) = memory.judge(&spec, *value).expect("the baseline is known");
            assert!((50.0 + sigma * memory.upper - expected).abs() < 0.011, "{expected} at {value}");
            assert!(!is_anomaly, "all are within the limits: {score}");
        }
        // The upper limit there is 52.5884, that after many values.
        memory.upper = (52.588_4 - 50.0) / sigma;
        memory.count = 1_000;
        let (score, _) = memory.judge(&spec, 52.588_4).expect("a score");
        assert!((score - 3.0).abs() < 1e-3, "{score}");
    }

    /// NIST e-Handbook 6.3.2.3: the tabular CUSUM with k = 0.3175 and h = 4.1959.
    #[test]
    fn cusum_is_that_of_the_handbook() {
        let values = [
            324.925, 324.675, 324.725, 324.350, 325.350, 325.225, 324.125, 324.525, 325.225, 324.600,
            324.625, 325.150, 328.325, 327.250, 327.825, 328.500, 326.675, 327.775, 326.875, 328.350,
        ];
        let upper = [
            0.00, 0.00, 0.00, 0.00, 0.03, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 3.01, 4.94, 7.45, 10.63,
            11.99, 14.44, 16.00, 19.04,
        ];
        let lower = [
            0.00, 0.01, 0.00, 0.33, 0.00, 0.00, 0.56, 0.72, 0.17, 0.25, 0.31, 0.00, 0.00, 0.00, 0.00, 0.00,
            0.00, 0.00, 0.00, 0.00,
        ];
        let sigma = 0.635;
        let spec = Spec {
            method: Method::Cusum { drift: 0.5, restarts: false },
            threshold: 4.195_9 / sigma,
            baseline: Some(Baseline { mean: 325.0, sigma }),
            ..PLAIN
        };
        let mut memory = Memory::default();
        for (index, value) in values.iter().enumerate() {
            let (_, is_anomaly) = memory.judge(&spec, *value).expect("the baseline is known");
            assert!((memory.upper * sigma - upper[index]).abs() < 0.011, "{} up", index + 1);
            assert!((memory.lower * sigma - lower[index]).abs() < 0.011, "{} down", index + 1);
            assert_eq!(is_anomaly, index >= 13, "the fourteenth is the first signal");
        }
        let restarts = Spec { method: Method::Cusum { drift: 0.5, restarts: true }, ..spec };
        let told: Vec<usize> = scores(&restarts, &values)
            .iter()
            .enumerate()
            .filter(|(_, judged)| judged.is_some_and(|(_, is_anomaly)| is_anomaly))
            .map(|(index, _)| index + 1)
            .collect();
        assert_eq!(told, [14, 16, 19], "each begins at zero behind the one before");
    }

    #[test]
    fn a_value_is_compared_with_those_before_it() {
        // Of 1 2 3 4 5: mean 3, standard deviation 1.58113883.
        let found = scores(&PLAIN, &[9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 3.0]);
        assert_eq!(found[..3], [None, None, None]);
        assert_eq!(found[3].map(|(_, is)| is), Some(false));
        let (score, is_anomaly) = found[6].expect("a score");
        assert!((score - 7.0 / 1.581_138_83).abs() < 1e-8 && is_anomaly, "{score}");
        // Of 2 3 4 5 10: mean 4.8, standard deviation 3.11448230.
        let (score, is_anomaly) = found[7].expect("a score");
        assert!((score + 1.8 / 3.114_482_3).abs() < 1e-8 && !is_anomaly, "{score}");
    }

    #[test]
    fn a_few_outliers_do_not_hide_others_from_the_median() {
        let spec = Spec { method: Method::Mad, threshold: 3.5, rows: 7, ..PLAIN };
        // Of 10 11 12 13 100: median 12, deviations 2 1 0 1 88, their median 1.
        let found = scores(&spec, &[10.0, 11.0, 12.0, 13.0, 100.0, 20.0]);
        let (score, is_anomaly) = found[5].expect("a score");
        assert!((score - 0.674_5 * 8.0).abs() < 1e-12 && is_anomaly, "{score}");
        let (z, _) = scores(&PLAIN, &[10.0, 11.0, 12.0, 13.0, 100.0, 20.0])[5].expect("a score");
        assert!(z.abs() < 0.3, "the z-score does not see it: {z}");
        // Of 5 5 5 5 6: more than half are equal, the mean deviation is 0.2.
        let found = scores(&spec, &[5.0, 5.0, 5.0, 5.0, 6.0, 7.0]);
        assert!((found[5].expect("a score").0 - 2.0 / (1.253_314 * 0.2)).abs() < 1e-9);
    }

    #[test]
    fn where_nothing_changed_every_change_is_an_anomaly() {
        for method in [Method::ZScore, Method::Mad, Method::Ewma { weight: 0.2 }] {
            let spec = Spec { method, rows: 3, ..PLAIN };
            let found = scores(&spec, &[2.0, 2.0, 2.0, 2.0, 1.0]);
            assert_eq!(found[3], Some((0.0, false)), "{method:?}");
            assert_eq!(found[4], Some((f64::NEG_INFINITY, true)), "{method:?}");
        }
    }

    #[test]
    fn one_side_only() {
        let above = Spec { side: Side::Above, ..PLAIN };
        let values = [1.0, 2.0, 3.0, 2.0, -50.0];
        assert!(!scores(&above, &values)[4].expect("a score").1);
        let below = Spec { side: Side::Below, ..PLAIN };
        assert!(scores(&below, &values)[4].expect("a score").1);
        let cusum = Method::Cusum { drift: 0.5, restarts: true };
        let down = Spec { method: cusum, side: Side::Below, rows: 3, threshold: 5.0, ..PLAIN };
        assert!(scores(&down, &values)[4].expect("a score").1);
        let up = Spec { side: Side::Above, ..down };
        assert!(!scores(&up, &values)[4].expect("a score").1);
    }
}
