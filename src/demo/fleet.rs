//! A fleet: an MQTT broker and three refrigerated trucks that publish their
//! temperature. One gets warm until it is told to cool, one falls silent.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rumqttd::{Broker, Config, ConnectionSettings, Notification, RouterConfig, ServerSettings};
use tidegate_engine::time::{Clock, SystemClock};
use tokio::task::JoinHandle;

use crate::exit::{FAILED, Failure};

/// The trucks publish this often.
const STEP: Duration = Duration::from_millis(250);
/// The truck that gets warm, from this step on.
const WARM: (&str, u32) = ("truck-2", 8);
/// The truck that falls silent, at this step.
const SILENT: (&str, u32) = ("truck-3", 20);
/// Every truck.
const TRUCKS: [&str; 3] = ["truck-1", "truck-2", "truck-3"];

pub(super) struct Fleet {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fleet {
    pub(super) fn start() -> Result<Fleet, Failure> {
        let failed = |reason: &dyn std::fmt::Display| {
            Failure::new(FAILED, format!("cannot start the simulated MQTT broker: {reason}"))
        };
        // The broker binds the address itself, so a free one is found first.
        let free = TcpListener::bind("127.0.0.1:0").map_err(|error| failed(&error))?;
        let address = free.local_addr().map_err(|error| failed(&error))?;
        drop(free);
        let mut broker = Broker::new(config(address));
        let (mut publisher, _acks) = broker.link("trucks").map_err(|error| failed(&error))?;
        let (mut listener, mut commands) = broker.link("cooling").map_err(|error| failed(&error))?;
        thread::Builder::new()
            .name("mqtt-broker".into())
            .spawn(move || {
                if let Err(error) = broker.start() {
                    tracing::warn!("the simulated MQTT broker has stopped: {error}");
                }
            })
            .map_err(|error| failed(&error))?;
        listener.subscribe("fleet/+/cmd").map_err(|error| failed(&error))?;
        let cooling = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&cooling);
        thread::Builder::new()
            .name("truck-cooling".into())
            .spawn(move || {
                while let Ok(notification) = commands.recv() {
                    if let Some(Notification::Forward(_)) = notification {
                        told.store(true, Relaxed);
                    }
                }
            })
            .map_err(|error| failed(&error))?;
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(STEP);
            let mut warm_c = 5.0;
            for step in 0_u32.. {
                ticks.tick().await;
                warm_c += warming(step, cooling.load(Relaxed), warm_c);
                for truck in TRUCKS {
                    if truck == SILENT.0 && step >= SILENT.1 {
                        continue;
                    }
                    let c = if truck == WARM.0 { warm_c } else { 4.0 + f64::from(step % 5) * 0.1 };
                    let payload = format!(
                        r#"{{"c":{c:.2},"door":"closed","at":"{}","seq":{step}}}"#,
                        SystemClock.now()
                    );
                    if let Err(error) = publisher.try_publish(format!("fleet/{truck}/temp"), payload) {
                        tracing::debug!("simulated truck: {error}");
                    }
                }
            }
        });
        Ok(Fleet { address, task })
    }
}

/// How much warmer the warm truck is after a step.
fn warming(step: u32, cooling: bool, c: f64) -> f64 {
    if cooling {
        if c > 4.0 { -0.3 } else { 0.0 }
    } else if step > WARM.1 && c < 14.0 {
        0.5
    } else {
        0.0
    }
}

fn config(address: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 1024 * 1024,
        max_inflight_count: 200,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = |name: &str, listen| ServerSettings {
        name: name.to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: connections.clone(),
    };
    Config {
        id: 0,
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 200,
            max_segment_size: 1024 * 1024,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("v4".to_owned(), server("v4", address))])),
        ..Config::default()
    }
}
