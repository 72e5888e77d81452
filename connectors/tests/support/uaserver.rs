//! async-opcua's server in this process: fast, and every value can be set with
//! any status and time.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking")]
#![allow(dead_code, reason = "not every test file uses every helper")]

use std::path::Path;
use std::sync::Arc;

use opcua::crypto::SecurityPolicy;
use opcua::server::address_space::{AccessLevel, VariableBuilder};
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use opcua::server::{ANONYMOUS_USER_TOKEN_ID, ServerBuilder, ServerHandle, ServerUserToken};
use opcua::types::{DataTypeId, DataValue, MessageSecurityMode, NodeId, StatusCode, VariableId, Variant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The namespace of the nodes.
pub(crate) const NAMESPACE: &str = "urn:t";

/// A server that ends with the value.
pub(crate) struct UaServer {
    pub(crate) port: u16,
    manager: Arc<SimpleNodeManager>,
    handle: ServerHandle,
    index: u16,
    task: JoinHandle<()>,
}

impl Drop for UaServer {
    fn drop(&mut self) {
        self.handle.cancel();
        self.task.abort();
    }
}

impl UaServer {
    /// Objects/device with nodes `v0`, `v1`, … of type double; `pki` is a
    /// folder for certificates.
    pub(crate) async fn start(nodes: usize, pki: &Path) -> UaServer {
        UaServer::start_with(nodes, pki, false).await
    }

    /// `certificate`: it has one, which takes seconds to make, and with which
    /// passwords are encrypted.
    pub(crate) async fn start_with(nodes: usize, pki: &Path, certificate: bool) -> UaServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let namespace = NamespaceMetadata { namespace_uri: NAMESPACE.into(), ..NamespaceMetadata::default() };
        let users = [ANONYMOUS_USER_TOKEN_ID, "operator"];
        let mut builder = ServerBuilder::new()
            .application_name("test server")
            .application_uri("urn:test:server")
            .product_uri("urn:test:server")
            .host("127.0.0.1")
            .port(port)
            .pki_dir(pki)
            .create_sample_keypair(certificate)
            .trust_client_certs(true)
            .diagnostics_enabled(true)
            .discovery_urls(vec!["/".to_owned()])
            .add_user_token("operator", ServerUserToken::user_pass("operator", "right"))
            .add_endpoint("none", ("/", SecurityPolicy::None, MessageSecurityMode::None, &users[..]))
            .with_node_manager(simple_node_manager(namespace, "test"));
        let limits = builder.limits_mut();
        limits.max_array_length = 1_000_000;
        limits.max_message_size = 64 << 20;
        limits.max_chunk_count = 1_000;
        // Sessions of clients that were killed stay for a minute.
        limits.max_sessions = 1_000;
        limits.subscriptions.max_monitored_item_queue_size = 1_000;
        limits.subscriptions.min_publishing_interval_ms = 10.0;
        limits.subscriptions.min_sampling_interval_ms = 0.0;
        limits.subscriptions.max_queued_notifications = 1_000;
        limits.subscriptions.max_monitored_items_per_sub = 0;
        limits.subscriptions.max_notifications_per_publish = 0;
        let (server, handle) = builder.build().expect("a right configuration");
        let manager = handle.node_managers().get_of_type::<SimpleNodeManager>().expect("a node manager");
        let index = handle.get_namespace_index(NAMESPACE).expect("a namespace");
        let folder = NodeId::new(index, "device");
        let space = manager.address_space();
        space.write().add_folder(&folder, "device", "device", &NodeId::objects_folder_id());
        for node in 0..nodes {
            let name = format!("v{node}");
            VariableBuilder::new(&NodeId::new(index, name.as_str()), name.as_str(), name.as_str())
                .data_type(DataTypeId::Double)
                .value(0.0_f64)
                .organized_by(folder.clone())
                .insert(&mut *space.write());
        }
        let task = tokio::spawn(async move {
            server.run_with(listener).await.expect("the server runs");
        });
        UaServer { port, manager, handle, index, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("opc.tcp://127.0.0.1:{}/", self.port)
    }

    pub(crate) fn node(&self, name: &str) -> NodeId {
        NodeId::new(self.index, name)
    }

    /// Sets nodes at once.
    pub(crate) fn set(&self, values: &[(NodeId, DataValue)]) {
        self.setter()(values);
    }

    /// Sets nodes at once, from anywhere.
    pub(crate) fn setter(&self) -> impl Fn(&[(NodeId, DataValue)]) + Send + Sync + use<> {
        let (manager, subscriptions) = (Arc::clone(&self.manager), Arc::clone(self.handle.subscriptions()));
        move |values| {
            let values = values.iter().map(|(node, value)| (node, None, value.clone()));
            manager.set_values(&subscriptions, values).expect("the nodes are there");
        }
    }

    /// Adds a writable node; the callback says what becomes of a write.
    pub(crate) fn add_writable(
        &self,
        name: &str,
        value: impl Into<Variant>,
        on_write: impl Fn(&Variant) -> StatusCode + Send + Sync + 'static,
    ) {
        let id = self.node(name);
        let value: Variant = value.into();
        let held = Arc::new(std::sync::Mutex::new(value.clone()));
        VariableBuilder::new(&id, name, name)
            .data_type(DataTypeId::BaseDataType)
            .value(value)
            .writable()
            .access_level(AccessLevel::CURRENT_READ | AccessLevel::CURRENT_WRITE)
            .organized_by(self.node("device"))
            .insert(&mut *self.manager.address_space().write());
        let shown = Arc::clone(&held);
        self.manager.inner().add_read_callback(id.clone(), move |_, _, _| {
            Ok(DataValue::new_now(shown.lock().expect("no panic").clone()))
        });
        self.manager.inner().add_write_callback(id, move |written, _| {
            let Some(written) = written.value else { return StatusCode::BadTypeMismatch };
            let status = on_write(&written);
            if status.is_good() {
                *held.lock().expect("no panic") = written;
            }
            status
        });
    }

    fn count(&self, what: VariableId) -> u32 {
        let value = self.handle.info().diagnostics.summary.get(what).and_then(|value| value.value);
        match value {
            Some(Variant::UInt32(count)) => count,
            _ => u32::MAX,
        }
    }

    pub(crate) fn sessions(&self) -> u32 {
        self.count(VariableId::Server_ServerDiagnostics_ServerDiagnosticsSummary_CurrentSessionCount)
    }

    /// Sessions since the start.
    pub(crate) fn sessions_ever(&self) -> u32 {
        self.count(VariableId::Server_ServerDiagnostics_ServerDiagnosticsSummary_CumulatedSessionCount)
    }

    pub(crate) fn subscriptions(&self) -> u32 {
        self.count(VariableId::Server_ServerDiagnostics_ServerDiagnosticsSummary_CurrentSubscriptionCount)
    }
}
