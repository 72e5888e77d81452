//! Where a PostgreSQL server is, and a connection to it. A wish for TLS is an
//! error and never ignored. No message holds a password.

use std::time::Duration;

use tidegate_engine::secret::{Secret, SecretRef};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

use crate::sink_log::RemoteError;

/// Name of our connections in the server's lists.
const APPLICATION: &str = "tidegate";
/// An attempt to connect to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// A silent connection is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where the server is.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) url: SecretRef,
    pub(super) password: Option<SecretRef>,
}

impl Server {
    /// Reads a url.
    ///
    /// # Errors
    /// A sentence that does not repeat the url.
    pub(super) fn parse(url: &Secret) -> Result<Config, String> {
        let text = url.expose();
        if !text.starts_with("postgresql://") && !text.starts_with("postgres://") {
            return Err("the url of a server begins with postgresql://".into());
        }
        let config: Config = text.parse().map_err(|error| match with_cause(&error) {
            // Older servers' and libpq's words that the library does not know.
            reason if text.contains("sslmode=") => {
                format!("{reason}; TLS to PostgreSQL is not supported yet")
            }
            reason => format!("the url cannot be read: {reason}"),
        })?;
        if config.get_ssl_mode() == SslMode::Require {
            let message = "TLS to PostgreSQL is not supported yet, and sslmode=require asks for it";
            return Err(message.into());
        }
        if config.get_hosts().is_empty() || config.get_dbname().is_none() {
            return Err("the url names no host or no database".into());
        }
        Ok(config)
    }

    /// A new connection; it is closed when the client is dropped.
    pub(super) async fn connect(&self) -> Result<Client, RemoteError> {
        let url = self.url.resolve().map_err(RemoteError::Lost)?;
        let mut config = Server::parse(&url).map_err(RemoteError::Fatal)?;
        if let Some(password) = &self.password {
            config.password(password.resolve().map_err(RemoteError::Lost)?.expose());
        }
        config.application_name(APPLICATION).connect_timeout(CONNECT_TIMEOUT).keepalives_idle(KEEPALIVE);
        config.ssl_mode(SslMode::Disable);
        let connected = config.connect(NoTls).await;
        let (client, connection) = connected.map_err(|error| RemoteError::Lost(with_cause(&error)))?;
        tokio::spawn(async move {
            // Whoever waits for an answer hears of it too.
            if let Err(error) = connection.await {
                tracing::debug!("a connection to PostgreSQL has ended: {error}");
            }
        });
        Ok(client)
    }
}

/// The library's message names the cause only in its source.
pub(super) fn with_cause(error: &tokio_postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        let detail = answer.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}: {}{detail}", answer.code().code(), answer.message());
    }
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<(), String> {
        let url = SecretRef::new(url).resolve().expect("a literal");
        Server::parse(&url).map(drop)
    }

    #[test]
    fn a_wish_for_tls_is_never_ignored() {
        assert_eq!(parse("postgresql://u:p@h/d"), Ok(()));
        assert_eq!(parse("postgresql://u:p@h:1/d?sslmode=disable"), Ok(()));
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = parse(&format!("postgresql://u:hunter2@h/d?sslmode={mode}")).expect_err("no TLS");
            assert!(error.contains("TLS") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_repeating_it() {
        for url in ["host=h user=u password=hunter2", "mysql://u:hunter2@h/d", "postgresql://u:hunter2@h:x/d"]
        {
            let error = parse(url).expect_err("no url");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(parse("postgresql://").is_err());
    }
}
