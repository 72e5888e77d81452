//! What every MQTT node says about its connection. Checked when the file is
//! loaded; secrets and certificates are read at each connect, so that new ones
//! are used without a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::secret::{Secret, SecretRef};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::{Table, Text};

use super::link::{Link, Requests};
use super::v4::V4;
use super::v5::V5;
use super::{tls, wire};

/// Keys of every MQTT node.
pub(super) const CONNECTION_KEYS: &[Key] = &[
    required(
        "broker",
        Kind::Text,
        "mqtt://host:port, or mqtts:// for TLS; ports 1883 and 8883 may be left out",
    ),
    optional("version", Kind::Word(&["5", "3.1.1"]), "version of the protocol; default 5"),
    optional("client_id", Kind::Text, "name of this client at the broker; default tidegate-topology-node"),
    optional("user", Kind::Text, "the user's name"),
    optional("password", Kind::Secret, "the user's password"),
    optional("tls", Kind::Table(TLS_KEYS), "certificates; default: the system's authorities"),
    optional(
        "keep_alive",
        Kind::Duration,
        "a silent connection is checked this often; 5s or more, default 30s",
    ),
    optional("connect_timeout", Kind::Duration, "how long a connection may take to be made; default 10s"),
    optional("packet_max", Kind::Size, "largest packet that is taken; default 1MiB"),
];

const TLS_KEYS: &[Key] = &[
    optional("ca", Kind::Text, "PEM file with the authorities that may sign the broker's certificate"),
    optional("cert", Kind::Text, "PEM file with our own certificate"),
    optional("key", Kind::Text, "PEM file with the key of our own certificate"),
];

/// Shorter ones end connections that are only slow.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);
/// What the protocol can say: 65,535 s.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(65_535);

/// A connection as the file describes it.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    host: String,
    port: u16,
    is_v5: bool,
    /// Name of this client at the broker.
    pub(super) client_id: String,
    login: Option<(String, SecretRef)>,
    tls: Option<TlsFiles>,
    /// A silent connection is checked this often.
    pub(super) keep_alive: Duration,
    connect_timeout: Duration,
    packet_bytes_max: u32,
    /// Unacknowledged messages that we take at a time.
    pub(super) receive_maximum: u16,
    /// Unacknowledged messages that we send at a time.
    pub(super) in_flight_max: u16,
    /// How long the broker keeps our session; `None` for a clean one.
    pub(super) session_expiry: Option<Duration>,
}

/// The outgoing and the incoming half of a connection.
pub(super) type Halves = (Arc<dyn Requests>, Box<dyn Link>);

/// Certificate files.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsFiles {
    /// Authorities; `None` for the system's.
    pub(super) ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub(super) own: Option<(PathBuf, PathBuf)>,
}

/// Settings with secrets and certificates read.
pub(super) struct Resolved {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) client_id: String,
    pub(super) login: Option<(String, Secret)>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) keep_alive: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) packet_bytes_max: u32,
    pub(super) receive_maximum: u16,
    pub(super) session_expiry: Option<Duration>,
}

impl Resolved {
    /// `keep_alive` as the protocol says it.
    pub(super) fn keep_alive_s(&self) -> u16 {
        u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX)
    }
}

impl Settings {
    /// Reads `CONNECTION_KEYS` of a node: a clean session that sends.
    pub(super) fn from_config(
        config: &NodeConfig,
        context: &BuildContext,
        problems: &mut Vec<Diagnostic>,
    ) -> Settings {
        let table = &config.table;
        let broker = table
            .text("broker")
            .and_then(|text| Broker::parse(text).map_err(|problem| problems.push(problem)).ok());
        let Broker { host, port, with_tls } = broker.unwrap_or_default();
        let client_id = table
            .str("client_id")
            .map_or_else(|| format!("tidegate-{}-{}", context.topology, config.name), str::to_owned);
        if client_id.is_empty() || client_id.len() > 65_535 || client_id.contains('\0') {
            let problem = Diagnostic::error("TG-Q003", "`client_id` must have 1 to 65535 bytes and no NUL");
            problems.push(problem.at(table.span_of("client_id")));
        }
        Settings {
            host,
            port,
            is_v5: table.str("version") != Some("3.1.1"),
            client_id,
            login: login(table, problems),
            tls: tls_files(table, context, with_tls, problems),
            keep_alive: keep_alive(table, problems),
            connect_timeout: table.duration("connect_timeout").unwrap_or(Duration::from_secs(10)),
            packet_bytes_max: table
                .size("packet_max")
                .map_or(1 << 20, |size| u32::try_from(size).unwrap_or(u32::MAX)),
            receive_maximum: 16,
            in_flight_max: 1_000,
            session_expiry: None,
        }
    }

    fn resolve(&self) -> Result<Resolved, ConnectorError> {
        let fatal = |reason: String| ConnectorError::Fatal(format!("mqtt: {reason}"));
        let login = self.login.as_ref().map(|(user, password)| Ok((user.clone(), password.resolve()?)));
        Ok(Resolved {
            host: self.host.clone(),
            port: self.port,
            client_id: self.client_id.clone(),
            login: login.transpose().map_err(fatal)?,
            tls: self.tls.as_ref().map(tls::client_config).transpose().map_err(fatal)?,
            keep_alive: self.keep_alive,
            connect_timeout: self.connect_timeout,
            packet_bytes_max: self.packet_bytes_max,
            receive_maximum: self.receive_maximum,
            session_expiry: self.session_expiry,
        })
    }

