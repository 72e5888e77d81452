//! A server as a topology describes it: address, security, identity, limits.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use opcua::client::{Client, ClientBuilder, IdentityToken, Password};
use opcua::crypto::SecurityPolicy;
use opcua::types::MessageSecurityMode;
use tidegate_engine::diagnostic::{Diagnostic, Severity};
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::secret::SecretRef;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

/// Keys of the connection to a server.
pub(crate) const SERVER_KEYS: &[Key] = &[
    required("endpoint", Kind::Text, "e.g. \"opc.tcp://scada:4840\""),
    optional(
        "policy",
        Kind::Word(&["None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]),
        "security policy, \"None\" if left out",
    ),
    optional(
        "mode",
        Kind::Word(&["None", "Sign", "SignAndEncrypt"]),
        "security mode, \"SignAndEncrypt\" where there is a policy",
    ),
    optional("user", Kind::Text, "user name"),
    optional("password", Kind::Secret, "password of the user"),
    optional("certificate", Kind::Text, "our certificate (DER or PEM); one is made in `pki` if left out"),
    optional("private_key", Kind::Text, "the key of our certificate"),
    optional("application_uri", Kind::Text, "the URI in our certificate, \"urn:tidegate\" if left out"),
    optional(
        "pki",
        Kind::Text,
        "folder with `trusted/` and `rejected/` server certificates, `pki` in the data directory if left out",
    ),
    optional("request_timeout", Kind::Duration, "longest wait for an answer, \"5s\" if left out"),
    optional("keep_alive", Kind::Duration, "how often a silent connection is tried, \"5s\" if left out"),
];

/// Fails if there is an error among the messages; warnings are logged.
pub(crate) fn refuse_errors(diagnostics: &mut Vec<Diagnostic>) -> Result<(), ConfigError> {
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(ConfigError(std::mem::take(diagnostics)));
    }
    for warning in diagnostics.drain(..) {
        tracing::warn!("{}", warning.message);
    }
    Ok(())
}

/// A server as the file describes it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) endpoint: String,
    pub(crate) mode: MessageSecurityMode,
    pub(crate) pki: PathBuf,
    pub(crate) request_timeout: Duration,
    policy: String,
    user: Option<(String, SecretRef)>,
    certificate: Option<(PathBuf, PathBuf)>,
    application_uri: String,
    keep_alive: Duration,
}

/// Who we are, unless the file says otherwise.
const APPLICATION_URI: &str = "urn:tidegate";
/// One maker of our key and certificate at a time: two would mix them up.
static OWN_CERTIFICATE: Mutex<()> = Mutex::new(());
/// Most values in one message: the library's own limit of 1,000 closes the
/// connection on a full publish.
const ARRAY_LENGTH_MAX: usize = 1_000_000;
/// Largest message.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Chunks of a message.
const CHUNKS_MAX: usize = 1_000;

