//! What a block of samples says of a machine: its spectrum, and numbers that
//! vibration engineers look at. Pure. Every formula is numpy's, which the tests
//! compare with.

use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

/// A number that is made of a block. Frequencies are in Hz.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Feature {
    Mean,
    /// Root of the mean square.
    Rms,
    /// Root of the mean square of the distance from the mean.
    Std,
    /// Largest distance from zero.
    Peak,
    /// Largest value less the smallest.
    PeakToPeak,
    /// Peak through rms.
    Crest,
    Skewness,
    /// Fourth moment through the square of the second: 3 for normal noise.
    Kurtosis,
    /// The frequency with the largest energy.
    Dominant,
    /// The part of the mean square that lies in these frequencies.
    Band(f64, f64),
    /// The same of the signal's envelope; of the signal in the second band only,
    /// if there is one.
    Envelope((f64, f64), Option<(f64, f64)>),
}

impl Feature {
    /// The largest frequency it asks for.
    pub(super) fn highest(&self) -> Option<f64> {
        match self {
            Feature::Band(_, to) => Some(*to),
            Feature::Envelope((_, to), carrier) => Some(carrier.map_or(*to, |(_, high)| high.max(*to))),
            Feature::Mean
            | Feature::Rms
            | Feature::Std
            | Feature::Peak
            | Feature::PeakToPeak
            | Feature::Crest
            | Feature::Skewness
            | Feature::Kurtosis
            | Feature::Dominant => None,
        }
    }
}

/// A frequency may be this part of a bin beside a band's edge and counts as on it.
const EDGE: f64 = 1e-6;

/// Transforms blocks of one length.
pub(super) struct Spectrum {
    forward: Arc<dyn Fft<f64>>,
    inverse: Arc<dyn Fft<f64>>,
    /// What each sample is multiplied with before its spectrum is made.
    taper: Vec<f64>,
    /// Rows of a block.
    length: f64,
}

/// Powers of the distance from the mean, averaged.
struct Moments {
    mean: f64,
    second: f64,
    third: f64,
    fourth: f64,
    mean_square: f64,
    least: f64,
    largest: f64,
}

impl Spectrum {
    /// For blocks of so many rows; `hann` fades a block out at both ends, so that
    /// frequencies between two bins do not spread.
    pub(super) fn new(rows: usize, hann: bool) -> Spectrum {
        let mut planner = FftPlanner::new();
        let length = rows as f64;
        let hann_at = |row: usize| 0.5 - 0.5 * (std::f64::consts::TAU * row as f64 / length).cos();
        let taper = (0..rows).map(|row| if hann { hann_at(row) } else { 1.0 }).collect();
        Spectrum {
            forward: planner.plan_fft_forward(rows),
            inverse: planner.plan_fft_inverse(rows),
            taper,
            length,
        }
    }

    /// The features of a block sampled at `rate` Hz; `None` where one does not
    /// exist, such as the crest of silence or a band above half the rate.
    pub(super) fn features(
        &self,
        wanted: &[Feature],
        samples: &[f64],
        rate: Option<f64>,
    ) -> Vec<Option<f64>> {
        let moments = self.moments(samples);
        let centred: Vec<f64> = samples.iter().map(|sample| sample - moments.mean).collect();
        let bin_hz = rate.map(|rate| rate / self.length);
        let mut energies = None;
        let mut value = |feature: &Feature| match feature {
            Feature::Mean => Some(moments.mean),
            Feature::Rms => Some(moments.mean_square.sqrt()),
            Feature::Std => Some(moments.second.sqrt()),
            Feature::Peak => Some(moments.peak()),
            Feature::PeakToPeak => Some(moments.largest - moments.least),
            Feature::Crest => Some(moments.peak() / moments.mean_square.sqrt()),
            Feature::Skewness => Some(moments.third / moments.second.powf(1.5)),
            Feature::Kurtosis => Some(moments.fourth / (moments.second * moments.second)),
            Feature::Dominant => dominant(energies.get_or_insert_with(|| self.energies(&centred)))
                .zip(bin_hz)
                .map(|(bin, hz)| bin * hz),
            Feature::Band(from, to) => {
                self.band(energies.get_or_insert_with(|| self.energies(&centred)), bin_hz?, (*from, *to))
            }
            Feature::Envelope(band, carrier) => {
                let envelope = self.envelope(&centred, bin_hz?, *carrier);
                self.band(&self.energies(&envelope), bin_hz?, *band)
            }
        };
        wanted.iter().map(|feature| value(feature).filter(|value| value.is_finite())).collect()
    }

