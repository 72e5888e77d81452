//! The `select` of `fft`: `rms`, `band(87, 91) AS outer_race`.

use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::topology::value::Text;

use super::spectrum::Feature;

/// Every word, and how it is written.
const WORDS: &[(&str, &str)] = &[
    ("mean", "mean"),
    ("rms", "rms"),
    ("std", "std"),
    ("peak", "peak"),
    ("peak_to_peak", "peak_to_peak"),
    ("crest", "crest"),
    ("skewness", "skewness"),
    ("kurtosis", "kurtosis"),
    ("dominant", "dominant"),
    ("band", "band(from, to)"),
    ("envelope", "envelope(from, to) or envelope(from, to, low, high)"),
];

/// One output column: its name and what it is.
pub(super) fn parse(text: &Text) -> Result<(String, Feature), Diagnostic> {
    let (call, alias) = alias(&text.value);
    let call = call.trim();
    let (word, inside) = match call.split_once('(') {
        Some((word, rest)) => (word.trim(), Some(rest)),
        None => (call, None),
    };
    let span = text.span_of(0..text.value.len());
    let at = |code, message: String| Diagnostic::error(code, message).at(span.clone());
    let Some((_, form)) = WORDS.iter().find(|(known, _)| *known == word) else {
        let words: Vec<&str> = WORDS.iter().map(|(known, _)| *known).collect();
        let diagnostic = at("TG-X004", format!("there is no feature `{word}`"));
        return Err(diagnostic.help(format!("the words are {}", words.join(", "))).suggest(word, words));
    };
    let broken = |message: String| at("TG-X001", message).help(format!("write {form}"));
    let numbers = match inside {
        None => Vec::new(),
        Some(rest) => {
            let inside = rest.trim_end().strip_suffix(')');
            let inside = inside.ok_or_else(|| broken(format!("`{call}` does not end with `)`")))?;
            let numbers = inside.split(',').map(|number| number.trim().parse::<f64>());
            numbers
                .collect::<Result<Vec<f64>, _>>()
                .map_err(|_| broken(format!("`{inside}` are no numbers")))?
        }
    };
    let name = match alias {
        Some("") => return Err(broken("there is no name behind AS".to_owned())),
        Some(name) => name.to_owned(),
        None => call.to_owned(),
    };
    let feature = feature(word, &numbers).ok_or_else(|| broken(format!("`{word}` is not written so")))?;
    let is_band = |pair: &[f64]| matches!(pair, [from, to] if *from >= 0.0 && from < to && to.is_finite());
    if !numbers.chunks(2).all(is_band) {
        let message = format!("`{call}`: the frequencies of a band go upwards from zero, in Hz");
        return Err(at("TG-C006", message).help("write e.g. band(87, 91)"));
    }
    Ok((name, feature))
}

fn feature(word: &str, numbers: &[f64]) -> Option<Feature> {
    let feature = match (word, numbers) {
        ("mean", []) => Feature::Mean,
        ("rms", []) => Feature::Rms,
        ("std", []) => Feature::Std,
        ("peak", []) => Feature::Peak,
        ("peak_to_peak", []) => Feature::PeakToPeak,
        ("crest", []) => Feature::Crest,
        ("skewness", []) => Feature::Skewness,
        ("kurtosis", []) => Feature::Kurtosis,
        ("dominant", []) => Feature::Dominant,
        ("band", [from, to]) => Feature::Band(*from, *to),
        ("envelope", [from, to]) => Feature::Envelope((*from, *to), None),
        ("envelope", [from, to, low, high]) => Feature::Envelope((*from, *to), Some((*low, *high))),
        _ => return None,
    };
    Some(feature)
}

/// What stands before ` AS `, and the name behind it.
fn alias(text: &str) -> (&str, Option<&str>) {
    let lower = text.to_ascii_lowercase();
    match lower.rfind(" as ").or_else(|| lower.strip_suffix(" as").map(str::len)) {
        Some(at) => {
            let (call, rest) = text.split_at_checked(at).unwrap_or((text, ""));
            (call, Some(rest.get(3..).unwrap_or_default().trim()))
        }
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_words_numbers_and_names() {
        let read = |text: &str| parse(&Text::loose(text)).map_err(|wrong| wrong.code);
        assert_eq!(read("rms"), Ok(("rms".into(), Feature::Rms)));
        assert_eq!(
            read("band(87, 91.5) AS outer_race"),
            Ok(("outer_race".into(), Feature::Band(87.0, 91.5)))
        );
        assert_eq!(read(" crest as c "), Ok(("c".into(), Feature::Crest)));
        assert_eq!(read("band(0, 5)"), Ok(("band(0, 5)".into(), Feature::Band(0.0, 5.0))));
        let envelope = Feature::Envelope((5.0, 9.0), Some((2_000.0, 4_000.0)));
        assert_eq!(read("envelope(5, 9, 2000, 4000) AS e"), Ok(("e".into(), envelope)));
        for (text, code) in [
            ("rsm", "TG-X004"),
            ("", "TG-X004"),
            ("band", "TG-X001"),
            ("band(1)", "TG-X001"),
            ("band(1, x)", "TG-X001"),
            ("band(1, 2", "TG-X001"),
            ("rms()", "TG-X001"),
            ("rms AS ", "TG-X001"),
            ("envelope(1, 2, 3)", "TG-X001"),
            ("band(5, 5)", "TG-C006"),
            ("band(-1, 5)", "TG-C006"),
            ("band(1, inf)", "TG-C006"),
            ("envelope(1, 2, 9, 8)", "TG-C006"),
        ] {
            assert_eq!(read(text), Err(code), "{text}");
        }
    }
}
