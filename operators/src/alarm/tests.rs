//! One alarm's life, transition by transition of ISA-18.2's state diagram.

use super::life::{Event, Flood, Life, Said, Spec};

const PLAIN: Spec = Spec {
    on_delay_us: 0,
    off_delay_us: 0,
    clears_itself: true,
    needs_acknowledge: true,
    latches: false,
    shelve_us: 100,
    forget_us: 1_000,
};

/// Rows are an instant and a letter: `T`rue, `F`alse, `C`leared (with a clear
/// condition: `F` is between the two), `A`cknowledge, `R`eset, `S`helve,
/// `U`nshelve; any other is an instant. Each told thing is `event@instant state`.
fn life(spec: &Spec, rows: &[(i64, char)]) -> Vec<String> {
    let (mut life, mut told) = (Life::default(), Vec::new());
    for (at, letter) in rows {
        while let Some(due) = life.due(spec).filter(|due| due <= at) {
            life.on_due(spec, due, &mut told);
            assert!(life.due(spec) > Some(due) || life.due(spec).is_none(), "{life:?}");
        }
        let is = |of: char| *letter == of;
        let (when, clear) = match letter {
            'T' => (Some(true), Some(false)),
            'F' => (Some(false), Some(false)),
            'C' => (Some(false), Some(true)),
            _ => (None, None),
        };
        let said =
            Said { when, clear, acknowledge: is('A'), reset: is('R'), shelve: is('S'), unshelve: is('U') };
        if letter.is_ascii_uppercase() {
            life.on_row(spec, *at, said, &mut told);
        }
        // What is saved is what is known.
        let saved = serde_json::to_string(&life).expect("is text");
        assert_eq!(serde_json::from_str::<Life>(&saved).expect("is a life"), life);
    }
    told.iter().map(|told| format!("{}@{} {}", told.event.word(), told.at_us, told.state)).collect()
}

#[test]
fn an_alarm_is_raised_answered_and_returns() {
    let told = life(&PLAIN, &[(0, 'F'), (1, 'T'), (2, 'T'), (3, 'A'), (4, 'A'), (5, 'F'), (6, 'F')]);
    assert_eq!(told, ["raised@1 unacknowledged", "acknowledged@3 acknowledged", "returned@5 normal"]);
    let told = life(&PLAIN, &[(1, 'T'), (5, 'F'), (6, 'A'), (7, 'A')]);
    assert_eq!(told, ["raised@1 unacknowledged", "returned@5 returned", "acknowledged@6 normal"]);
    let told = life(&PLAIN, &[(1, 'T'), (5, 'F'), (6, 'T')]);
    assert_eq!(told, ["raised@1 unacknowledged", "returned@5 returned", "raised@6 unacknowledged"]);
    let told = life(&PLAIN, &[(0, 'A'), (1, 'R'), (2, 'U')]);
    assert_eq!(told, [""; 0], "nothing to answer");
}

#[test]
fn without_acknowledge_nobody_need_answer() {
    let spec = Spec { needs_acknowledge: false, ..PLAIN };
    assert_eq!(life(&spec, &[(1, 'T'), (5, 'F')]), ["raised@1 acknowledged", "returned@5 normal"]);
}

#[test]
fn delays_need_the_condition_without_a_break() {
    let spec = Spec { on_delay_us: 10, off_delay_us: 20, needs_acknowledge: false, ..PLAIN };
    assert_eq!(
        life(&spec, &[(0, 'T'), (9, 'F'), (10, 'T'), (19, 'N'), (20, 'T')]),
        ["raised@20 acknowledged"]
    );
    assert_eq!(life(&spec, &[(0, 'T'), (10, 'F')]), ["raised@10 acknowledged"], "it was true for ten");
    let told = life(&spec, &[(0, 'T'), (15, 'F'), (30, 'T'), (35, 'F'), (54, '-'), (60, '-')]);
    assert_eq!(told, ["raised@10 acknowledged", "returned@55 normal"]);
}

#[test]
fn between_two_conditions_nothing_changes() {
    let spec = Spec { clears_itself: false, needs_acknowledge: false, ..PLAIN };
    let told = life(&spec, &[(0, 'C'), (1, 'T'), (2, 'F'), (3, 'T'), (4, 'F'), (5, 'C'), (6, 'F')]);
    assert_eq!(told, ["raised@1 acknowledged", "returned@5 normal"]);
    let delayed = Spec { on_delay_us: 10, off_delay_us: 10, ..spec };
    assert_eq!(
        life(&delayed, &[(0, 'T'), (5, 'F'), (6, 'T'), (15, 'T'), (30, 'T')]),
        ["raised@16 acknowledged"]
    );
    let told = life(&delayed, &[(0, 'T'), (20, 'C'), (25, 'F'), (26, 'C'), (35, 'C'), (40, 'C')]);
    assert_eq!(told, ["raised@10 acknowledged", "returned@36 normal"]);
}

