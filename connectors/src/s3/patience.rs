//! A store that says `Retry-After` gets no request before then: a short wait is
//! waited for, a long one is an error that says how long.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use reqwest::header::RETRY_AFTER;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// A wait up to here is part of a request.
const SHORT: Duration = Duration::from_secs(5);
/// Longest wait that a store is granted.
const LONGEST: Duration = Duration::from_secs(300);

/// Clients that keep what a store has asked for.
#[derive(Debug, Default)]
pub(super) struct Patient {
    not_before: Arc<Mutex<Option<Instant>>>,
}

impl HttpConnector for Patient {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service { inner, not_before: Arc::clone(&self.not_before) }))
    }
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    not_before: Arc<Mutex<Option<Instant>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the store asks to wait for another {0} s")]
struct Wait(u64);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = not_before.map(|until| until.saturating_duration_since(Instant::now())) {
            if left > SHORT {
                return Err(HttpError::new(HttpErrorKind::Unknown, Wait(left.as_secs())));
            }
            tokio::time::sleep(left).await;
        }
        let response = self.inner.execute(request).await?;
        if matches!(response.status().as_u16(), 429 | 503) {
            let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            if let Some(seconds) = header.and_then(|text| text.trim().parse().ok()) {
                let until = Instant::now() + Duration::from_secs(seconds).min(LONGEST);
                *self.not_before.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
            }
        }
        Ok(response)
    }
}
