//! Values per second from an OPC UA subscription to Arrow columns, against a
//! bare publish loop of the client library that only counts. The server runs
//! in a process of its own, on the same cores, and sets every node at a steady
//! rate, which bounds what can come: raise HZ to see where either falls behind.
//! Prints minimum, median and maximum of the runs.
//!
//! `cargo bench -p tidegate-connectors --bench opcua -- [RUNS] [SECONDS] [NODES] [HZ]`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first surprise and measures real time"
)]

#[path = "support/child.rs"]
mod child;
#[path = "../tests/support/topology.rs"]
mod topology;
#[path = "../tests/support/uaserver.rs"]
mod uaserver;

use std::sync::Arc;
use std::time::{Duration, Instant};

use child::{Child, cpu_time, numbers, report};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, pin_mut};
use opcua::client::services::{CreateMonitoredItems, CreateSubscription, Publish};
use opcua::client::{ClientBuilder, IdentityToken, Session, UARequest};
use opcua::types::{
    DataChangeNotification, DataValue, EndpointDescription, MessageSecurityMode, MonitoredItemCreateRequest,
    MonitoringMode, MonitoringParameters, NodeId, TimestampsToReturn, UserTokenPolicy,
};
use tidegate_connectors::SOURCES;
use tidegate_engine::source::Polled;
use uaserver::{NAMESPACE, UaServer};

/// Publishing interval of both.
const PUBLISHING: Duration = Duration::from_millis(100);
/// Values that the server keeps for each node.
const QUEUE: u32 = 100;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let numbers = numbers();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    if child::is_child() {
        runtime.block_on(serve(number(0, 1), number(1, 1)));
        return;
    }
    let (runs, seconds) = (number(0, 5), Duration::from_secs(number(1, 10)));
    let (nodes, hz) = (number(2, 10_000), number(3, 20));
    println!("{}; {nodes} nodes at {hz} Hz: {} values a second are offered", child::machine(), nodes * hz);
    let mut measured = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for _ in 0..runs {
        for (ours, (rates, costs)) in measured.iter_mut().enumerate() {
            // A server of its own, so that nobody inherits another's queues.
            let server = Child::start(&[nodes.to_string(), hz.to_string()]);
            let (values, cpu) = if ours == 1 {
                runtime.block_on(source(&server.told, seconds))
            } else {
                runtime.block_on(bare(&server.told, nodes, seconds))
            };
            rates.push(values / 1e3 / seconds.as_secs_f64());
            costs.push(values / 1e6 / cpu.as_secs_f64());
        }
    }
    let [(bare_rates, bare_costs), (rates, costs)] = &mut measured;
    let bare_rate = report("bare publish loop, values a second", "k", bare_rates);
    let rate = report("source.opcua, values a second", "k", rates);
    let bare_cost = report("bare publish loop, per CPU second", "M", bare_costs);
    let cost = report("source.opcua, per CPU second", "M", costs);
    println!("source.opcua = {:.2} x bare at the same offer", rate / bare_rate);
    println!("source.opcua = {:.2} x bare per CPU second", cost / bare_cost);
}

/// Sets all nodes at once, so many times a second, until this process is killed.
async fn serve(nodes: u64, hz: u64) {
    let pki = std::env::temp_dir().join(format!("tidegate-bench-pki-{}", std::process::id()));
    let nodes = usize::try_from(nodes).expect("a number of nodes");
    let server = UaServer::start(nodes, &pki).await;
    let ids: Vec<NodeId> = (0..nodes).map(|node| server.node(&format!("v{node}"))).collect();
    child::tell(&server.endpoint());
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / hz as f64));
    for round in 1_u32.. {
        ticks.tick().await;
        let value = DataValue::new_now(f64::from(round));
        let values: Vec<_> = ids.iter().map(|id| (id.clone(), value.clone())).collect();
        server.set(&values);
    }
}

