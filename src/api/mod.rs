//! The daemon's HTTP API on loopback: is it alive, is it ready, its metrics in
//! Prometheus' text format, and the state of every node.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tidegate_engine::runtime::stats::NodeStats;
use tokio::net::TcpListener;

use crate::exit::{FAILED, Failure};

/// What the API shows.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) metrics: PrometheusHandle,
    /// Name and nodes of each topology.
    pub(crate) topologies: Arc<Vec<(String, Vec<Arc<NodeStats>>)>>,
}

/// Starts gathering metrics; must be called before any part is built.
pub(crate) fn install_metrics() -> Result<PrometheusHandle, Failure> {
    PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| Failure::new(FAILED, format!("cannot gather metrics: {error}")))
}

/// Serves until the runtime ends; answers once it listens.
pub(crate) async fn serve(listen: SocketAddr, shown: Shown) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Failure::new(FAILED, format!("cannot listen on {listen}: {error}")))?;
    let address = listener.local_addr().map_err(|error| Failure::new(FAILED, error))?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
        .with_state(shown);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("the API has stopped: {error}");
        }
    });
    Ok(address)
}

async fn metrics(State(shown): State<Shown>) -> Response {
    shown.metrics.run_upkeep();
    shown.metrics.render().into_response()
}

async fn status(State(shown): State<Shown>) -> Json<serde_json::Value> {
    let topologies = shown.topologies.iter().map(|(name, nodes)| {
        let nodes: Vec<_> = nodes.iter().map(|node| node.read()).collect();
        serde_json::json!({"topology": name, "nodes": nodes})
    });
    Json(topologies.collect())
}
