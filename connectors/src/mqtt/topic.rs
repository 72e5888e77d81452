//! Topics with parts: `fleet/{truck}/temp` subscribes to `fleet/+/temp` and
//! gives a column `truck`. Pure text, no connection.

use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::topology::value::Text;

/// Longest topic or filter, in bytes (MQTT 5, section 1.5.4).
const TOPIC_BYTES_MAX: usize = 65_535;

/// A topic as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// What the broker is asked for; with `$share/group/` where the file says so.
    pub(super) filter: String,
    levels: Vec<Level>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    /// These very letters.
    Same(String),
    /// One level, whatever it says (`+`).
    Any,
    /// One level that becomes a column.
    Named(String),
    /// All levels from here on, also none (`#`).
    Rest,
}

impl Pattern {
    /// Reads a topic of the file.
    ///
    /// # Errors
    /// `TG-Q002`, at the topic.
    pub(super) fn parse(text: &Text) -> Result<Pattern, Diagnostic> {
        let wrong = |reason: &str| {
            Diagnostic::error("TG-Q002", format!("`{}` is not a topic: {reason}", text.value))
                .at(text.span.clone())
                .help("levels are separated by `/`; `+` or `{name}` is one level, `#` at the end is the rest")
        };
        if text.value.is_empty() || text.value.len() > TOPIC_BYTES_MAX || text.value.contains('\0') {
            return Err(wrong("it must have 1 to 65535 bytes and no NUL"));
        }
        let (prefix, topic) = split_shared(&text.value).map_err(wrong)?;
        let count = topic.split('/').count();
        let mut levels = Vec::with_capacity(count);
        for (index, word) in topic.split('/').enumerate() {
            levels.push(match word {
                "+" => Level::Any,
                "#" if index + 1 == count => Level::Rest,
                "#" => return Err(wrong("`#` stands at the end")),
                word => Level::parse(word).map_err(wrong)?,
            });
        }
        let filter: Vec<&str> = levels.iter().map(Level::filter).collect();
        Ok(Pattern { filter: prefix + &filter.join("/"), levels })
    }

    /// The columns it names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().filter_map(|level| match level {
            Level::Named(name) => Some(name.as_str()),
            Level::Same(_) | Level::Any | Level::Rest => None,
        })
    }

    /// Whether a topic is meant, and the values of its named levels, in order.
    pub(super) fn captures<'a>(&self, topic: &'a str) -> Option<Vec<&'a str>> {
        let first_is_wild = matches!(self.levels.first(), Some(Level::Any | Level::Named(_) | Level::Rest));
        // Topics of the broker's own are not meant by a leading wildcard (MQTT 5, section 4.7.2).
        if topic.starts_with('$') && first_is_wild {
            return None;
        }
        let mut captured = Vec::new();
        let mut words = topic.split('/');
        for level in &self.levels {
            if *level == Level::Rest {
                return Some(captured);
            }
            let word = words.next()?;
            match level {
                Level::Same(same) if same != word => return None,
                Level::Named(_) => captured.push(word),
                Level::Same(_) | Level::Any | Level::Rest => {}
            }
        }
        words.next().is_none().then_some(captured)
    }
}

/// `$share/group/` and the topic behind it.
fn split_shared(text: &str) -> Result<(String, &str), &'static str> {
    let Some(shared) = text.strip_prefix("$share/") else { return Ok((String::new(), text)) };
    match shared.split_once('/') {
        Some((group, topic)) if !group.is_empty() && !topic.is_empty() && !group.contains(['+', '#']) => {
            Ok((format!("$share/{group}/"), topic))
        }
        _ => Err("a shared one is `$share/group/topic`"),
    }
}

impl Level {
    fn parse(word: &str) -> Result<Level, &'static str> {
        if let Some(inner) = word.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let starts =
                inner.chars().next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
            if starts && inner.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Ok(Level::Named(inner.to_owned()));
            }
            return Err("`{name}` holds letters, digits and _");
        }
        if word.contains(['+', '#']) {
            return Err("`+` and `#` stand alone between two `/`");
        }
        if word.contains(['{', '}']) {
            return Err("`{name}` stands alone between two `/`");
        }
        Ok(Level::Same(word.to_owned()))
    }

    fn filter(&self) -> &str {
        match self {
            Level::Same(word) => word,
            Level::Any | Level::Named(_) => "+",
            Level::Rest => "#",
        }
    }
}

/// Whether a message can be sent to this topic.
pub(super) fn can_be_sent_to(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= TOPIC_BYTES_MAX && !topic.contains(['+', '#', '\0'])
}

/// An inserted value as part of one level of a topic.
pub(super) fn as_topic_part(value: &str) -> String {
    value.replace(['+', '#', '/', '\0'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(topic: &str) -> Pattern {
        Pattern::parse(&Text::loose(topic)).expect("is a topic")
    }

    #[test]
    fn named_levels_become_columns() {
        let fleet = pattern("fleet/{truck}/{sensor}");
        assert_eq!(fleet.filter, "fleet/+/+");
        assert_eq!(fleet.names().collect::<Vec<_>>(), ["truck", "sensor"]);
        assert_eq!(fleet.captures("fleet/7/temp"), Some(vec!["7", "temp"]));
        assert_eq!(fleet.captures("fleet/7"), None);
        assert_eq!(fleet.captures("fleet/7/temp/raw"), None);
        assert_eq!(fleet.captures("fleet//temp"), Some(vec!["", "temp"]));
    }

    /// The examples of MQTT 5, sections 4.7.1.2, 4.7.1.3 and 4.7.2.
    #[test]
    fn wildcards_mean_what_the_standard_says() {
        let players = pattern("sport/tennis/player1/#");
        for topic in
            ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"]
        {
            assert!(players.captures(topic).is_some(), "{topic}");
        }
        assert!(pattern("sport/tennis/+").captures("sport/tennis/player1/ranking").is_none());
        assert!(pattern("sport/+").captures("sport").is_none());
        assert!(pattern("sport/+").captures("sport/").is_some());
        assert!(pattern("+/+").captures("/finance").is_some());
        assert!(pattern("+").captures("/finance").is_none());
        assert!(pattern("#").captures("$SYS/broker").is_none());
        assert!(pattern("$SYS/#").captures("$SYS/broker").is_some());
    }

    #[test]
    fn shared_ones_match_what_is_shared() {
        let shared = pattern("$share/workers/fleet/{truck}");
        assert_eq!(shared.filter, "$share/workers/fleet/+");
        assert_eq!(shared.captures("fleet/7"), Some(vec!["7"]));
    }

    #[test]
    fn wrong_topics_are_messages() {
        for wrong in ["", "a#", "a/#/b", "a+/b", "a/{x y}", "a/x{y}", "$share/g", "$share//t", "a\0b"] {
            assert!(Pattern::parse(&Text::loose(wrong)).is_err(), "{wrong}");
        }
    }
}
