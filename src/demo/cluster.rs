//! A Kafka cluster: librdkafka's own mock broker, on loopback sockets, with
//! the topics of the demo and a weather service that publishes a forecast.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tidegate_engine::time::{Clock, SystemClock};
use tokio::task::JoinHandle;

use crate::exit::{FAILED, Failure};

/// A new forecast this often.
const STEP: Duration = Duration::from_secs(1);

pub(super) struct Cluster {
    pub(super) brokers: String,
    task: JoinHandle<()>,
    _mock: MockCluster<'static, DefaultProducerContext>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    pub(super) fn start() -> Result<Cluster, Failure> {
        let failed = |reason: &dyn std::fmt::Display| {
            Failure::new(FAILED, format!("cannot start the simulated Kafka cluster: {reason}"))
        };
        let mock = MockCluster::new(1).map_err(|error| failed(&error))?;
        for topic in ["forecast", "bearing-features"] {
            mock.create_topic(topic, 2, 1).map_err(|error| failed(&error))?;
        }
        let brokers = mock.bootstrap_servers();
        let producer: ThreadedProducer<_> = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .set("linger.ms", "5")
            .create()
            .map_err(|error| failed(&error))?;
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(STEP);
            loop {
                ticks.tick().await;
                let payload = format!(r#"{{"field":"north","at":"{}","rain_mm":0.4}}"#, SystemClock.now());
                if let Err((error, _)) =
                    producer.send(BaseRecord::to("forecast").key("north").payload(&payload))
                {
                    tracing::debug!("simulated weather service: {error}");
                }
                if producer.in_flight_count() > 1_000 {
                    tracing::warn!("the simulated Kafka cluster takes no messages");
                }
            }
        });
        Ok(Cluster { brokers, task, _mock: mock })
    }
}
