//! What the source `mqtt` says when an earlier process read before it, and the
//! broker kept nothing meanwhile.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod support;

use support::mosquitto::{FORGETFUL, Mosquitto, SILENCE, numbered, publish};
use support::topology::build_context;
use support::{LIMIT, is_silent, read, source};
use tempfile::TempDir;
use tidegate_engine::source::{Polled, Source, SourcePart};
use tidegate_engine::topology::node::BuildContext;

/// A context with a data folder of its own.
fn context() -> (BuildContext, TempDir) {
    let folder = tempfile::tempdir().expect("a folder is made");
    (BuildContext { data_dir: folder.path().to_owned(), ..build_context() }, folder)
}

fn build(broker: &Mosquitto, more: &str, context: &BuildContext) -> SourcePart {
    let schema = "format = \"json\"\nschema = { n = \"int64\" }\nkeep_alive = \"5s\"\n";
    source("mqtt", &format!("{}{schema}{more}", broker.broker()), context)
}

async fn open(source: &mut dyn Source) {
    tokio::time::timeout(LIMIT, source.open(None)).await.expect("in time").expect("opens");
}

/// A new process hears that there was one before, and acknowledges nothing in its name.
#[tokio::test]
async fn a_start_after_an_earlier_life_tells_a_gap_where_the_broker_keeps_nothing() {
    let broker = Mosquitto::start(FORGETFUL);
    for (keys, gap) in [("qos = 0", true), ("persistent = false", true), ("qos = 1", false)] {
        let (context, _folder) = context();
        let more = format!("topics = [\"t\"]\nclient_id = \"one\"\n{keys}\n");
        let mut part = build(&broker, &more, &context);
        open(part.source.as_mut()).await;
        publish(broker.port, numbered("t", 0..10)).await;
        let first = read(part.source.as_mut(), 10).await;
        assert_eq!(first.rejects(), 0, "{keys}: there is nothing before the first start");
        let position = first.position();
        part.source.committer().expect("has one").commit(&position).await.expect("is taken");
        part.source.close().await.expect("closes");
        let mut part = build(&broker, &more, &context);
        assert!(part.source.remembers());
        part.source.open(Some(&position)).await.expect("opens");
        publish(broker.port, numbered("t", 10..20)).await;
        let second = read(part.source.as_mut(), 10 + usize::from(gap)).await;
        let told = second.rejected("reason");
        assert_eq!(told.iter().filter(|reason| reason.starts_with("gap: we were away")).count(), told.len());
        assert_eq!((told.len(), second.numbers("n")), (usize::from(gap), (10..20).collect()), "{keys}");
        // What was acknowledged in the life before is another connection's.
        part.source.committer().expect("has one").commit(&position).await.expect("is taken");
        assert_ne!(second.position(), position);
        part.source.close().await.expect("closes");
    }
}

/// Also when no message came in the earlier life: what came after it is missed all the same.
#[tokio::test]
async fn a_life_without_messages_is_remembered_where_the_broker_keeps_nothing() {
    let broker = Mosquitto::start(FORGETFUL);
    for keys in ["qos = 0", "persistent = false"] {
        let (context, _folder) = context();
        let more = format!("topics = [\"t\"]\nclient_id = \"one\"\n{keys}\n");
        let mut part = build(&broker, &more, &context);
        open(part.source.as_mut()).await;
        let polled = tokio::time::timeout(LIMIT, part.source.next()).await.expect("in time");
        let Polled::Rows(rows) = polled.expect("no error") else { panic!("no rows") };
        assert_eq!((rows.batch.num_rows(), rows.rejects), (0, None), "{keys}");
        assert!(is_silent(part.source.as_mut(), SILENCE).await, "{keys}: it is said once");
        part.source.close().await.expect("closes");
        let mut part = build(&broker, &more, &context);
        part.source.open(Some(&rows.position)).await.expect("opens");
        let told = read(part.source.as_mut(), 1).await.rejected("reason");
        assert!(told[0].starts_with("gap: we were away"), "{keys}: {told:?}");
        part.source.close().await.expect("closes");
    }
}
