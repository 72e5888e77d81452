//! The life of one alarm after ISA-18.2 (section 6.4, alarm states). Pure: rows
//! and instants go in, what is to be told comes out.
//!
//! | State | Condition | A person |
//! |---|---|---|
//! | `normal` | – | – |
//! | `unacknowledged` | true | has not answered |
//! | `acknowledged` | true | has answered, or need not |
//! | `returned` | gone | has not answered |
//! | `latched_unacknowledged`, `latched_acknowledged` | gone | must reset it |
//! | `shelved` | either | does not want to hear of it for a while |

/// How an alarm behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    /// The condition must have been true for this long.
    pub(super) on_delay_us: i64,
    /// It must have been gone for this long.
    pub(super) off_delay_us: i64,
    /// A false condition is gone; otherwise a second condition says so.
    pub(super) clears_itself: bool,
    pub(super) needs_acknowledge: bool,
    pub(super) latches: bool,
    pub(super) shelve_us: i64,
    /// After so long without a row nothing is known of it any more.
    pub(super) forget_us: i64,
}

/// What a row says; `None` is NULL and leaves all as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    pub(super) when: Option<bool>,
    pub(super) clear: Option<bool>,
    pub(super) acknowledge: bool,
    pub(super) reset: bool,
    pub(super) shelve: bool,
    pub(super) unshelve: bool,
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Raised,
    Returned,
    Acknowledged,
    Reset,
    Shelved,
    Unshelved,
    /// Nothing was heard of the key for so long that it begins afresh.
    Forgotten,
}

impl Event {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Event::Raised => "raised",
            Event::Returned => "returned",
            Event::Acknowledged => "acknowledged",
            Event::Reset => "reset",
            Event::Shelved => "shelved",
            Event::Unshelved => "unshelved",
            Event::Forgotten => "forgotten",
        }
    }
}

/// What is told, and how the alarm stands then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) event: Event,
    pub(super) state: &'static str,
    pub(super) at_us: i64,
    /// When the condition became true, delays included.
    pub(super) raised_us: Option<i64>,
}

/// One alarm.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Life {
    /// The condition, delays included.
    active: bool,
    /// Since when it has been true, or gone, without being so for long enough.
    on_since_us: Option<i64>,
    off_since_us: Option<i64>,
    /// Set while there is something to tell of, from raised to normal.
    raised_us: Option<i64>,
    acknowledged: bool,
    latched: bool,
    shelved_until_us: Option<i64>,
    /// The newest row, unless there is nothing to remember.
    heard_us: Option<i64>,
    /// It came in a flood: all it tells leaves by another port.
    pub(super) in_flood: bool,
}

impl Life {
    pub(super) fn is_normal(&self) -> bool {
        *self == Life::default()
    }

