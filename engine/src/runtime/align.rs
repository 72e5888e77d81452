//! Several inputs become one order of events: barriers wait for each other,
//! watermarks are merged, ends are counted. Pure: no channel, no await, no
//! clock.

use crate::event::{Barrier, Watermark};
use crate::planted;
use crate::time::Time;

/// What has come on which input.
#[derive(Debug)]
pub struct Align {
    inputs: Vec<Input>,
    emitted: Option<Time>,
    idle_told: bool,
    barrier: Option<Barrier>,
    /// Inputs are copies of one operator, which are told everything together:
    /// none is silent while another one is not.
    together: bool,
}

#[derive(Debug, Clone, Default)]
struct Input {
    watermark: Option<Time>,
    idle: bool,
    ended: bool,
    /// It gives a table and never any event time.
    aside: bool,
    /// Its reader has no room for its rows.
    refused: bool,
    /// Its barrier of the epoch that is being aligned has come; nothing more
    /// is read from it until the others have caught up.
    at_barrier: bool,
}

/// What must be done next, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Event time has come this far on all active inputs.
    Advance(Time),
    /// All inputs are silent.
    Idle,
    /// The barrier has come on every input: snapshot, then send it on.
    Cut(Barrier),
    /// Every input has ended.
    End,
}

impl Align {
    /// Nothing has come yet on any of `inputs` inputs.
    #[must_use]
    pub fn new(inputs: usize) -> Align {
        Align {
            inputs: vec![Input::default(); inputs],
            emitted: None,
            idle_told: false,
            barrier: None,
            together: false,
        }
    }

    /// The same for inputs that are copies of one operator.
    #[must_use]
    pub fn of_copies(inputs: usize) -> Align {
        Align { together: true, ..Align::new(inputs) }
    }

    /// An input is not silent any more.
    fn wake(&mut self, input: usize) {
        for (index, state) in self.inputs.iter_mut().enumerate() {
            state.idle &= !self.together && index != input;
        }
    }

    /// This input gives a table: it has no watermark and holds none back. It
    /// brings barriers and its end as all others.
    pub fn set_aside(&mut self, input: usize) {
        if let Some(state) = self.inputs.get_mut(input) {
            (state.aside, state.idle) = (true, true);
        }
    }

    /// Whether the operator takes rows of this input now.
    pub fn set_accepted(&mut self, input: usize, accepted: bool) {
        if let Some(state) = self.inputs.get_mut(input) {
            state.refused = !accepted;
        }
    }

    /// How far event time has come for the readers.
    #[must_use]
    pub fn emitted(&self) -> Option<Time> {
        self.emitted
    }

