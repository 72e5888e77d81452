//! The words for where a firing, a run and a task stand. They are kept in the
//! journal, so a word once used never changes its meaning.

use std::fmt;

/// A list of unit variants with one stored word each.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The stored word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }

            /// The value of a stored word.
            #[must_use]
            pub fn parse(word: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|value| value.word() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.word())
            }
        }
    };
}

words! {
    /// What became of a firing.
    Outcome {
        /// A run was made for it and may start at once.
        Started = "started",
        /// It became part of a run that was waiting already.
        Joined = "joined",
        /// A run was made for it that waits for another one to end.
        Queued = "queued",
        /// Nothing: a run was open and `overlap` is `skip`.
        Skipped = "skipped",
        /// Nothing: the trigger's cooldown was not over.
        Cooling = "cooling",
        /// Nothing: `max_starts` was used up.
        Limited = "limited",
        /// Nothing: the trigger only watches (`mode = "shadow"`).
        Shadow = "shadow",
        /// Nothing: it came too late for a flow that writes devices.
        Expired = "expired",
        /// Nothing: its values do not fit the flow's parameters.
        Rejected = "rejected",
    }
}

words! {
    /// Where a run stands.
    RunState {
        /// Not begun.
        Queued = "queued",
        /// A task is being done.
        Running = "running",
        /// Every open task waits for a time.
        Waiting = "waiting",
        /// A task has failed and a person decides.
        Paused = "paused",
        /// Ended well.
        Succeeded = "succeeded",
        /// Ended because a task failed.
        Failed = "failed",
        /// Ended because the flow's `timeout` was over.
        TimedOut = "timed_out",
        /// Ended by a person, or by a newer run with `overlap = "replace"`.
        Cancelled = "cancelled",
    }
}

words! {
    /// Where a task of a run stands.
    TaskState {
        /// Tasks before it have not ended.
        Waiting = "waiting",
        /// It is its turn; its `if` is being looked at.
        Ready = "ready",
        /// An attempt is under way.
        Running = "running",
        /// Waits for the next attempt.
        RetryWait = "retry_wait",
        /// Waits for a time that it asked for.
        TimerWait = "timer_wait",
        /// Attempts ran out; a person decides.
        Paused = "paused",
        /// An effect that may have happened; a person decides.
        Unknown = "unknown",
        /// Ended well.
        Succeeded = "succeeded",
        /// Was not its turn in this run.
        Skipped = "skipped",
        /// Ended badly.
        Failed = "failed",
        /// Ended because its last attempt took too long.
        TimedOut = "timed_out",
    }
}

words! {
    /// What a person says about a device write that may have happened.
    Resolution {
        /// It happened.
        Done = "done",
        /// It did not happen.
        Failed = "failed",
    }
}

impl RunState {
    /// Whether the run has ended; it never changes again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            RunState::Succeeded | RunState::Failed | RunState::TimedOut | RunState::Cancelled => true,
            RunState::Queued | RunState::Running | RunState::Waiting | RunState::Paused => false,
        }
    }

    /// Whether a run may go from here to `next`.
    #[must_use]
    pub const fn may_become(self, next: RunState) -> bool {
        match self {
            RunState::Queued => !matches!(next, RunState::Queued),
            RunState::Running => !matches!(next, RunState::Queued | RunState::Running),
            RunState::Waiting => !matches!(next, RunState::Queued | RunState::Waiting),
            RunState::Paused => !matches!(next, RunState::Queued | RunState::Paused),
            RunState::Succeeded | RunState::Failed | RunState::TimedOut | RunState::Cancelled => false,
        }
    }
}

impl TaskState {
    /// Whether the task has ended; it never changes again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            TaskState::Succeeded | TaskState::Skipped | TaskState::Failed | TaskState::TimedOut => true,
            TaskState::Waiting
            | TaskState::Ready
            | TaskState::Running
            | TaskState::RetryWait
            | TaskState::TimerWait
            | TaskState::Paused
            | TaskState::Unknown => false,
        }
    }

    /// Whether a task may go from here to `next`.
    #[must_use]
    pub const fn may_become(self, next: TaskState) -> bool {
        match self {
            TaskState::Waiting => matches!(next, TaskState::Ready | TaskState::Skipped),
            TaskState::Ready => {
                matches!(
                    next,
                    TaskState::Running | TaskState::Skipped | TaskState::Failed | TaskState::Paused
                )
            }
            TaskState::Running => !matches!(next, TaskState::Waiting | TaskState::Ready),
            TaskState::RetryWait | TaskState::TimerWait => {
                matches!(next, TaskState::Running | TaskState::Failed)
            }
            TaskState::Paused => matches!(next, TaskState::Running | TaskState::Ready | TaskState::Failed),
            TaskState::Unknown => {
                matches!(
                    next,
                    TaskState::Running | TaskState::Ready | TaskState::Succeeded | TaskState::Failed
                )
            }
            TaskState::Succeeded | TaskState::Skipped | TaskState::Failed | TaskState::TimedOut => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back_and_final_states_are_final() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::parse(outcome.word()), Some(*outcome));
        }
        for state in RunState::ALL {
            assert_eq!(RunState::parse(state.word()), Some(*state));
            let leads_on = RunState::ALL.iter().any(|next| state.may_become(*next));
            assert_eq!(leads_on, !state.is_final(), "{state}");
        }
        for state in TaskState::ALL {
            assert_eq!(TaskState::parse(state.word()), Some(*state));
            let leads_on = TaskState::ALL.iter().any(|next| state.may_become(*next));
            assert_eq!(leads_on, !state.is_final(), "{state}");
        }
        assert_eq!(RunState::parse("gone"), None);
    }
}