    fn state(&self) -> &'static str {
        match (self.active, self.acknowledged) {
            _ if self.shelved_until_us.is_some() => "shelved",
            _ if self.raised_us.is_none() => "normal",
            (true, false) => "unacknowledged",
            (true, true) => "acknowledged",
            (false, false) if self.latched => "latched_unacknowledged",
            (false, true) if self.latched => "latched_acknowledged",
            (false, _) => "returned",
        }
    }

    fn tell(&self, event: Event, at_us: i64, raised_us: Option<i64>, out: &mut Vec<Told>) {
        out.push(Told { event, state: self.state(), at_us, raised_us: self.raised_us.or(raised_us) });
    }

    /// The next row in event-time order.
    pub(super) fn on_row(&mut self, spec: &Spec, at_us: i64, said: Said, out: &mut Vec<Told>) {
        self.on_condition(spec, at_us, said);
        self.settle(spec, at_us, out);
        let raised_us = self.raised_us;
        if said.acknowledge && self.is_open() && !self.acknowledged {
            self.acknowledged = true;
            if !self.active && !self.latched {
                self.end();
            }
            self.tell(Event::Acknowledged, at_us, raised_us, out);
        }
        if said.reset && self.is_open() && self.latched && self.acknowledged {
            self.end();
            self.tell(Event::Reset, at_us, raised_us, out);
        }
        if said.shelve {
            self.shelved_until_us = Some(at_us.saturating_add(spec.shelve_us));
            if !self.active {
                self.end();
            }
            self.tell(Event::Shelved, at_us, raised_us, out);
        } else if said.unshelve && self.shelved_until_us.is_some() {
            self.unshelve(spec, at_us, out);
        }
        self.heard_us = (!self.is_quiet()).then_some(at_us);
    }

    fn is_quiet(&self) -> bool {
        let instants = [self.on_since_us, self.off_since_us, self.raised_us, self.shelved_until_us];
        !self.active && instants.iter().all(Option::is_none)
    }

    /// Something to tell of that is not shelved.
    fn is_open(&self) -> bool {
        self.raised_us.is_some() && self.shelved_until_us.is_none()
    }

    fn on_condition(&mut self, spec: &Spec, at_us: i64, said: Said) {
        let is_gone = if spec.clears_itself { said.when.map(|when| !when) } else { said.clear };
        match (said.when, is_gone) {
            (_, Some(true)) => {
                self.on_since_us = None;
                if self.active {
                    self.off_since_us.get_or_insert(at_us);
                }
            }
            (Some(true), _) => {
                self.off_since_us = None;
                if !self.active {
                    self.on_since_us.get_or_insert(at_us);
                }
            }
            (Some(false), gone) => {
                // Between the two conditions: neither has been true without a break.
                self.on_since_us = None;
                if gone.is_some() {
                    self.off_since_us = None;
                }
            }
            (None, Some(false)) => self.off_since_us = None,
            (None, None) => {}
        }
    }

    /// The next instant at which something happens without a row.
    pub(super) fn due(&self, spec: &Spec) -> Option<i64> {
        let on = self.on_since_us.map(|since| since.saturating_add(spec.on_delay_us));
        let off = self.off_since_us.map(|since| since.saturating_add(spec.off_delay_us));
        let forgotten = self.heard_us.map(|heard| heard.saturating_add(spec.forget_us));
        [on, off, self.shelved_until_us, forgotten].into_iter().flatten().min()
    }

    /// Event time has come to the instant that `due` had named.
    pub(super) fn on_due(&mut self, spec: &Spec, at_us: i64, out: &mut Vec<Told>) {
        if self.shelved_until_us.is_some_and(|until| until <= at_us) {
            self.unshelve(spec, at_us, out);
        }
        self.settle(spec, at_us, out);
        if self.heard_us.is_some_and(|heard| heard.saturating_add(spec.forget_us) <= at_us) {
            self.on_forgotten(at_us, out);
        }
    }

    /// Raises or returns, if the condition has been so for long enough.
    fn settle(&mut self, spec: &Spec, at_us: i64, out: &mut Vec<Told>) {
        let is_over = |since: Option<i64>, delay_us: i64| {
            since.is_some_and(|since| since.saturating_add(delay_us) <= at_us)
        };
        if is_over(self.on_since_us, spec.on_delay_us) {
            self.on_since_us = None;
            self.active = true;
            self.raise(spec, at_us, out);
        } else if is_over(self.off_since_us, spec.off_delay_us) {
            self.off_since_us = None;
            self.active = false;
            self.go_back(spec, at_us, out);
        }
    }

    fn raise(&mut self, spec: &Spec, at_us: i64, out: &mut Vec<Told>) {
        self.raised_us = Some(at_us);
        self.acknowledged = !spec.needs_acknowledge;
        self.latched = false;
        if self.shelved_until_us.is_none() {
            self.tell(Event::Raised, at_us, None, out);
        }
    }

    fn go_back(&mut self, spec: &Spec, at_us: i64, out: &mut Vec<Told>) {
        let raised_us = self.raised_us;
        if self.shelved_until_us.is_some() {
            return self.end();
        }
        self.latched = spec.latches;
        if self.acknowledged && !self.latched {
            self.end();
        }
        self.tell(Event::Returned, at_us, raised_us, out);
    }

    /// What is still true is raised anew.
    fn unshelve(&mut self, spec: &Spec, at_us: i64, out: &mut Vec<Told>) {
        self.shelved_until_us = None;
        let raised_us = self.raised_us;
        if self.active {
            self.acknowledged = !spec.needs_acknowledge;
        }
        self.tell(Event::Unshelved, at_us, raised_us, out);
        if self.active {
            self.raise(spec, at_us, out);
        }
    }

    /// An alarm does not vanish in silence.
    fn on_forgotten(&mut self, at_us: i64, out: &mut Vec<Told>) {
        let before = std::mem::take(self);
        self.in_flood = before.in_flood;
        if before.raised_us.is_some() || before.shelved_until_us.is_some() {
            self.tell(Event::Forgotten, at_us, before.raised_us, out);
        }
    }

    fn end(&mut self) {
        self.raised_us = None;
        self.acknowledged = false;
        self.latched = false;
    }
}

/// More alarms than a person can answer: after the rate of ISA-18.2, ten in ten
/// minutes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Flood {
    /// When the last alarms were raised, oldest first; one more than the limit.
    pub(super) raised_us: std::collections::VecDeque<i64>,
}

impl Flood {
    /// An alarm is raised; whether it is one too many.
    pub(super) fn on_raised(&mut self, at_us: i64, count: usize, within_us: i64) -> bool {
        let oldest = at_us.saturating_sub(within_us);
        self.raised_us.push_back(at_us);
        while self.raised_us.len() > count + 1 || self.raised_us.front().is_some_and(|at| *at <= oldest) {
            self.raised_us.pop_front();
        }
        self.raised_us.len() > count
    }
}
