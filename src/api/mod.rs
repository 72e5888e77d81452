//! The daemon's HTTP API on loopback: is it alive, is it ready, its metrics in
//! Prometheus' text format, and the state of every node.

mod seat;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tidegate_engine::flow::journal::Resolved;
use tidegate_engine::flow::key::parse_run_id;
use tidegate_engine::flow::scheduler::SchedulerHandle;
use tidegate_engine::flow::state::Resolution;
use tokio::net::TcpListener;

pub(crate) use self::seat::Seat;
use crate::exit::{FAILED, Failure};

/// What the API shows.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) metrics: PrometheusHandle,
    /// Every topology.
    pub(crate) topologies: Arc<Vec<Arc<Seat>>>,
}

/// Where a person's word about an unknown write is taken.
pub(crate) const RESOLVE: &str = "/flow/resolve";

/// A person's word about an unknown write.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Word {
    /// The run, as it is shown.
    pub(crate) run: String,
    /// The task.
    pub(crate) task: String,
    /// `done` or `failed`.
    #[serde(rename = "as")]
    pub(crate) resolution: String,
    /// Who says so.
    pub(crate) by: String,
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
        .route(RESOLVE, post(resolve))
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
    Json(shown.topologies.iter().map(|seat| seat.to_json()).collect())
}

/// Only JSON is taken, so that no page of a browser can send it unasked.
async fn resolve(State(shown): State<Shown>, Json(word): Json<Word>) -> (StatusCode, String) {
    let wrong = |reason: String| (StatusCode::BAD_REQUEST, format!("{reason}\n"));
    let (Some(run), Some(resolution)) = (parse_run_id(&word.run), Resolution::parse(&word.resolution)) else {
        return wrong(format!("{:?} is no number of a run, or {:?} no end", word.run, word.resolution));
    };
    // Numbers are instants of making: two topologies hardly ever share one.
    let open = |flows: &SchedulerHandle| matches!(flows.journal().open_run(run), Ok(Some(_)));
    let mut having = shown.topologies.iter().filter_map(|seat| seat.flows()).filter(open);
    let (Some(flows), None) = (having.next(), having.next()) else {
        return wrong(format!("no topology here, or more than one, has an open run {}", word.run));
    };
    let said = Resolved { task: word.task, resolution, who: word.by, at: flows.clock().now() };
    match flows.resolve(run, said).await {
        Ok(Ok(())) => (StatusCode::OK, "kept; the run goes on\n".into()),
        Ok(Err(reason)) => (StatusCode::CONFLICT, format!("{reason}\n")),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