/// Our source; answers the values read and the CPU time spent.
async fn source(endpoint: &str, span: Duration) -> (f64, Duration) {
    let text = format!(
        "[source.s]\ntype = \"opcua\"\nendpoint = \"{endpoint}\"\nnodes = [{{ browse = \"Objects/device/*\" }}]\nsampling = \"0s\"\npublishing = \"{}ms\"\nqueue = {QUEUE}\n",
        PUBLISHING.as_millis()
    );
    let row = SOURCES.iter().find(|row| row.name == "opcua").expect("a row");
    let part = (row.build)(&topology::node(&text), &topology::build_context()).expect("builds");
    let mut source = part.source;
    source.open(None).await.expect("opens");
    let mut committer = source.committer().expect("a subscription is acknowledged");
    let mut rows = async |until: Instant| {
        let mut count = 0;
        while let Ok(polled) =
            tokio::time::timeout(until.saturating_duration_since(Instant::now()), source.next()).await
        {
            let Polled::Rows(read) = polled.expect("no error") else { unreachable!("it does not end") };
            count += read.batch.num_rows();
            committer.commit(&read.position).await.expect("commits");
        }
        count
    };
    rows(Instant::now() + span / 4).await;
    let cpu = cpu_time();
    let count = rows(Instant::now() + span).await;
    let used = cpu_time() - cpu;
    source.close().await.expect("closes");
    (count as f64, used)
}

/// The client library with the least around it.
async fn bare(endpoint: &str, nodes: u64, span: Duration) -> (f64, Duration) {
    let mut client = ClientBuilder::new()
        .application_name("bare")
        .application_uri("urn:bare")
        .product_uri("urn:bare")
        .pki_dir(std::env::temp_dir().join("tidegate-bench-pki-bare"))
        .max_array_length(1_000_000)
        .max_message_size(64 << 20)
        .max_chunk_count(1_000)
        .recreate_subscriptions(false)
        .client()
        .expect("a client");
    let description: EndpointDescription =
        (endpoint, "None", MessageSecurityMode::None, UserTokenPolicy::anonymous()).into();
    let (session, event_loop) =
        client.connect_to_endpoint_directly(description, IdentityToken::Anonymous).expect("an endpoint");
    let driver = tokio::spawn(async move {
        let events = event_loop.enter();
        pin_mut!(events);
        while events.next().await.is_some() {}
    });
    assert!(session.wait_for_connection().await);
    let subscription = subscribe(&session, nodes).await;
    let mut outstanding = FuturesUnordered::new();
    let mut acks = Vec::new();
    let mut values = async |until: Instant| {
        let mut count = 0;
        loop {
            while outstanding.len() < 3 {
                outstanding.push(publish(Arc::clone(&session), subscription, std::mem::take(&mut acks)));
            }
            let left = until.saturating_duration_since(Instant::now());
            let Ok(Some(response)) = tokio::time::timeout(left, outstanding.next()).await else {
                return count;
            };
            let message: opcua::types::NotificationMessage = response;
            acks.push(message.sequence_number);
            for data in message.notification_data.iter().flatten() {
                let changes = data.inner_as::<DataChangeNotification>();
                count += changes.and_then(|changes| changes.monitored_items.as_ref()).map_or(0, Vec::len);
            }
        }
    };
    values(Instant::now() + span / 4).await;
    let cpu = cpu_time();
    let count = values(Instant::now() + span).await;
    let used = cpu_time() - cpu;
    session.disconnect().await.expect("takes leave");
    driver.abort();
    (count as f64, used)
}

async fn subscribe(session: &Arc<Session>, nodes: u64) -> u32 {
    let created = CreateSubscription::new(session)
        .publishing_interval(PUBLISHING)
        .max_lifetime_count(600)
        .max_keep_alive_count(10)
        .publishing_enabled(true)
        .send(session.channel())
        .await
        .expect("subscribes");
    let index = session.get_namespace_index(NAMESPACE).await.expect("a namespace");
    let all: Vec<u64> = (0..nodes).collect();
    for chunk in all.chunks(1_000) {
        let items = chunk.iter().map(|node| MonitoredItemCreateRequest {
            item_to_monitor: NodeId::new(index, format!("v{node}")).into(),
            monitoring_mode: MonitoringMode::Reporting,
            requested_parameters: MonitoringParameters {
                client_handle: u32::try_from(*node).expect("few"),
                sampling_interval: 0.0,
                queue_size: QUEUE,
                discard_oldest: true,
                ..MonitoringParameters::default()
            },
        });
        CreateMonitoredItems::new(created.subscription_id, session)
            .timestamps_to_return(TimestampsToReturn::Both)
            .items_to_create(items.collect())
            .send(session.channel())
            .await
            .expect("monitors");
    }
    created.subscription_id
}

async fn publish(
    session: Arc<Session>,
    subscription: u32,
    acks: Vec<u32>,
) -> opcua::types::NotificationMessage {
    let request = acks.iter().fold(Publish::new(&session), |request, ack| request.ack(subscription, *ack));
    request.send(session.channel()).await.expect("publishes").notification_message
}