impl Server {
    /// Reads the keys of the connection.
    pub(crate) fn read(config: &NodeConfig, context: &BuildContext, out: &mut Vec<Diagnostic>) -> Server {
        let table = &config.table;
        let endpoint = table.str("endpoint").unwrap_or_default().to_owned();
        if !endpoint.starts_with("opc.tcp://") {
            let message = format!("`{endpoint}` is no OPC UA endpoint");
            let diagnostic = Diagnostic::error("TG-O001", message).at(table.span_of("endpoint"));
            out.push(diagnostic.help("write e.g. \"opc.tcp://scada:4840\""));
        }
        let policy = table.str("policy").unwrap_or("None").to_owned();
        let mode = match table.str("mode") {
            Some("Sign") => MessageSecurityMode::Sign,
            Some("SignAndEncrypt") => MessageSecurityMode::SignAndEncrypt,
            None if policy != "None" => MessageSecurityMode::SignAndEncrypt,
            Some(_) | None => MessageSecurityMode::None,
        };
        if (policy == "None") != (mode == MessageSecurityMode::None) {
            let message = "`policy` and `mode` must both be \"None\" or both not".to_owned();
            out.push(Diagnostic::error("TG-O002", message).at(table.span_of("mode")));
        }
        let user = table.str("user").map(|user| {
            let password = table.text("password");
            let secret = SecretRef::new(password.map(|text| text.value.clone()).unwrap_or_default());
            (user.to_owned(), secret)
        });
        let (certificate, private_key) = (table.str("certificate"), table.str("private_key"));
        if certificate.is_some() != private_key.is_some() {
            let (is, lacks) = if certificate.is_some() {
                ("certificate", "private_key")
            } else {
                ("private_key", "certificate")
            };
            let message = format!("`{is}` without `{lacks}`");
            out.push(Diagnostic::error("TG-C004", message).at(table.span_of(is)));
        }
        if table.str("password").is_some() && user.is_none() {
            let message = "`password` without `user`".to_owned();
            out.push(Diagnostic::error("TG-C004", message).at(table.span_of("password")));
        }
        let certificate = certificate.zip(private_key);
        Server {
            endpoint,
            policy,
            mode,
            user,
            certificate: certificate.map(|(certificate, key)| (context.path(certificate), context.path(key))),
            application_uri: table.str("application_uri").unwrap_or(APPLICATION_URI).to_owned(),
            pki: table.str("pki").map_or_else(|| context.data_dir.join("pki"), |pki| context.path(pki)),
            request_timeout: table.duration("request_timeout").unwrap_or(Duration::from_secs(5)),
            keep_alive: table.duration("keep_alive").unwrap_or(Duration::from_secs(5)),
        }
    }

    /// A client with our certificate; `connect_attempts`: how often it tries
    /// again, -1 for ever.
    pub(crate) async fn client(&self, connect_attempts: i32) -> Result<Client, ConnectorError> {
        let server = self.clone();
        // Our key may have to be made first, which takes a while.
        let made = tokio::task::spawn_blocking(move || {
            let _alone = OWN_CERTIFICATE.lock().unwrap_or_else(PoisonError::into_inner);
            server.builder(connect_attempts).client()
        });
        let made = made.await.map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        made.map_err(|errors| ConnectorError::Fatal(errors.join("; ")))
    }

    fn builder(&self, connect_attempts: i32) -> ClientBuilder {
        let builder = ClientBuilder::new()
            .application_name("tidegate")
            .application_uri(&self.application_uri)
            .product_uri("urn:tidegate")
            .session_retry_limit(connect_attempts)
            .session_retry_initial(Duration::from_millis(200))
            .session_retry_max(Duration::from_secs(10))
            .keep_alive_interval(self.keep_alive)
            // What a silent server means is decided in `session`.
            .max_failed_keep_alive_count(0)
            .request_timeout(self.request_timeout)
            .max_array_length(ARRAY_LENGTH_MAX)
            .max_string_length(MESSAGE_BYTES_MAX)
            .max_byte_string_length(MESSAGE_BYTES_MAX)
            .max_message_size(MESSAGE_BYTES_MAX)
            .max_chunk_count(CHUNKS_MAX)
            .recreate_subscriptions(false)
            // A certificate is trusted by a person, never by us.
            .trust_server_certs(false)
            .verify_server_certs(self.mode != MessageSecurityMode::None)
            .pki_dir(&self.pki);
        match &self.certificate {
            Some((certificate, key)) => builder.certificate_path(certificate).private_key_path(key),
            None => builder.create_sample_keypair(self.mode != MessageSecurityMode::None),
        }
    }

    /// Who logs in. Passwords are read anew each time: a file may have changed.
    pub(crate) fn identity(&self) -> Result<IdentityToken, ConnectorError> {
        let Some((user, password)) = &self.user else { return Ok(IdentityToken::Anonymous) };
        let password = password.resolve().map_err(ConnectorError::Lost)?;
        Ok(IdentityToken::UserName(user.clone(), Password::new(password.expose())))
    }

    /// The security policy; `Unknown` if the library does not know its name.
    pub(crate) fn policy(&self) -> SecurityPolicy {
        self.policy.parse().unwrap_or(SecurityPolicy::Unknown)
    }
}
