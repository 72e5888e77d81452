//! `mail`: one message over SMTP. The message id is made from the idempotency
//! key, so that a mail server or reader can tell a repeat.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tidegate_engine::catalog::{BuildTask, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::secret::SecretRef;
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep};
use tidegate_engine::template::Template;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::parts::{render, result, template};

const KEYS: &[Key] = &[
    required("server", Kind::Text, "SMTP server, \"host\" or \"host:port\""),
    required("from", Kind::Text, "sender"),
    required("to", Kind::List(&Kind::Text), "recipients"),
    required("subject", Kind::Template, "subject"),
    optional("text", Kind::Template, "the message"),
    optional("user", Kind::Text, "user name at the server"),
    optional("password", Kind::Secret, "password at the server"),
    optional("ca", Kind::Text, "PEM file with the authorities that may sign the server's certificate"),
    optional("tls", Kind::Word(&["required", "opportunistic", "none"]), "\"required\" if left out"),
];

pub(super) const ROW: Row<BuildTask> = Row {
    name: "mail",
    summary: "sends a mail over SMTP",
    keys: &[KEYS],
    example: r#"[[flow.warn.task]]
id      = "tell"
type    = "mail"
server  = "mail.example:587"
from    = "tidegate@plant.example"
to      = ["shift@plant.example"]
subject = "{device} is too warm"
"#,
    build,
};

/// Longest wait for the server.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Submission over STARTTLS (RFC 6409).
const PORT: u16 = 587;

fn build(config: &NodeConfig, context: &BuildContext, scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let table = &config.table;
    let mut diagnostics = Vec::new();
    let subject = template(config, "subject", context, scope, &mut diagnostics);
    let text = template(config, "text", context, scope, &mut diagnostics);
    let mut mailbox = |key: &str, address: &str| -> Option<Mailbox> {
        let parsed = address.parse();
        if let Err(error) = &parsed {
            let message = format!("`{address}` is no mail address: {error}");
            diagnostics.push(Diagnostic::error("TG-F023", message).at(table.span_of(key)));
        }
        parsed.ok()
    };
    let from = mailbox("from", table.str("from").unwrap_or_default());
    let to: Vec<Mailbox> = table.texts("to").iter().filter_map(|to| mailbox("to", &to.value)).collect();
    let server = table.str("server").unwrap_or_default();
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (server, Some(PORT)),
    };
    let Some(port) = port.filter(|_| !host.is_empty()) else {
        let message = format!("`{server}` is no host and port");
        return Err(Diagnostic::error("TG-F023", message).at(table.span_of("server")).into());
    };
    if to.is_empty() && table.texts("to").is_empty() {
        let message = format!("task `{}` has no recipient", config.name);
        diagnostics.push(Diagnostic::error("TG-F023", message).at(table.span_of("to")));
    }
    let (Some(subject), Some(from), true) = (subject, from, diagnostics.is_empty()) else {
        return Err(ConfigError(diagnostics));
    };
    let task = Mail {
        host: host.to_owned(),
        port,
        ca: table.str("ca").map(|path| context.path(path)),
        tls: table.str("tls").unwrap_or("required").to_owned(),
        login: table
            .str("user")
            .map(|user| (user.to_owned(), SecretRef::new(table.str("password").unwrap_or_default()))),
        from,
        to,
        subject,
        text,
    };
    Ok(TaskPart { task: Box::new(task), result: result(&[]) })
}

struct Mail {
    host: String,
    port: u16,
    ca: Option<PathBuf>,
    tls: String,
    login: Option<(String, SecretRef)>,
    from: Mailbox,
    to: Vec<Mailbox>,
    subject: Template,
    text: Option<Template>,
}

#[async_trait]
impl Task for Mail {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        let text = self.text.as_ref().map(|text| render(text, context)).transpose()?.unwrap_or_default();
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(render(&self.subject, context)?)
            .message_id(Some(format!("<{}@tidegate>", context.idempotency_key.replace(['/', ' '], "."))))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            message = message.to(to.clone());
        }
        let message = message
            .body(text)
            .map_err(|error| TaskError::Fatal(format!("cannot write the mail: {error}")))?;
        let sent = self.transport()?.send(message).await;
        sent.map(|_| TaskStep::Done(Vec::new())).map_err(|error| {
            if error.is_permanent() {
                TaskError::Fatal(format!("the mail server refuses: {error}"))
            } else if error.is_client() {
                // The two have no way to talk in common: no TLS, no kind of login.
                TaskError::Fatal(format!("cannot talk to the mail server: {error}"))
            } else if error.is_transient() {
                TaskError::retry("busy", format!("the mail server refuses for now: {error}"))
            } else if error.is_timeout() {
                TaskError::retry("timeout", error)
            } else {
                TaskError::retry("network", error)
            }
        })
    }

    fn effect(&self) -> Effect {
        Effect::Keyed
    }
}

impl Mail {
    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, TaskError> {
        let mut tls = TlsParameters::builder(self.host.clone());
        if let Some(path) = &self.ca {
            let fatal = |error: &dyn std::fmt::Display| {
                TaskError::Fatal(format!("cannot use the authorities in {}: {error}", path.display()))
            };
            let pem = std::fs::read(path).map_err(|error| fatal(&error))?;
            tls = tls.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| fatal(&error))?);
        }
        let tls = tls.build().map_err(|error| TaskError::Fatal(error.to_string()))?;
        let tls = match self.tls.as_str() {
            "none" => Tls::None,
            "opportunistic" => Tls::Opportunistic(tls),
            _ => Tls::Required(tls),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host)
            .port(self.port)
            .tls(tls)
            .timeout(Some(TIMEOUT));
        if let Some((user, password)) = &self.login {
            let password = password.resolve().map_err(TaskError::Fatal)?;
            builder = builder.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
        }
        Ok(builder.build())
    }
}