    /// A link that connects at its first `poll`.
    ///
    /// # Errors
    /// `Fatal`, naming a secret or certificate that cannot be read.
    pub(super) fn link(&self) -> Result<Halves, ConnectorError> {
        let resolved = self.resolve()?;
        Ok(if self.is_v5 {
            wire::connect(V5::new(&resolved), &resolved)
        } else {
            wire::connect(V4::new(&resolved), &resolved)
        })
    }

    /// `host:port`, for messages.
    pub(super) fn broker(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// How long CONNACK and SUBACK may take together.
    pub(super) fn handshake_max(&self) -> Duration {
        self.connect_timeout * 2
    }

    /// No event for this long means that the connection hangs: an idle one has
    /// a ping in each `keep_alive`.
    pub(super) fn watchdog(&self) -> Duration {
        self.keep_alive * 2
    }
}

#[derive(Debug, Default)]
struct Broker {
    host: String,
    port: u16,
    with_tls: bool,
}

impl Broker {
    fn parse(text: &Text) -> Result<Broker, Diagnostic> {
        let wrong = |help: &str| {
            Diagnostic::error("TG-Q001", format!("`{}` is not the address of an MQTT broker", text.value))
                .at(text.span.clone())
                .help(help)
        };
        let form = "write mqtt://host:1883 or mqtts://host:8883";
        let (with_tls, rest) = match (text.value.strip_prefix("mqtt://"), text.value.strip_prefix("mqtts://"))
        {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(wrong(form)),
        };
        if rest.contains('@') {
            return Err(wrong("user and password have keys of their own: `user`, `password`"));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let default_port = if with_tls { 8_883 } else { 1_883 };
        // An IPv6 address stands in brackets: [::1]:1883.
        let (host, port) =
            match rest.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']')) {
                Some((host, port)) => (host, port.parse().map_err(|_| wrong(form))?),
                None => (rest, default_port),
            };
        let is_bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || port == 0 || is_bare_v6 || host.contains(['/', '?', '#', ' ']) {
            return Err(wrong(form));
        }
        Ok(Broker { host: host.to_owned(), port, with_tls })
    }
}

fn login(table: &Table, problems: &mut Vec<Diagnostic>) -> Option<(String, SecretRef)> {
    match (table.str("user"), table.str("password")) {
        (Some(user), password) => Some((user.to_owned(), SecretRef::new(password.unwrap_or_default()))),
        (None, Some(_)) => {
            let problem = Diagnostic::error("TG-Q003", "a `password` needs a `user`");
            problems.push(problem.at(table.span_of("password")));
            None
        }
        (None, None) => None,
    }
}

fn tls_files(
    table: &Table,
    context: &BuildContext,
    with_tls: bool,
    problems: &mut Vec<Diagnostic>,
) -> Option<TlsFiles> {
    let Some(tls) = table.table("tls") else { return with_tls.then(TlsFiles::default) };
    if !with_tls {
        let problem = Diagnostic::error("TG-Q003", "`tls` has no meaning for a broker at mqtt://");
        problems.push(problem.at(tls.span.clone()).help("write broker = \"mqtts://…\""));
    }
    let file = |key: &str| tls.str(key).map(|path| context.path(path));
    let own = match (file("cert"), file("key")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let problem = Diagnostic::error("TG-Q003", "`cert` and `key` belong together");
            problems.push(problem.at(tls.span.clone()));
            None
        }
    };
    Some(TlsFiles { ca: file("ca"), own })
}

fn keep_alive(table: &Table, problems: &mut Vec<Diagnostic>) -> Duration {
    let keep_alive = table.duration("keep_alive").unwrap_or(Duration::from_secs(30));
    if (KEEP_ALIVE_MIN..=KEEP_ALIVE_MAX).contains(&keep_alive) {
        return keep_alive;
    }
    let problem = Diagnostic::error("TG-Q003", "`keep_alive` must be from 5s to 18h");
    problems.push(problem.at(table.span_of("keep_alive")));
    KEEP_ALIVE_MIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{build_context, node};

    fn read(body: &str) -> (Settings, Vec<&'static str>) {
        let config = node(&format!("[source.s]\ntype = \"mqtt\"\n{body}"));
        let mut problems = Vec::new();
        let settings = Settings::from_config(&config, &build_context(), &mut problems);
        (settings, problems.into_iter().map(|problem| problem.code).collect())
    }

    #[test]
    fn reads_addresses() {
        for (url, expected) in [
            ("mqtt://broker", "broker:1883"),
            ("mqtts://broker/", "broker:8883"),
            ("mqtt://10.0.0.1:1884", "10.0.0.1:1884"),
            ("mqtt://[::1]:1884", "[::1]:1884"),
            ("mqtt://[::1]", "[::1]:1883"),
        ] {
            let (settings, problems) = read(&format!("broker = \"{url}\"\n"));
            assert_eq!((settings.broker().as_str(), problems.as_slice()), (expected, [].as_slice()), "{url}");
        }
        for url in [
            "broker:1883",
            "tcp://broker",
            "mqtt://",
            "mqtt://b:x",
            "mqtt://b:0",
            "mqtt://u:p@b",
            "mqtt://::1",
            "mqtt://b/x",
        ] {
            assert_eq!(read(&format!("broker = \"{url}\"\n")).1, ["TG-Q001"], "{url}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_said_at_once() {
        let (_, problems) = read(
            "broker = \"mqtt://b\"\npassword = \"p\"\ntls = { cert = \"c.pem\" }\nkeep_alive = \"1s\"\nclient_id = \"\"\n",
        );
        assert_eq!(problems, ["TG-Q003"; 5]);
    }
}