    /// Whether all inputs are silent, as was told last.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle_told
    }

    /// Whether the loop may read from this input now. One that is refused is read
    /// as far as a barrier that waits for it.
    #[must_use]
    pub fn is_open(&self, input: usize) -> bool {
        let waits = |input: &Input| input.at_barrier && !planted!(BarrierOvertaken);
        let refused = |input: &Input| input.refused && self.barrier.is_none();
        self.inputs.get(input).is_some_and(|input| !input.ended && !refused(input) && !waits(input))
    }

    /// A watermark has come on an input.
    pub fn on_watermark(&mut self, input: usize, watermark: Watermark) -> Vec<Action> {
        if let Watermark::Time(_) = watermark {
            self.wake(input);
        }
        if let Some(state) = self.inputs.get_mut(input) {
            match watermark {
                Watermark::Time(time) => {
                    // A watermark never goes back, whatever the peer says.
                    let least = state.watermark.filter(|_| !planted!(WatermarkBack));
                    state.watermark = least.max(Some(time));
                }
                Watermark::Idle => state.idle = true,
            }
        }
        self.merged()
    }

    /// A batch has come on an input: it is not idle.
    pub fn on_batch(&mut self, input: usize) {
        if self.inputs.get(input).is_some_and(|state| !state.aside) {
            self.wake(input);
            self.idle_told = false;
        }
    }

    /// A barrier has come on an input.
    pub fn on_barrier(&mut self, input: usize, barrier: Barrier) -> Vec<Action> {
        if let Some(state) = self.inputs.get_mut(input) {
            state.at_barrier = true;
        }
        // Barriers of one epoch are equal but for a stop, which wins.
        let then_stop = barrier.then_stop || self.barrier.is_some_and(|known| known.then_stop);
        let light = barrier.light && self.barrier.is_none_or(|known| known.light);
        self.barrier = Some(Barrier { then_stop, light, ..barrier });
        self.cut()
    }

    /// An input has ended; what it promised before is its last word.
    pub fn on_end(&mut self, input: usize) -> Vec<Action> {
        if let Some(state) = self.inputs.get_mut(input) {
            state.ended = true;
        }
        let mut actions = self.merged();
        actions.extend(self.cut());
        if self.inputs.iter().all(|input| input.ended) {
            actions.push(Action::End);
        }
        actions
    }

    /// The barrier is through when every input has either brought it or ended.
    fn cut(&mut self) -> Vec<Action> {
        let complete =
            self.inputs.iter().all(|input| input.at_barrier || input.ended) || planted!(BarrierNotAligned);
        match self.barrier {
            Some(barrier) if complete => {
                self.barrier = None;
                for input in &mut self.inputs {
                    input.at_barrier = false;
                }
                vec![Action::Cut(barrier)]
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// The least watermark of the active inputs; of idle and ended ones the
    /// greatest, when no other is left.
    fn merged(&mut self) -> Vec<Action> {
        let mut active = self.inputs.iter().filter(|input| !input.idle && !input.ended).peekable();
        let none_active = active.peek().is_none();
        let merged = if none_active || planted!(WatermarkOfTheFastest) {
            self.inputs.iter().map(|input| input.watermark).max().flatten()
        } else {
            active.map(|input| input.watermark).min().flatten()
        };
        let mut actions = Vec::new();
        if merged > self.emitted || planted!(WatermarkBack) && merged < self.emitted {
            self.emitted = merged;
            actions.extend(merged.map(Action::Advance));
        }
        let all_idle = none_active && self.inputs.iter().any(|input| !input.ended);
        if all_idle && !self.idle_told {
            actions.push(Action::Idle);
        }
        self.idle_told = all_idle;
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Watermark {
        Watermark::Time(Time(seconds))
    }

    fn barrier(epoch: u64) -> Barrier {
        Barrier { epoch, then_stop: false, light: false }
    }

    #[test]
    fn the_watermark_is_the_least_of_the_active_inputs() {
        let mut align = Align::new(2);
        assert_eq!(align.on_watermark(0, at(25)), []);
        assert_eq!(align.on_watermark(1, at(15)), [Action::Advance(Time(15))]);
        assert_eq!(align.on_watermark(1, at(20)), [Action::Advance(Time(20))]);
        assert_eq!(align.on_watermark(1, at(3)), [], "never back");
    }

    #[test]
    fn an_idle_input_holds_nothing_back_and_does_not_pull_back() {
        let mut align = Align::new(2);
        assert_eq!(align.on_watermark(0, at(25)), []);
        assert_eq!(align.on_watermark(1, Watermark::Idle), [Action::Advance(Time(25))]);
        assert_eq!(align.on_watermark(1, at(15)), [], "came back behind");
        assert_eq!(align.on_watermark(0, at(31)), [], "now held back by the other again");
        assert_eq!(align.on_watermark(1, at(28)), [Action::Advance(Time(28))]);
    }

    /// The fastest copy's first words after a silence say nothing of the others.
    #[test]
    fn copies_are_silent_together() {
        let mut align = Align::of_copies(2);
        for input in [0, 1] {
            align.on_watermark(input, at(5));
            align.on_watermark(input, Watermark::Idle);
        }
        align.on_batch(0);
        assert_eq!(align.on_watermark(0, at(60)), [], "the other one is behind");
        assert_eq!(align.on_watermark(1, at(60)), [Action::Advance(Time(60))]);
    }

    #[test]
    fn all_idle_is_told_once() {
        let mut align = Align::new(2);
        assert_eq!(align.on_watermark(0, at(5)), []);
        assert_eq!(align.on_watermark(0, Watermark::Idle), []);
        assert_eq!(align.on_watermark(1, Watermark::Idle), [Action::Advance(Time(5)), Action::Idle]);
        assert_eq!(align.on_watermark(1, Watermark::Idle), []);
    }

    #[test]
    fn a_table_holds_no_watermark_back_and_brings_its_barrier() {
        let mut align = Align::new(2);
        align.set_aside(1);
        assert_eq!(align.on_watermark(0, at(5)), [Action::Advance(Time(5))], "before its first rows");
        align.on_batch(1);
        assert_eq!(align.on_watermark(0, at(9)), [Action::Advance(Time(9))], "and behind them");
        assert_eq!(align.on_barrier(0, barrier(1)), []);
        assert_eq!(align.on_barrier(1, barrier(1)), [Action::Cut(barrier(1))]);
        assert!(!align.on_end(0).contains(&Action::End));
        assert_eq!(align.on_end(1), [Action::End]);
    }

    #[test]
    fn an_input_that_is_refused_is_read_as_far_as_a_barrier() {
        let mut align = Align::new(2);
        align.set_aside(1);
        align.set_accepted(0, false);
        assert!(!align.is_open(0) && align.is_open(1));
        assert_eq!(align.on_barrier(1, barrier(1)), []);
        assert!(align.is_open(0), "what comes before its barrier");
        assert_eq!(align.on_barrier(0, barrier(1)), [Action::Cut(barrier(1))]);
        assert!(!align.is_open(0) && align.is_open(1));
    }

    #[test]
    fn a_barrier_waits_for_every_input_and_closes_those_that_brought_it() {
        let mut align = Align::new(3);
        assert_eq!(align.on_barrier(0, barrier(1)), []);
        assert!(!align.is_open(0) && align.is_open(1));
        assert_eq!(align.on_end(2), []);
        assert_eq!(align.on_barrier(1, barrier(1)), [Action::Cut(barrier(1))]);
        assert!(align.is_open(0) && align.is_open(1) && !align.is_open(2));
    }

    #[test]
    fn an_end_completes_a_barrier_that_waits_for_it() {
        let mut align = Align::new(2);
        assert_eq!(align.on_barrier(0, barrier(7)), []);
        assert_eq!(align.on_end(1), [Action::Cut(barrier(7))]);
        assert_eq!(align.on_end(0), [Action::End]);
    }

    #[test]
    fn an_ended_input_no_longer_holds_back() {
        let mut align = Align::new(2);
        assert_eq!(align.on_watermark(0, at(9)), []);
        assert_eq!(align.on_end(1), [Action::Advance(Time(9))]);
    }
}