#[test]
fn what_latches_stays_until_it_is_answered_and_reset() {
    let spec = Spec { latches: true, ..PLAIN };
    let told = life(&spec, &[(1, 'T'), (2, 'R'), (3, 'F'), (4, 'R'), (5, 'A'), (6, 'R'), (7, 'R')]);
    assert_eq!(
        told,
        [
            "raised@1 unacknowledged",
            "returned@3 latched_unacknowledged",
            "acknowledged@5 latched_acknowledged",
            "reset@6 normal"
        ]
    );
    let told = life(&spec, &[(1, 'T'), (2, 'A'), (3, 'F'), (4, 'T')]);
    assert_eq!(told[2..], ["returned@3 latched_acknowledged", "raised@4 unacknowledged"]);
}

#[test]
fn what_is_shelved_is_silent_for_a_while() {
    let told = life(&PLAIN, &[(1, 'T'), (2, 'S'), (3, 'F'), (4, 'T'), (5, 'A'), (101, '-'), (102, '-')]);
    assert_eq!(
        told,
        [
            "raised@1 unacknowledged",
            "shelved@2 shelved",
            "unshelved@102 unacknowledged",
            "raised@102 unacknowledged"
        ]
    );
    let told = life(&PLAIN, &[(1, 'S'), (2, 'T'), (3, 'F'), (50, 'U')]);
    assert_eq!(told, ["shelved@1 shelved", "unshelved@50 normal"]);
    let told = life(&PLAIN, &[(1, 'S'), (90, 'S'), (101, '-'), (150, 'T'), (190, '-')]);
    assert_eq!(
        told,
        [
            "shelved@1 shelved",
            "shelved@90 shelved",
            "unshelved@190 unacknowledged",
            "raised@190 unacknowledged"
        ]
    );
    let told = life(&PLAIN, &[(1, 'T'), (2, 'F'), (3, 'S'), (4, 'U')]);
    assert_eq!(told[2..], ["shelved@3 shelved", "unshelved@4 normal"], "who shelves has seen it");
}

#[test]
fn what_nobody_hears_of_is_forgotten_and_told() {
    let spec = Spec { latches: true, shelve_us: 2_000, ..PLAIN };
    let told = life(&spec, &[(1, 'T'), (500, 'N'), (1_499, '-'), (1_600, '-'), (1_700, 'A')]);
    assert_eq!(told, ["raised@1 unacknowledged", "forgotten@1500 normal"]);
    assert_eq!(life(&spec, &[(1, 'S'), (1_100, '-')]), ["shelved@1 shelved", "forgotten@1001 normal"]);
    let told = life(&spec, &[(1, 'T'), (2, 'F'), (3, 'A'), (2_000, '-')]);
    assert_eq!(told[3..], ["forgotten@1003 normal"], "latched");
    let told = life(&PLAIN, &[(1, 'T'), (2, 'F'), (3, 'A'), (2_000, 'T')]);
    assert_eq!(told[2..], ["acknowledged@3 normal", "raised@2000 unacknowledged"], "nothing to forget");
}

#[test]
fn a_flood_is_more_than_a_number_within_a_time() {
    let mut flood = Flood::default();
    let too_many: Vec<bool> = [0, 1, 2, 3, 10, 11, 12].map(|at| flood.on_raised(at, 3, 10)).into();
    assert_eq!(too_many, [false, false, false, true, true, true, true]);
    assert!(!flood.on_raised(30, 3, 10));
    let mut all = Flood::default();
    assert!((0..1_000).map(|at| all.on_raised(at, 3, 1_000_000)).skip(3).all(|is| is));
    assert_eq!(all.raised_us.len(), 4, "no more than can matter");
}

#[test]
fn every_event_has_a_word() {
    let events = [
        Event::Raised,
        Event::Returned,
        Event::Acknowledged,
        Event::Reset,
        Event::Shelved,
        Event::Unshelved,
        Event::Forgotten,
    ];
    let words: std::collections::BTreeSet<&str> = events.iter().map(|event| event.word()).collect();
    assert_eq!(words.len(), events.len());
}
