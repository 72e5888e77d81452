//! A store that says `Retry-After` gets no request before then: a short wait is
//! waited for, a long one is an error that says how long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use reqwest::header::RETRY_AFTER;
use tokio::time::Instant;

/// A wait up to here is part of a request.
const SHORT: Duration = Duration::from_secs(5);
/// Longest wait that a store is granted.
const LONGEST: Duration = Duration::from_secs(300);

/// Until when a store has asked to be left alone, and for how many seconds.
type Asked = Arc<Mutex<Option<(Instant, u64)>>>;

/// Makes clients that keep what a store has asked for; so do those that come
/// after them.
#[derive(Clone, Debug, Default)]
pub(super) struct Patient {
    asked: Asked,
}

impl HttpConnector for Patient {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service { inner, asked: Arc::clone(&self.asked) }))
    }
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    asked: Asked,
}

#[derive(Debug, thiserror::Error)]
#[error("the store asks to wait for {0} s")]
struct Wait(u64);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((until, seconds)) = asked {
            if until.saturating_duration_since(Instant::now()) > SHORT {
                return Err(HttpError::new(HttpErrorKind::Unknown, Wait(seconds)));
            }
            tokio::time::sleep_until(until).await;
        }
        let response = self.inner.execute(request).await?;
        if matches!(response.status().as_u16(), 429 | 503) {
            let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            if let Some(seconds) = header.and_then(|text| text.trim().parse().ok()) {
                let until = Instant::now() + Duration::from_secs(seconds).min(LONGEST);
                *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some((until, seconds));
            }
        }
        Ok(response)
    }
}
