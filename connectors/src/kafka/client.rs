//! The settings every Kafka client has: brokers, SASL, TLS and librdkafka's own
//! options. Checked when the file is loaded, without connecting; secrets are
//! read at each connect and appear in no message.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use tidegate_engine::diagnostic::{Diagnostic, Span};
use tidegate_engine::error::ConnectorError;
use tidegate_engine::secret::SecretRef;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::{Data, Table, Value};

/// Keys of every Kafka node.
pub(super) const CLIENT_KEYS: &[Key] = &[
    required("brokers", Kind::List(&Kind::Text), "host:port of one or more brokers of the cluster").outside(),
    optional("sasl", Kind::Table(SASL_KEYS), "user and password for the brokers; default: none"),
    optional(
        "tls",
        Kind::AnyOf(&[Kind::Bool, Kind::Table(TLS_KEYS)]),
        "true, or a table with certificates; default: false",
    ),
    optional(
        "librdkafka",
        Kind::Map(&Kind::AnyOf(&[Kind::Text, Kind::Int(i64::MIN, i64::MAX), Kind::Number, Kind::Bool])),
        "options of librdkafka by their own names, e.g. { \"fetch.min.bytes\" = 1024 }",
    ),
];

const SASL_KEYS: &[Key] = &[
    optional(
        "mechanism",
        Kind::Word(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]),
        "how the password is shown; default SCRAM-SHA-512",
    ),
    required("user", Kind::Text, "the user's name"),
    required("password", Kind::Secret, "the user's password"),
];

const TLS_KEYS: &[Key] = &[
    optional("ca", Kind::Text, "PEM file with the authorities that may sign the broker's certificate"),
    optional("cert", Kind::Text, "PEM file with our own certificate"),
    optional("key", Kind::Text, "PEM file with the key of our own certificate"),
    optional("key_password", Kind::Secret, "password of the key"),
    optional("verify", Kind::Bool, "whether the broker's name must match its certificate; default true"),
];

/// Options that Tidegate sets itself, and the key to use instead.
const OURS: &[(&str, &str)] = &[
    ("bootstrap.servers", "use `brokers`"),
    ("metadata.broker.list", "use `brokers`"),
    ("group.id", "use `group`"),
    ("auto.offset.reset", "use `start`"),
    ("enable.auto.commit", "offsets are committed when their rows are durable"),
    ("enable.auto.offset.store", "offsets are committed when their rows are durable"),
    ("enable.partition.eof", "ends are found in librdkafka's statistics"),
    ("statistics.interval.ms", "lag and silence are found in the statistics"),
    ("security.protocol", "use `tls` and `sasl`"),
    ("sasl.username", "use `sasl`"),
    ("sasl.password", "use `sasl`"),
    ("sasl.mechanism", "use `sasl`"),
    ("sasl.mechanisms", "use `sasl`"),
    ("enable.idempotence", "use `idempotent`"),
    ("partitioner", "use `partitioner`"),
    ("transactional.id", "use `delivery = \"exactly_once\"` and `transactional_id`"),
    ("transaction.timeout.ms", "use `delivery_timeout`"),
];

/// What both clients of ours set: recovery in seconds instead of ten, dead
/// peers noticed.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "tidegate"),
    // 10 s by default: recovery after all brokers were down took 6 s, measured.
    ("reconnect.backoff.max.ms", "2000"),
    ("socket.keepalive.enable", "true"),
];

/// Settings of a client, its secrets not yet read.
#[derive(Clone, Debug)]
pub(super) struct ClientSettings {
    plain: ClientConfig,
    secrets: Vec<(String, SecretRef)>,
}

impl ClientSettings {
    /// Reads the node's keys. `defaults` may be overruled by the file's
    /// `librdkafka` table, `fixed` may not.
    pub(super) fn from_config(
        config: &NodeConfig,
        context: &BuildContext,
        defaults: &[(&str, &str)],
        problems: &mut Vec<Diagnostic>,
    ) -> ClientSettings {
        let mut settings = ClientSettings { plain: ClientConfig::new(), secrets: Vec::new() };
        for (name, value) in DEFAULTS.iter().chain(defaults) {
            settings.set(name, *value);
        }
        settings.brokers(&config.table, problems);
        settings.security(&config.table, context);
        if let Some(table) = config.table.table("librdkafka") {
            for entry in &table.entries {
                settings.option(&entry.key, &entry.key_span, &entry.value, problems);
            }
        }
        settings
    }

