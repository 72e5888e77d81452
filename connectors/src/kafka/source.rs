//! The source `kafka`: the async side of the reading thread. Every message
//! that was handed over is either in rows, in rejects, or a counted tombstone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tidegate_engine::error::ConnectorError;
use tidegate_engine::source::{Committer, Polled, Position, Silence, Source};
use tidegate_engine::time::Clock;
use tokio::sync::oneshot;

use super::client::ClientSettings;
use super::commit::{CommitDesk, KafkaCommitter};
use super::context::{Context, Link, Reading};
use super::handoff::Given;
use super::position::Offsets;
use super::reader;
use super::slots::{RowMaker, Slots};

/// Rounds between the reading thread and `next`: one being taken, one ready.
const ROUNDS_MAX: usize = 2;

/// How long `close` waits for the reading thread; after it the thread ends by
/// itself (leaving a group can take as long as the brokers are away).
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Reads topics of a Kafka cluster as a member of a consumer group.
pub(super) struct KafkaSource {
    settings: ClientSettings,
    topics: Vec<String>,
    reading: Reading,
    maker: RowMaker,
    clock: Arc<dyn Clock>,
    desk: Arc<CommitDesk>,
    running: Option<Running>,
}

struct Running {
    link: Arc<Link>,
    /// Answers when the thread has ended.
    ended: oneshot::Receiver<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.link.stop.store(true, Ordering::Release);
    }
}

impl KafkaSource {
    /// A source that is not yet open.
    pub(super) fn new(
        settings: ClientSettings,
        topics: Vec<String>,
        reading: Reading,
        maker: RowMaker,
        clock: Arc<dyn Clock>,
    ) -> KafkaSource {
        let desk = Arc::new(CommitDesk::default());
        KafkaSource { settings, topics, reading, maker, clock, desk, running: None }
    }

    fn start(&self, resume: &Offsets, desk: Arc<CommitDesk>) -> Result<Running, ConnectorError> {
        let slots = Slots::new(self.maker.clone(), resume);
        let link = Arc::new(Link::new(ROUNDS_MAX, desk, slots));
        let (reading, clock) = (self.reading.clone(), Arc::clone(&self.clock));
        let context = Context::new(&self.maker.node, reading, Arc::clone(&link), clock);
        let consumer: BaseConsumer<Context> =
            self.settings.resolve()?.create_with_context(context).map_err(cannot_start)?;
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(cannot_start)?;
        let (done, ended) = oneshot::channel();
        let thread_link = Arc::clone(&link);
        std::thread::Builder::new()
            .name(format!("kafka-{}", self.maker.node))
            .spawn(move || {
                reader::run(consumer, &thread_link);
                if done.send(()).is_err() {
                    tracing::debug!("a kafka reader ended after its source stopped waiting for it");
                }
            })
            .map_err(|error| {
                ConnectorError::Lost(format!("cannot start the kafka reader's thread: {error}"))
            })?;
        Ok(Running { link, ended })
    }
}

fn cannot_start(error: impl std::fmt::Display) -> ConnectorError {
    ConnectorError::Fatal(format!("kafka: the consumer cannot be made: {error}"))
}

#[async_trait]
impl Source for KafkaSource {
    /// Until the group has assigned partitions, be it none: with the brokers away
    /// librdkafka goes on trying by itself.
    async fn open(&mut self, resume: Option<&Position>) -> Result<(), ConnectorError> {
        self.close().await?;
        let resume = resume.map(Position::read::<Offsets>).transpose()?.unwrap_or_default();
        // A desk of its own: requests for the previous consumer end with it.
        self.desk = Arc::new(CommitDesk::default());
        let running = self.start(&resume, Arc::clone(&self.desk))?;
        let link = Arc::clone(&running.link);
        self.running = Some(running);
        link.handoff.first().await
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        let Some(running) = &self.running else {
            return Err(ConnectorError::Lost("the kafka source is not open".into()));
        };
        match running.link.handoff.take().await {
            Given::Rows(rows) => Ok(Polled::Rows(rows)),
            Given::Partitions(ours) => Ok(Polled::Partitions(ours)),
            Given::End => Ok(Polled::End),
            Given::Failed(error) => Err(error),
        }
    }

    fn committer(&self) -> Option<Box<dyn Committer>> {
        Some(Box::new(KafkaCommitter { desk: Arc::clone(&self.desk) }))
    }

    fn silence(&self) -> Option<Arc<dyn Silence>> {
        let running = self.running.as_ref()?;
        Some(Arc::clone(&running.link) as Arc<dyn Silence>)
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.link.stop.store(true, Ordering::Release);
        if tokio::time::timeout(CLOSE_MAX, &mut running.ended).await.is_err() {
            tracing::warn!(
                node = self.maker.node,
                "the kafka consumer is still leaving its group; it is left to end by itself"
            );
        }
        Ok(())
    }
}
