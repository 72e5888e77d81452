//! The features of a signal, as numpy 2.4.6 computes them:
//!
//! ```python
//! w = np.hanning(n + 1)[:-1]                       # or ones
//! p = np.abs(np.fft.rfft(w * d)) ** 2 / (n * np.sum(w * w)); p[1:] *= 2
//! if n % 2 == 0: p[-1] /= 2                        # d = x - x.mean()
//! h = [1, 2, 2, …, 1 at n / 2, 0, …]               # times the carrier's mask
//! a = np.abs(np.fft.ifft(np.fft.fft(d) * h)); a -= a.mean()
//! ```

use super::spectrum::{Feature, Spectrum};

const RATE: f64 = 1_000.0;

/// 50 Hz, 300 Hz modulated with 89 Hz, a knock every 97 samples, an offset.
fn signal(rows: usize) -> Vec<f64> {
    use std::f64::consts::TAU;
    let sample = |row: usize| {
        let t = row as f64 / RATE;
        let carrier = (1.0 + 0.8 * (TAU * 89.0 * t).sin()) * (TAU * 300.0 * t + 0.5).sin();
        let knock = if row.is_multiple_of(97) { 2.0 } else { 0.0 };
        0.3 + 1.5 * (TAU * 50.0 * t).sin() + 0.4 * carrier + knock
    };
    (0..rows).map(sample).collect()
}

const WANTED: [Feature; 14] = [
    Feature::Mean,
    Feature::Rms,
    Feature::Std,
    Feature::Peak,
    Feature::PeakToPeak,
    Feature::Crest,
    Feature::Skewness,
    Feature::Kurtosis,
    Feature::Dominant,
    Feature::Band(45.0, 55.0),
    Feature::Band(0.0, 500.0),
    Feature::Envelope((87.0, 91.0), None),
    Feature::Envelope((87.0, 91.0), Some((200.0, 400.0))),
    Feature::Envelope((0.0, 5.0), None),
];

/// Rows, whether with Hann's taper, and the value of each of `WANTED`.
type Case = (usize, bool, [f64; 14]);

#[rustfmt::skip]
const CASES: [Case; 4] = [
    (1024, true, [0.3239495408660762, 1.1681908713985045, 1.1223754305006217, 3.476178037391753, 5.096872309814087, 2.975693546749113, 0.018686988593269428, 1.8322861840989395, 49.8046875, 1.1464655164350848, 1.2855193599574763, 0.0010047815023812693, 0.043913583027255385, 0.0007065630706015005]),
    (1024, false, [0.3239495408660762, 1.1681908713985045, 1.1223754305006217, 3.476178037391753, 5.096872309814087, 2.975693546749113, 0.018686988593269428, 1.8322861840989395, 49.8046875, 1.0991670685016397, 1.259726606991456, 0.0011890589080847105, 0.04520042222589482, 0.0004967867374225051]),
    (1000, true, [0.3220000000000003, 1.1691996839425203, 1.123985720964145, 3.476178037391753, 5.096872309814087, 2.973126049495791, 0.02463872524776741, 1.8277847854440235, 50.0, 1.1481258053308085, 1.28769183353769, 0.001026897615451869, 0.04417948234261731, 0.0006606388918194634]),
    (375, true, [0.33748719030030166, 1.1661679599376575, 1.1162661453113976, 2.491770215441681, 4.1096958255009115, 2.136716408822353, -0.039313791806944096, 1.748422854699795, 50.666666666666664, 1.072694263873276, 1.241231764898893, 0.0028211736549003576, 0.05807644757834207, 1.7513081701302536e-05]),
];

#[test]
fn every_feature_is_that_of_numpy() {
    for (rows, hann, expected) in CASES {
        let found = Spectrum::new(rows, hann).features(&WANTED, &signal(rows), Some(RATE));
        for ((feature, found), expected) in WANTED.iter().zip(found).zip(expected) {
            let found = found.expect("exists");
            let error = (found - expected).abs() / expected.abs().max(1.0);
            assert!(error < 1e-9, "{feature:?} of {rows}, {hann}: {found}, numpy {expected}");
        }
    }
}

#[test]
fn the_whole_spectrum_is_the_mean_square() {
    let spectrum = Spectrum::new(1_000, false);
    let found = spectrum.features(&[Feature::Band(0.0, 500.0), Feature::Std], &signal(1_000), Some(RATE));
    let (all, std) = (found[0].expect("exists"), found[1].expect("exists"));
    assert!((all - std * std).abs() < 1e-12, "{all} {std}");
}

#[test]
fn what_does_not_exist_is_null() {
    let spectrum = Spectrum::new(8, true);
    let silence = spectrum.features(&WANTED, &[0.0; 8], Some(RATE));
    assert_eq!(silence[5..9], [None, None, None, None], "crest, skewness, kurtosis, dominant");
    assert_eq!((silence[1], silence[10]), (Some(0.0), Some(0.0)));
    let high = spectrum.features(&[Feature::Band(501.0, 600.0)], &signal(8), Some(RATE));
    assert_eq!(high, [None], "above half the rate");
    let unknown = spectrum.features(&WANTED, &signal(8), None);
    assert_eq!(unknown.iter().filter(|value| value.is_none()).count(), 6, "without a rate");
}

/// A rate that is measured is not exact; 100 Hz still lies on its bin.
#[test]
fn a_frequency_on_the_edge_of_a_band_is_in_it() {
    let spectrum = Spectrum::new(100, false);
    let tone: Vec<f64> = (0..100).map(|row| (std::f64::consts::TAU * f64::from(row) / 10.0).sin()).collect();
    for rate in [RATE, RATE * (1.0 + 1e-12), RATE * (1.0 - 1e-12)] {
        for band in [(100.0, 120.0), (80.0, 100.0)] {
            let found = spectrum.features(&[Feature::Band(band.0, band.1)], &tone, Some(rate));
            assert!((found[0].expect("exists") - 0.5).abs() < 1e-12, "{rate} {band:?}");
        }
    }
}
