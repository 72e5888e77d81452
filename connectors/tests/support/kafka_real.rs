//! A real Apache Kafka broker in KRaft mode.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tempfile::TempDir;

use super::parts::{Server, free_port, part, wait_for_port};

/// A broker with its data.
pub(crate) struct Broker {
    server: Server,
    folder: TempDir,
    jars: PathBuf,
    port: u16,
    pub(crate) servers: String,
    /// Ports of the listeners that want a password, and TLS.
    pub(crate) sasl_port: u16,
    pub(crate) tls_port: u16,
}

impl Broker {
    pub(crate) fn start() -> Broker {
        Broker::start_with(None)
    }

    /// With listeners for the user `u` and the password `right`, and for TLS with
    /// this file of a key and its certificate.
    pub(crate) fn start_secured(key_and_certificate: &Path) -> Broker {
        Broker::start_with(Some(key_and_certificate))
    }

    fn start_with(key_and_certificate: Option<&Path>) -> Broker {
        let jars = part("kafka.sh");
        let folder = tempfile::tempdir().expect("a folder is made");
        let [port, controller, sasl_port, tls_port] = std::array::from_fn(|_| free_port());
        let settings = folder.path().join("server.properties");
        let mut all = properties(folder.path(), port, controller);
        if let Some(keystore) = key_and_certificate {
            all = secured(&all, keystore, sasl_port, tls_port);
        }
        std::fs::write(&settings, all).expect("settings are written");
        let formatted = java(&jars, folder.path())
            .args(["kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c"])
            .arg(&settings)
            .args(["--add-scram", "SCRAM-SHA-512=[name=u,password=right]"])
            .status()
            .expect("java runs");
        assert!(formatted.success(), "the storage is not formatted");
        let server = Server::start(java(&jars, folder.path()).arg("kafka.Kafka").arg(&settings));
        wait_for_port(port);
        let servers = format!("127.0.0.1:{port}");
        Broker { server, folder, jars, port, servers, sasl_port, tls_port }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// STOP, CONT, TERM.
    #[allow(dead_code, reason = "not every test file uses every helper")]
    pub(crate) fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    /// The same broker with the same data.
    pub(crate) fn restart(&mut self) {
        let settings = self.folder.path().join("server.properties");
        self.server = Server::start(java(&self.jars, self.folder.path()).arg("kafka.Kafka").arg(settings));
        wait_for_port(self.port);
    }

    /// Makes a topic.
    pub(crate) async fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[]).await;
    }

    /// Makes a topic with settings.
    pub(crate) async fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let made =
            self.admin().create_topics(&[topic], &AdminOptions::new()).await.expect("the broker answers");
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    /// Sets a topic's settings anew.
    pub(crate) async fn configure_topic(&self, name: &str, settings: &[(&str, &str)]) {
        let changes = AlterConfig::new(ResourceSpecifier::Topic(name));
        let changes = settings.iter().fold(changes, |changes, (key, value)| changes.set(key, value));
        let options = AdminOptions::new();
        let made = self.admin().alter_configs(&[changes], &options).await.expect("the broker answers");
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.servers).create().expect("a client is made")
    }
}

fn java(jars: &Path, folder: &Path) -> Command {
    let log = std::fs::File::create(folder.join("log")).expect("a log is made");
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-cp"]).arg(jars.join("*"));
    command.stdout(log.try_clone().expect("the log has two ends")).stderr(log).stdin(Stdio::null());
    command
}

fn properties(folder: &Path, port: u16, controller: u16) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=200
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
",
        folder.join("data").display()
    )
}

/// The settings with two listeners more.
fn secured(settings: &str, keystore: &Path, sasl: u16, tls: u16) -> String {
    let more =
        |listeners: &str| format!("{listeners},SASL_PLAINTEXT://127.0.0.1:{sasl},SSL://127.0.0.1:{tls}");
    let line = |line: &str| match line.split_once('=') {
        Some((key @ ("listeners" | "advertised.listeners"), value)) => format!("{key}={}\n", more(value)),
        Some((key @ "listener.security.protocol.map", value)) => {
            format!("{key}={value},SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL\n")
        }
        _ => format!("{line}\n"),
    };
    let all: String = settings.lines().map(line).collect();
    format!(
        "{all}sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_u=\"right\";
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={}
",
        keystore.display()
    )
}
