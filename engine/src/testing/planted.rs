//! Bugs that a simulation plants to see that it would notice them. The real
//! code asks `planted!(Bug)` at one place for each; without the feature
//! `testing` that is the constant `false`, and nothing of it is left.

use std::cell::Cell;

/// Unit variants with a sentence each.
macro_rules! bugs {
    ($($bug:ident = $what:literal,)+) => {
        /// What is wrong in the code while it is planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $(#[doc = $what] $bug,)+
        }

        impl Bug {
            /// Every bug.
            pub const ALL: &'static [Bug] = &[$(Bug::$bug,)+];

            /// What it does, for a person.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self {
                    $(Bug::$bug => $what,)+
                }
            }
        }
    };
}

bugs! {
    FileNotSynced = "a file is renamed into place before it is synced",
    FileNotRenamed = "a file keeps its temporary name",
    FolderNotSynced = "a rename is not made durable",
    LogNotSynced = "records are called durable without an fsync",
    SegmentNotSynced = "a log's new segment is not durable under its name",
    SegmentNotRenamed = "a log's new segment keeps its temporary name",
    LogChecksumIgnored = "a torn or damaged record is taken for good",
    LogReplaySkips = "a replay leaves a record out",
    LogReplayRepeats = "a replay gives a record again that was used",
    TornEndKept = "what was torn off counts as a record that was there",
    TrimmedBeforeCommit = "the log is trimmed at the barrier, not at the commit",
    TrimmedToNewest = "the log keeps nothing for older checkpoints",
    CheckpointChecksumIgnored = "a damaged checkpoint is taken for good",
    FallbackIgnored = "a damaged checkpoint is taken for none",
    AcknowledgedBeforeDurable = "a peer hears \"got it\" before its rows are durable",
    MarkNotWritten = "nothing remembers that rows after the checkpoint were acknowledged",
    SinkCommittedBeforeManifest = "sinks publish an epoch that is not durable yet",
    SourceCommittedBeforeManifest = "a source acknowledges an epoch that is not durable yet",
    EpochReused = "a restart gives an epoch's number again",
    PositionForgotten = "a restart forgets where a source stood",
    WatermarkForgotten = "a restart forgets what a source has promised",
    StateForgotten = "a restart forgets an operator's state",
    ClosedForgotten = "a restart forgets which windows are closed",
    TimersForgotten = "a restart forgets a trigger's instants",
    WaitingForgotten = "a restart forgets rows that a trigger has not judged",
    BarrierNotAligned = "a barrier goes on when one input has brought it",
    BarrierOvertaken = "an input that brought its barrier is read on",
    WatermarkOfTheFastest = "event time is that of the fastest input",
    WatermarkBack = "a watermark goes back",
    LateRowDropped = "a late row leaves by no port",
    LateRowCounted = "a late row opens its window again",
    WindowFiredTwice = "a closed window fires again",
    RowsNotWrittenAgain = "a lost sink does not get its unflushed rows again",
    FlushSkipped = "a sink says flushed without flushing",
    SettleSkipped = "what an earlier process prepared is left as it is",
    LastCommitSkipped = "a sink does not wait for the last commit",
    EndNotReported = "an ended source does not tell the ledger",
    LaunchNotFlushed = "a trigger says flushed while firings are on their way",
    FiringStartedAgain = "a firing that comes again starts a run again",
    OverlapIgnored = "runs of a group overlap",
    MaxAgeIgnored = "a run that writes devices starts however old its firing is",
    OpenRunsForgotten = "a restart forgets runs that have not ended",
    WaitForgotten = "a run that waits for a time goes on at once",
    IntentAfterWrite = "a device is written before the intent is durable",
    OutcomeForgotten = "a device write that is done is not recorded as done",
    UnknownSentAgain = "a write that may have happened is sent again unseen",
    CrashSentAgain = "after a crash a write is sent again unseen",
    DeadlineIgnored = "a device is written after the deadline",
    LimitsIgnored = "a device is written outside its limits",
    OpenWriteForgotten = "a run ends and nobody is told of its write that may have happened",
    TicketForgotten = "nobody is told of a write that may have happened",
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug for this thread, or pulls it out.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted for this thread.
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
