//! Refused once is there once, whatever the crash; what was asked for goes out
//! once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;

use super::*;
use crate::testing::disk::SimDisk;
use crate::testing::seed::Seed;
use crate::time::SystemClock;

const DATA: &str = "/data";
const LIMIT: Duration = Duration::from_secs(20);

fn rows(numbers: &[i64]) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
    RecordBatch::try_from_iter([("n", column)]).expect("one column")
}

fn dead(disk: &SimDisk) -> DeadLetters {
    DeadLetters::new(Arc::new(disk.plugged()), Arc::new(SystemClock), Path::new(DATA), "out")
}

fn shelf(disk: &SimDisk) -> Vec<DeadLetter> {
    let vfs: Arc<dyn Vfs> = Arc::new(disk.plugged());
    Shelf::new("out", Path::new(DATA), vfs).letters().expect("readable")
}

fn number(letter: &DeadLetter) -> i64 {
    letter.row.column(0).as_primitive::<Int64Type>().value(0)
}

async fn refuse(dead: &DeadLetters, epoch: u64, numbers: &[i64]) {
    let reasons: Vec<String> = numbers.iter().map(|n| format!("bad {n}")).collect();
    dead.refuse(epoch, &reasons, &rows(numbers)).await.expect("kept");
}

#[tokio::test]
async fn letters_of_an_epoch_that_comes_again_are_there_once() {
    let test = async {
        let disk = SimDisk::default();
        let first = dead(&disk);
        first.resume(0).await.expect("nothing there");
        refuse(&first, 1, &[1, 2]).await;
        refuse(&first, 2, &[3]).await;
        disk.restart(&mut Seed::new(1));
        // Epoch 1 was the last durable one.
        let second = dead(&disk);
        second.resume(1).await.expect("opens");
        assert_eq!(shelf(&disk).iter().map(number).collect::<Vec<_>>(), [1, 2]);
        refuse(&second, 2, &[3]).await;
        let letters = shelf(&disk);
        assert_eq!(letters.iter().map(number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(letters[1].letter.reason, "bad 2");
        assert!(letters.iter().all(|letter| letter.fate == Fate::Refused && !letter.is_replayed));
    };
    tokio::time::timeout(LIMIT, test).await.expect("in time");
}

#[tokio::test]
async fn what_was_asked_for_goes_out_once_and_comes_back_when_its_epoch_does() {
    let test = async {
        let disk = SimDisk::default();
        let first = dead(&disk);
        first.resume(0).await.expect("nothing there");
        refuse(&first, 1, &[1, 2, 3]).await;
        let asked = [shelf(&disk)[0].id, shelf(&disk)[2].id];
        let vfs: Arc<dyn Vfs> = Arc::new(disk.plugged());
        request(&Shelf::new("out", Path::new(DATA), vfs), &asked, "one").expect("durable");
        assert_eq!(
            shelf(&disk).iter().map(|letter| letter.is_requested).collect::<Vec<_>>(),
            [true, false, true]
        );
        let replay = first.requested().await.expect("readable").pop().expect("one");
        let sent = |replay: &Replay| {
            replay
                .rows
                .iter()
                .map(|rows| rows.column(0).as_primitive::<Int64Type>().value(0))
                .collect::<Vec<_>>()
        };
        assert_eq!((sent(&replay), replay.ids.as_slice()), (vec![1, 3], &asked[..]));
        first.replayed(2, &replay.ids).await.expect("kept");
        assert!(shelf(&disk)[0].is_replayed && !shelf(&disk)[0].is_requested);
        disk.restart(&mut Seed::new(2));
        // Epoch 2 was not durable: its rows are to go out again.
        let second = dead(&disk);
        second.resume(1).await.expect("opens");
        let replay = second.requested().await.expect("readable").pop().expect("one");
        assert_eq!(sent(&replay), [1, 3]);
        second.replayed(2, &replay.ids).await.expect("kept");
        disk.restart(&mut Seed::new(3));
        // Now it was, but the request has not been removed.
        let third = dead(&disk);
        third.resume(2).await.expect("opens");
        let replay = third.requested().await.expect("readable").pop().expect("one");
        assert!(replay.ids.is_empty(), "{replay:?}");
        third.forget_request(&replay.request).expect("removed");
        assert!(third.requested().await.expect("readable").is_empty());
    };
    tokio::time::timeout(LIMIT, test).await.expect("in time");
}

#[tokio::test]
async fn the_oldest_make_room() {
    let test = async {
        let disk = SimDisk::default();
        let mut dead = dead(&disk);
        dead.bytes_max = 6 << 20;
        dead.resume(0).await.expect("nothing there");
        let many: Vec<i64> = (0..50_000).collect();
        for epoch in 1..=6 {
            refuse(&dead, epoch, &many).await;
        }
        let letters = shelf(&disk);
        assert!((50_000..300_000).contains(&letters.len()), "{}", letters.len());
        assert_eq!(letters.last().map(number), many.last().copied());
    };
    tokio::time::timeout(LIMIT, test).await.expect("in time");
}
