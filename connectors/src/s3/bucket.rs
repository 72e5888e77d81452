//! A bucket and how it is reached: a client for it, and what its errors mean
//! to a person.

use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::{BackoffConfig, ClientOptions, Error, RetryConfig};
use tidegate_engine::secret::SecretRef;

use super::patience::Patient;
use crate::sink_log::RemoteError;

/// One request: a part of an upload over a slow line takes that long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(45);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A request that failed is repeated for so long; then everything begins anew.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRIES: usize = 4;
/// Bytes of an error that a message shows.
const SHOWN: usize = 400;

/// Where objects go.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    pub(super) name: String,
    /// Empty, or ends with a slash.
    pub(super) prefix: String,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) allow_http: bool,
    pub(super) conditional_put: bool,
    /// Without them the environment's.
    pub(super) keys: Option<Keys>,
    pub(super) patient: Patient,
}

/// References to an access key.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) id: SecretRef,
    pub(super) secret: SecretRef,
}

impl Bucket {
    /// A client, with secrets as they are now.
    pub(super) fn client(&self) -> Result<AmazonS3, RemoteError> {
        // The daemon has chosen one; a test's process may not have.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let chosen = rustls::crypto::ring::default_provider().install_default();
            drop(chosen);
        }
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(200),
                max_backoff: Duration::from_secs(3),
                base: 2.0,
            },
            max_retries: RETRIES,
            retry_timeout: RETRY_TIMEOUT,
        };
        let options = ClientOptions::new()
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(self.allow_http);
        let conditional =
            if self.conditional_put { S3ConditionalPut::ETagMatch } else { S3ConditionalPut::Disabled };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.name)
            .with_client_options(options)
            .with_allow_http(self.allow_http)
            .with_retry(retry)
            .with_conditional_put(conditional)
            .with_http_connector(self.patient.clone());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(Keys { id, secret }) = &self.keys {
            let id = id.resolve().map_err(RemoteError::Lost)?;
            let secret = secret.resolve().map_err(RemoteError::Lost)?;
            builder = builder.with_access_key_id(id.expose()).with_secret_access_key(secret.expose());
        }
        builder.build().map_err(|error| self.lost(&error))
    }

    /// What an error means, and its cure. The same trouble has the same words:
    /// it is told once.
    pub(super) fn lost(&self, error: &Error) -> RemoteError {
        let (bucket, at) = (&self.name, self.endpoint.as_deref().unwrap_or("AWS"));
        let gist = gist(error);
        let what = if gist.contains("NoSuchBucket") {
            format!("there is no bucket `{bucket}` at {at}: make it, or correct `path`")
        } else if matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) {
            format!(
                "{at} refuses access to the bucket `{bucket}`: check the access key, the region, and that its policy \
                 allows s3:GetObject, s3:PutObject, s3:AbortMultipartUpload and s3:ListBucket on {bucket}/{}*",
                self.prefix
            )
        } else if self.keys.is_some() {
            format!("the bucket `{bucket}` at {at} cannot be used now")
        } else {
            format!(
                "the bucket `{bucket}` at {at} cannot be used now with the environment's or the machine's keys"
            )
        };
        RemoteError::Lost(format!("{what} ({gist})"))
    }
}

/// What a store said, without the numbers of this request; else the innermost
/// cause.
fn gist(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    loop {
        let of = |tag: &str| {
            let (_, rest) = text.split_once(&format!("<{tag}>"))?;
            rest.split_once("</").map(|(text, _)| text.trim().to_owned())
        };
        if let Some(code) = of("Code") {
            return of("Message").map_or_else(|| code.clone(), |message| format!("{code}: {message}"));
        }
        let Some(next) = cause else { return text.chars().take(SHOWN).collect() };
        text = next.to_string();
        cause = next.source();
    }
}