    fn moments(&self, samples: &[f64]) -> Moments {
        let average =
            |of: &dyn Fn(f64) -> f64| samples.iter().map(|sample| of(*sample)).sum::<f64>() / self.length;
        let mean = average(&|sample| sample);
        Moments {
            mean,
            second: average(&|sample| (sample - mean).powi(2)),
            third: average(&|sample| (sample - mean).powi(3)),
            fourth: average(&|sample| (sample - mean).powi(4)),
            mean_square: average(&|sample| sample * sample),
            least: samples.iter().copied().fold(f64::INFINITY, f64::min),
            largest: samples.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// Energy of each frequency from zero to half the rate; without a taper their
    /// sum is the mean square.
    fn energies(&self, centred: &[f64]) -> Vec<f64> {
        let mut bins: Vec<Complex<f64>> = centred
            .iter()
            .zip(&self.taper)
            .map(|(sample, weight)| Complex::new(sample * weight, 0.0))
            .collect();
        self.forward.process(&mut bins);
        let scale = self.length * self.taper.iter().map(|weight| weight * weight).sum::<f64>();
        let rows = bins.len();
        let one_sided = bins.iter().take(rows / 2 + 1).enumerate();
        one_sided
            .map(|(bin, value)| {
                // Its mirror image has as much; zero and half the rate have none.
                let sides = if bin == 0 || bin * 2 == rows { 1.0 } else { 2.0 };
                sides * value.norm_sqr() / scale
            })
            .collect()
    }

    /// Energy from one frequency to another, both included.
    fn band(&self, energies: &[f64], bin_hz: f64, (from, to): (f64, f64)) -> Option<f64> {
        let (from, to) = (from / bin_hz - EDGE, to / bin_hz + EDGE);
        if from > self.length / 2.0 {
            return None;
        }
        let inside = energies.iter().enumerate().filter(|(bin, _)| (from..=to).contains(&(*bin as f64)));
        Some(inside.map(|(_, energy)| energy).sum())
    }

    /// The amplitude of the analytic signal, less its mean.
    fn envelope(&self, centred: &[f64], bin_hz: f64, carrier: Option<(f64, f64)>) -> Vec<f64> {
        let mut bins: Vec<Complex<f64>> = centred.iter().map(|sample| Complex::new(*sample, 0.0)).collect();
        self.forward.process(&mut bins);
        let rows = bins.len();
        for (bin, value) in bins.iter_mut().enumerate() {
            let sides = match (bin * 2).cmp(&rows) {
                _ if bin == 0 => 1.0,
                std::cmp::Ordering::Less => 2.0,
                std::cmp::Ordering::Equal => 1.0,
                std::cmp::Ordering::Greater => 0.0,
            };
            let passes = carrier.is_none_or(|(low, high)| {
                (low / bin_hz - EDGE..=high / bin_hz + EDGE).contains(&(bin as f64))
            });
            *value *= if passes { sides / self.length } else { 0.0 };
        }
        self.inverse.process(&mut bins);
        let amplitudes: Vec<f64> = bins.iter().map(|value| value.norm()).collect();
        let mean = amplitudes.iter().sum::<f64>() / self.length;
        amplitudes.into_iter().map(|amplitude| amplitude - mean).collect()
    }
}

impl Moments {
    fn peak(&self) -> f64 {
        self.largest.max(-self.least)
    }
}

/// The bin with the largest energy, the first of equal ones; none in silence.
fn dominant(energies: &[f64]) -> Option<f64> {
    let mut best = (0.0, None);
    for (bin, energy) in energies.iter().enumerate().skip(1) {
        if *energy > best.0 {
            best = (*energy, Some(bin as f64));
        }
    }
    best.1
}
