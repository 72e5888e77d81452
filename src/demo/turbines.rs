//! A wind farm: an OPC UA server with three turbines. The bearing of the
//! second one begins to fail after a few seconds; limiting its power calms it.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use opcua::server::address_space::VariableBuilder;
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use opcua::server::{ServerBuilder, ServerHandle};
use opcua::types::{DataTypeId, DataValue, NodeId, StatusCode, Variant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::exit::{FAILED, Failure};

/// The namespace of the turbines.
const NAMESPACE: &str = "urn:tidegate:wind-farm";
/// Turbines of the farm.
const NAMES: [&str; 3] = ["WTG01", "WTG02", "WTG03"];
/// The turbine whose bearing fails.
const FAILING: usize = 1;
/// New values this often.
const STEP: Duration = Duration::from_millis(50);
/// The bearing begins to fail after this many steps.
const FAILS_AFTER_STEPS: u32 = 60;

pub(super) struct Turbines {
    pub(super) endpoint: String,
    handle: ServerHandle,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Turbines {
    fn drop(&mut self) {
        self.handle.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Turbines {
    pub(super) async fn start() -> Result<Turbines, Failure> {
        let failed = |reason: &dyn std::fmt::Display| {
            Failure::new(FAILED, format!("cannot start the simulated OPC UA server: {reason}"))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| failed(&error))?;
        let port = listener.local_addr().map_err(|error| failed(&error))?.port();
        let namespace =
            NamespaceMetadata { namespace_uri: NAMESPACE.to_owned(), ..NamespaceMetadata::default() };
        let mut builder = ServerBuilder::new_anonymous("Tidegate demo")
            .host("127.0.0.1")
            .port(port)
            .application_uri("urn:tidegate:demo")
            .product_uri("urn:tidegate:demo")
            .create_sample_keypair(false)
            .pki_dir(std::env::temp_dir().join(format!("tidegate-demo-pki-{}", std::process::id())))
            .with_node_manager(simple_node_manager(namespace, "wind-farm"));
        builder.limits_mut().subscriptions.min_publishing_interval_ms = 20.0;
        builder.limits_mut().subscriptions.min_sampling_interval_ms = 10.0;
        let (server, handle) = builder.build().map_err(|error| failed(&error))?;
        let manager = handle.node_managers().get_of_type::<SimpleNodeManager>();
        let manager = manager.ok_or_else(|| failed(&"no node manager"))?;
        let index = handle.get_namespace_index(NAMESPACE).ok_or_else(|| failed(&"no namespace"))?;
        let limits: Arc<Vec<AtomicU64>> = Arc::new(NAMES.iter().map(|_| AtomicU64::new(100)).collect());
        let vibrations = add_nodes(&manager, index, &limits);
        let subscriptions = Arc::clone(handle.subscriptions());
        let physics = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(STEP);
            let mut step = 0;
            loop {
                ticks.tick().await;
                step += 1;
                let values: Vec<DataValue> = (0..NAMES.len())
                    .map(|turbine| DataValue::new_now(vibration(turbine, step, &limits)))
                    .collect();
                let updates = vibrations.iter().zip(values).map(|(node, value)| (node, None, value));
                if let Err(error) = manager.set_values(&subscriptions, updates) {
                    tracing::warn!("simulated turbines: {error}");
                }
            }
        });
        let serve = tokio::spawn(async move {
            if let Err(error) = server.run_with(listener).await {
                tracing::warn!("the simulated OPC UA server has stopped: {error}");
            }
        });
        let endpoint = format!("opc.tcp://127.0.0.1:{port}/");
        Ok(Turbines { endpoint, handle, tasks: [serve, physics] })
    }
}

/// Objects/WTGnn with Vibration (read) and PowerLimit (read and write).
fn add_nodes(manager: &Arc<SimpleNodeManager>, index: u16, limits: &Arc<Vec<AtomicU64>>) -> Vec<NodeId> {
    let space = manager.address_space();
    let mut vibrations = Vec::new();
    for (turbine, name) in NAMES.iter().enumerate() {
        let folder = NodeId::new(index, *name);
        let vibration = NodeId::new(index, format!("{name}.Vibration"));
        let limit = NodeId::new(index, format!("{name}.PowerLimit"));
        let mut space = space.write();
        space.add_folder(&folder, *name, *name, &NodeId::objects_folder_id());
        VariableBuilder::new(&vibration, "Vibration", "Vibration")
            .data_type(DataTypeId::Double)
            .value(0.0_f64)
            .organized_by(folder.clone())
            .insert(&mut *space);
        VariableBuilder::new(&limit, "PowerLimit", "PowerLimit")
            .data_type(DataTypeId::Double)
            .value(100.0_f64)
            .writable()
            .organized_by(folder)
            .insert(&mut *space);
        drop(space);
        let shown = Arc::clone(limits);
        manager.inner().add_read_callback(limit.clone(), move |_, _, _| {
            let percent = shown.get(turbine).map_or(100, |limit| limit.load(Relaxed));
            Ok(DataValue::new_now(f64::from(u32::try_from(percent).unwrap_or(100))))
        });
        let limits = Arc::clone(limits);
        manager.inner().add_write_callback(limit, move |value, _| {
            let Some(Variant::Double(percent)) = value.value else { return StatusCode::BadTypeMismatch };
            if !(0.0..=100.0).contains(&percent) {
                return StatusCode::BadOutOfRange;
            }
            if let Some(limit) = limits.get(turbine) {
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and 100"
                )]
                limit.store(percent as u64, Relaxed);
            }
            StatusCode::Good
        });
        vibrations.push(vibration);
    }
    vibrations
}

/// Vibration in mm/s: about 2 when sound, growing to about 9 when the bearing
/// fails (ISO 10816-21 calls over 8.5 mm/s unacceptable for such machines).
fn vibration(turbine: usize, step: u32, limits: &[AtomicU64]) -> f64 {
    let phase = f64::from(step) * 0.37;
    let sound = 2.0 + 0.4 * (phase + turbine_phase(turbine)).sin();
    let failing_for = step.saturating_sub(FAILS_AFTER_STEPS);
    let limited = limits.get(turbine).is_some_and(|limit| limit.load(Relaxed) < 50);
    if turbine != FAILING || failing_for == 0 || limited {
        return sound;
    }
    sound + (f64::from(failing_for) * 0.15).min(7.0) + 0.3 * (phase * TAU).sin()
}

fn turbine_phase(turbine: usize) -> f64 {
    match turbine {
        0 => 0.0,
        1 => 2.1,
        _ => 4.2,
    }
}
