//! What becomes of a firing, decided from what is open. Pure: the journal
//! looks, this decides.

use super::state::Outcome;

/// What a firing does while a run of its group is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// Nothing starts.
    Skip,
    /// It waits for its turn.
    Queue,
    /// One waits, with the values of the newest firing.
    QueueOne,
    /// The open run is cancelled, then this one starts.
    Replace,
    /// Both run.
    Allow,
}

impl Overlap {
    /// The words of `overlap`.
    pub const WORDS: &'static [&'static str] = &["skip", "queue", "queue_one", "replace", "allow"];

    /// The meaning of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Overlap> {
        match word {
            "skip" => Some(Overlap::Skip),
            "queue" => Some(Overlap::Queue),
            "queue_one" => Some(Overlap::QueueOne),
            "replace" => Some(Overlap::Replace),
            "allow" => Some(Overlap::Allow),
            _ => None,
        }
    }
}

/// What is known when a firing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// A run of its group has not ended.
    pub open: bool,
    /// A run of its group waits for its turn.
    pub held: bool,
    /// The trigger's cooldown for its key is not over.
    pub cooling: bool,
    /// The trigger has started as many runs as it may.
    pub limited: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A run, at once.
    Start,
    /// A run, when its turn comes.
    Queue,
    /// A run in place of those that are open.
    Replace,
    /// The waiting run takes its values.
    Join,
    /// Nothing, because a run is open.
    Skip,
    /// Nothing, because of the cooldown.
    Cool,
    /// Nothing, because of `max_starts`.
    Limit,
}

impl Verdict {
    /// The word that is kept and counted.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Verdict::Start => Outcome::Started,
            Verdict::Queue | Verdict::Replace => Outcome::Queued,
            Verdict::Join => Outcome::Joined,
            Verdict::Skip => Outcome::Skipped,
            Verdict::Cool => Outcome::Cooling,
            Verdict::Limit => Outcome::Limited,
        }
    }

    /// Why, for a person.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Verdict::Start => "",
            Verdict::Queue => "a run of its group is open",
            Verdict::Replace => "takes the place of the open run",
            Verdict::Join => "a run of its group waits already",
            Verdict::Skip => "a run of its group is open and overlap is skip",
            Verdict::Cool => "the cooldown is not over",
            Verdict::Limit => "max_starts is used up",
        }
    }
}

/// Decides about one firing.
#[must_use]
pub const fn admit(overlap: Overlap, seen: Seen) -> Verdict {
    if seen.cooling {
        return Verdict::Cool;
    }
    if seen.limited {
        return Verdict::Limit;
    }
    if !seen.open {
        return Verdict::Start;
    }
    match overlap {
        Overlap::Allow => Verdict::Start,
        Overlap::Skip => Verdict::Skip,
        Overlap::Queue => Verdict::Queue,
        Overlap::QueueOne if seen.held => Verdict::Join,
        Overlap::QueueOne => Verdict::Queue,
        Overlap::Replace => Verdict::Replace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_by_the_table() {
        let idle = Seen { open: false, held: false, cooling: false, limited: false };
        let open = Seen { open: true, ..idle };
        let held = Seen { held: true, ..open };
        for word in Overlap::WORDS {
            let overlap = Overlap::parse(word).expect("every word has a meaning");
            assert_eq!(admit(overlap, idle), Verdict::Start, "{word}");
            assert_eq!(admit(overlap, Seen { cooling: true, ..open }), Verdict::Cool, "{word}");
            assert_eq!(admit(overlap, Seen { limited: true, ..idle }), Verdict::Limit, "{word}");
        }
        let table = [
            (Overlap::Skip, Verdict::Skip, Verdict::Skip),
            (Overlap::Queue, Verdict::Queue, Verdict::Queue),
            (Overlap::QueueOne, Verdict::Queue, Verdict::Join),
            (Overlap::Replace, Verdict::Replace, Verdict::Replace),
            (Overlap::Allow, Verdict::Start, Verdict::Start),
        ];
        for (overlap, when_open, when_held) in table {
            assert_eq!(admit(overlap, open), when_open, "{overlap:?}");
            assert_eq!(admit(overlap, held), when_held, "{overlap:?}");
        }
    }
}
