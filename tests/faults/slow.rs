//! A sink's peer that is slow, refuses for a while, asks for time, or takes only
//! a part: the queue absorbs it, only what failed is sent again, under the key
//! that it had, and no other branch lags.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::peer::{Answer, Peer, Request};
use crate::plant::Plant;
use crate::process::pause;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { n = "int64" }

[sink.out]
type     = "http"
from     = "rows"
url      = "URL"
rows_max = 1
queue    = { disk = "64MiB" }
retry    = { wait = "20ms", max = "200ms" MORE }

[sink.beside]
type = "file"
from = "rows"
path = "beside/"
"#;

const ROWS: u64 = 60;

fn plant(peer: &Peer, more: &str) -> Plant {
    let plant = Plant::new(&TOPOLOGY.replace("URL", &peer.url()).replace("MORE", more));
    plant.append_numbers("rows.jsonl", 0..ROWS);
    plant
}

fn until_all_are_taken(plant: &Plant, peer: &Peer, wanted: &BTreeSet<u64>) {
    plant.until("everything is taken", || &peer.taken().into_iter().collect::<BTreeSet<_>>() == wanted);
}

fn each_once(peer: &Peer, wanted: &BTreeSet<u64>) {
    let mut taken = peer.taken();
    taken.sort_unstable();
    assert_eq!(taken, wanted.iter().copied().collect::<Vec<_>>(), "what was taken is sent again");
}

/// Every attempt at a row has the key of the first one, and no other row has it.
fn keys_are_kept(requests: &[Request]) {
    let first = |n: u64| requests.iter().find(|one| one.numbers == [n]).expect("came");
    for request in requests {
        assert_eq!(request.key, first(request.numbers[0]).key, "{request:?}");
    }
    let keys: BTreeSet<&str> = requests.iter().map(|one| one.key.as_str()).collect();
    let rows: BTreeSet<u64> = requests.iter().map(|one| one.numbers[0]).collect();
    assert_eq!(keys.len(), rows.len());
}

#[test]
fn only_what_failed_is_sent_again_and_under_its_key() {
    // Every seventh request fails, whoever it is; a part of each batch is taken before.
    let peer = Peer::start(|at, _| if at % 7 == 3 { Answer::Status(503) } else { Answer::Status(200) });
    let plant = plant(&peer, "");
    let daemon = plant.start();
    let all: BTreeSet<u64> = (0..ROWS).collect();
    until_all_are_taken(&plant, &peer, &all);
    plant.until("the branch beside", || plant.rows("beside/").len() as u64 == ROWS);
    plant.stop(daemon);
    each_once(&peer, &all);
    let requests = peer.requests();
    keys_are_kept(&requests);
    let failed: Vec<u64> =
        requests.iter().filter(|one| one.status == 503).map(|one| one.numbers[0]).collect();
    assert!(failed.len() >= 8, "{failed:?}");
}

#[test]
fn a_peer_that_asks_for_time_gets_it_and_a_slow_one_holds_nobody_up() {
    let peer = Peer::start(|_, _| Answer::Status(503));
    let plant = plant(&peer, ", open_after = 4, open_for = \"600ms\"");
    let daemon = plant.start();
    plant.until_said("breaker open");
    plant.until("the branch beside", || plant.rows("beside/").len() as u64 == ROWS);
    let refused = peer.requests();
    assert!(refused.len() < 20, "a peer that fails is not left in peace: {} requests", refused.len());
    // Then it asks for two seconds, once; then it is slow.
    let at = refused.len() + 1;
    peer.change(
        move |n, _| if n <= at { Answer::Later(429, 2) } else { Answer::Slowly(Duration::from_millis(20)) },
    );
    plant.append_numbers("rows.jsonl", ROWS..ROWS + 20);
    plant.until("the branch beside", || plant.rows("beside/").len() as u64 == ROWS + 20);
    let all: BTreeSet<u64> = (0..ROWS + 20).collect();
    until_all_are_taken(&plant, &peer, &all);
    plant.stop(daemon);
    each_once(&peer, &all);
    let requests = peer.requests();
    keys_are_kept(&requests);
    let asked = requests.iter().position(|one| one.status == 429).expect("it asked for time");
    let waited = requests[asked + 1].at - requests[asked].at;
    println!("slow: after `Retry-After: 2` the next request came after {waited:?}");
    assert!(waited >= Duration::from_millis(1_900), "{waited:?}");
}

#[test]
fn what_a_peer_refuses_is_kept_and_its_neighbours_are_taken_once() {
    let refuses = |numbers: &[u64]| numbers.iter().any(|n| n % 10 == 4);
    let peer = Peer::start(move |at, numbers| match (refuses(numbers), at % 9 == 5) {
        (_, true) => Answer::Status(500),
        (true, _) => Answer::Status(422),
        (false, _) => Answer::Status(200),
    });
    let plant = plant(&peer, "");
    let daemon = plant.start();
    let wanted: BTreeSet<u64> = (0..ROWS).filter(|n| n % 10 != 4).collect();
    until_all_are_taken(&plant, &peer, &wanted);
    plant.until("dead letters", || plant.letters().len() as u64 >= ROWS / 10);
    plant.stop(daemon);
    each_once(&peer, &wanted);
    let refused: Vec<u64> =
        peer.requests().iter().filter(|one| one.status == 422).map(|one| one.numbers[0]).collect();
    assert_eq!(refused.len() as u64, ROWS / 10, "a refusal is asked for again: {refused:?}");
    assert_eq!(plant.letters().len() as u64, ROWS / 10);
}

#[test]
fn a_peer_that_never_answers_is_given_up_and_tried_again() {
    let peer = Peer::start(|at, _| if at < 2 { Answer::Never } else { Answer::Status(200) });
    let plant = plant(&peer, "");
    let topology = std::fs::read_to_string(plant.file("plant.toml")).expect("is there");
    plant.write("plant.toml", &topology.replace("rows_max = 1", "rows_max = 1\ntimeout  = \"700ms\""));
    let started = Instant::now();
    let daemon = plant.start();
    plant.until_said("no answer from");
    plant.until("the branch beside", || plant.rows("beside/").len() as u64 == ROWS);
    let all: BTreeSet<u64> = (0..ROWS).collect();
    until_all_are_taken(&plant, &peer, &all);
    println!("slow: a peer that hung twice for 700 ms was done after {:?}", started.elapsed());
    pause(100);
    plant.stop(daemon);
    each_once(&peer, &all);
    keys_are_kept(&peer.requests());
}