    /// Sets an option whatever the file says.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.plain.set(name, value);
    }

    /// Everything, with the secrets as they are now.
    ///
    /// # Errors
    /// `Fatal`, naming a secret that cannot be read.
    pub(super) fn resolve(&self) -> Result<ClientConfig, ConnectorError> {
        let mut all = self.plain.clone();
        for (name, secret) in &self.secrets {
            let value = secret.resolve().map_err(ConnectorError::Fatal)?;
            all.set(name, value.expose());
        }
        Ok(all)
    }

    fn brokers(&mut self, table: &Table, problems: &mut Vec<Diagnostic>) {
        let brokers = table.texts("brokers");
        for broker in &brokers {
            let port = broker.value.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) || broker.value.contains([',', '/', ' ']) {
                problems.push(
                    Diagnostic::error(
                        "TG-K001",
                        format!("`{}` is not the address of a broker", broker.value),
                    )
                    .at(broker.span.clone())
                    .help("write host:port, e.g. \"kafka-1:9092\""),
                );
            }
        }
        if brokers.is_empty() {
            let problem = Diagnostic::error("TG-K001", "`brokers` names no broker");
            problems.push(problem.at(table.span_of("brokers")).help("write brokers = [\"kafka-1:9092\"]"));
        }
        let list: Vec<&str> = brokers.iter().map(|broker| broker.value.as_str()).collect();
        self.set("bootstrap.servers", list.join(","));
    }

    fn security(&mut self, table: &Table, context: &BuildContext) {
        let tls = table.table("tls");
        let with_tls = tls.is_some() || table.bool("tls") == Some(true);
        if let Some(tls) = tls {
            for (key, option) in
                [("ca", "ssl.ca.location"), ("cert", "ssl.certificate.location"), ("key", "ssl.key.location")]
            {
                if let Some(path) = tls.str(key) {
                    self.set(option, context.path(path).to_string_lossy());
                }
            }
            if let Some(password) = tls.str("key_password") {
                self.secrets.push(("ssl.key.password".into(), SecretRef::new(password)));
            }
            if tls.bool("verify") == Some(false) {
                self.set("ssl.endpoint.identification.algorithm", "none");
            }
        }
        let sasl = table.table("sasl");
        if let Some(sasl) = sasl {
            self.set("sasl.mechanism", sasl.str("mechanism").unwrap_or("SCRAM-SHA-512"));
            self.set("sasl.username", sasl.str("user").unwrap_or_default());
            let password = SecretRef::new(sasl.str("password").unwrap_or_default());
            self.secrets.push(("sasl.password".into(), password));
        }
        let protocol = match (with_tls, sasl.is_some()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        };
        self.set("security.protocol", protocol);
    }

    fn option(&mut self, name: &str, name_span: &Span, value: &Value, problems: &mut Vec<Diagnostic>) {
        if let Some((_, instead)) = OURS.iter().find(|(ours, _)| *ours == name) {
            let problem = Diagnostic::error("TG-K002", format!("`{name}` is set by the topology itself"));
            problems.push(problem.at(name_span.clone()).help(*instead));
            return;
        }
        let text = match &value.data {
            Data::Text(text) => text.value.clone(),
            Data::Int(number) => number.to_string(),
            Data::Float(number) => number.to_string(),
            Data::Bool(flag) => flag.to_string(),
            // Refused by the key's kind before.
            Data::Datetime | Data::List(_) | Data::Table(_) => return,
        };
        let secret = SecretRef::new(text.as_str());
        if secret.is_reference() {
            self.secrets.push((name.to_owned(), secret));
            return;
        }
        let mut probe = ClientConfig::new();
        match probe.set(name, text.as_str()).create_native_config() {
            Ok(_) => self.set(name, text),
            Err(error) => problems.push(refused_option(name, &error, name_span, &value.span)),
        }
    }
}

fn refused_option(name: &str, error: &KafkaError, name_span: &Span, value_span: &Span) -> Diagnostic {
    let reason = if let KafkaError::ClientConfig(_, reason, _, _) = error {
        reason.clone()
    } else {
        error.to_string()
    };
    let unknown = reason.starts_with("No such configuration property");
    let (message, span) = if unknown {
        (format!("librdkafka has no option `{name}`"), name_span)
    } else {
        (format!("librdkafka refuses this value of `{name}`: {reason}"), value_span)
    };
    let diagnostic = Diagnostic::error("TG-K003", message).at(span.clone());
    diagnostic.help("its options are listed in librdkafka's CONFIGURATION.md")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{build_context, node};

    fn read(body: &str) -> (ClientSettings, Vec<Diagnostic>) {
        let config = node(&format!("[source.s]\ntype = \"kafka\"\n{body}"));
        let mut problems = Vec::new();
        let settings = ClientSettings::from_config(&config, &build_context(), &[], &mut problems);
        (settings, problems)
    }

    #[test]
    fn options_pass_through_and_secrets_are_read_late() {
        let (settings, problems) = read(
            "brokers = [\"a:9092\", \"b:9093\"]\ntls = true\nsasl = { user = \"u\", password = \"p-1\" }\nlibrdkafka = { \"fetch.min.bytes\" = 7, \"client.rack\" = \"r1\" }\n",
        );
        assert_eq!(problems, []);
        assert_eq!(settings.plain.get("sasl.password"), None);
        let all = settings.resolve().expect("a literal secret resolves");
        let found = ["bootstrap.servers", "security.protocol", "sasl.password", "fetch.min.bytes"]
            .map(|name| all.get(name).unwrap_or("-").to_owned());
        assert_eq!(found, ["a:9092,b:9093", "sasl_ssl", "p-1", "7"]);
    }

    #[test]
    fn wrong_brokers_and_options_are_shown_at_once() {
        let (_, problems) = read(
            "brokers = [\"nowhere\", \"a:0\"]\nlibrdkafka = { \"fetch.min.byts\" = 1, \"fetch.min.bytes\" = \"many\", \"group.id\" = \"g\" }\n",
        );
        let codes: Vec<&str> = problems.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, ["TG-K001", "TG-K001", "TG-K003", "TG-K003", "TG-K002"]);
        assert_eq!(problems[4].help.as_deref(), Some("use `group`"));
    }
}
