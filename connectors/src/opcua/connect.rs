//! How a session with a server is made: security, identity, limits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opcua::client::transport::TcpConnector;
use opcua::client::{Client, ClientBuilder, IdentityToken, Password, Session, SessionEventLoop};
use opcua::crypto::SecurityPolicy;
use opcua::types::{EndpointDescription, MessageSecurityMode, StatusCode, UserTokenPolicy};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConnectorError;
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
    optional(
        "pki",
        Kind::Text,
        "folder with `trusted/` and `rejected/` server certificates, `pki` in the data directory if left out",
    ),
    optional("request_timeout", Kind::Duration, "longest wait for an answer, \"5s\" if left out"),
    optional("keep_alive", Kind::Duration, "how often a silent connection is tried, \"5s\" if left out"),
];

/// A server as the file describes it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) endpoint: String,
    policy: String,
    mode: MessageSecurityMode,
    user: Option<(String, SecretRef)>,
    certificate: Option<(PathBuf, PathBuf)>,
    pki: PathBuf,
    request_timeout: Duration,
    keep_alive: Duration,
}

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
            if let Some(text) = password.filter(|_| !secret.is_reference()) {
                let message = "the password stands in the file".to_owned();
                let diagnostic = Diagnostic::warning("TG-C011", message).at(text.span.clone());
                out.push(diagnostic.help("write \"secret://env/NAME\" or \"secret://file/PATH\""));
            }
            (user.to_owned(), secret)
        });
        let certificate = table.str("certificate").zip(table.str("private_key"));
        Server {
            endpoint,
            policy,
            mode,
            user,
            certificate: certificate.map(|(certificate, key)| (context.path(certificate), context.path(key))),
            pki: table.str("pki").map_or_else(|| context.data_dir.join("pki"), |pki| context.path(pki)),
            request_timeout: table.duration("request_timeout").unwrap_or(Duration::from_secs(5)),
            keep_alive: table.duration("keep_alive").unwrap_or(Duration::from_secs(5)),
        }
    }

    /// Makes a session and the loop that drives it; connecting happens in the loop.
    pub(crate) async fn session(
        &self,
    ) -> Result<(Arc<Session>, SessionEventLoop<TcpConnector>), ConnectorError> {
        let mut client = self.client()?;
        let (identity, token) = self.identity()?;
        let endpoint: EndpointDescription =
            (self.endpoint.as_str(), self.policy.as_str(), self.mode, token).into();
        if self.mode == MessageSecurityMode::None {
            // What the server advertises may not be reachable from here.
            return client
                .connect_to_endpoint_directly(endpoint, identity)
                .map_err(|error| ConnectorError::Fatal(error.to_string()));
        }
        // Signing needs the server's certificate, which its endpoints carry.
        let connected = client.connect_to_matching_endpoint(endpoint, identity).await;
        connected.map_err(|error| ConnectorError::Lost(describe(error.status(), &self.endpoint)))
    }

    fn client(&self) -> Result<Client, ConnectorError> {
        let mut builder = ClientBuilder::new()
            .application_name("tidegate")
            .application_uri("urn:tidegate")
            .product_uri("urn:tidegate")
            .session_retry_limit(-1)
            .session_retry_initial(Duration::from_millis(200))
            .session_retry_max(Duration::from_secs(10))
            .keep_alive_interval(self.keep_alive)
            .max_failed_keep_alive_count(2)
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
        builder = match &self.certificate {
            Some((certificate, key)) => builder.certificate_path(certificate).private_key_path(key),
            None => builder.create_sample_keypair(self.mode != MessageSecurityMode::None),
        };
        builder.client().map_err(|errors| ConnectorError::Fatal(errors.join("; ")))
    }

    fn identity(&self) -> Result<(IdentityToken, UserTokenPolicy), ConnectorError> {
        let Some((user, password)) = &self.user else {
            return Ok((IdentityToken::Anonymous, UserTokenPolicy::anonymous()));
        };
        let password = password.resolve().map_err(ConnectorError::Lost)?;
        let token = IdentityToken::UserName(user.clone(), Password::new(password.expose()));
        Ok((token, UserTokenPolicy::anonymous()))
    }

    /// Whether the policy's name is one the library knows.
    pub(crate) fn is_known_policy(&self) -> bool {
        use std::str::FromStr;
        SecurityPolicy::from_str(&self.policy).is_ok()
    }
}

/// A status as a sentence that names the cure where there is one.
pub(crate) fn describe(status: StatusCode, endpoint: &str) -> String {
    let hint = match status {
        StatusCode::BadCertificateUntrusted | StatusCode::BadSecurityChecksFailed => {
            ": its certificate is not trusted; move it from `rejected/` to `trusted/` of the pki folder"
        }
        StatusCode::BadIdentityTokenRejected
        | StatusCode::BadUserAccessDenied
        | StatusCode::BadIdentityTokenInvalid => ": user or password are refused",
        _ => "",
    };
    format!("{endpoint}: {status}{hint}")
}
