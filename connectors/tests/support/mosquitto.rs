//! A real Mosquitto on a free port, and plain clients to write and look from
//! outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tempfile::TempDir;

use super::parts::{Server, free_port, part, wait_for_port};

/// A broker with its data.
pub(crate) struct Mosquitto {
    server: Server,
    folder: TempDir,
    pub(crate) port: u16,
}

/// Settings of a broker that loses its sessions at a crash.
pub(crate) const FORGETFUL: &str = "allow_anonymous true\nmax_queued_messages 1000000\n";

/// Settings of a broker that has everything on disk a second later at most.
pub(crate) const PERSISTENT: &str = "allow_anonymous true\nmax_queued_messages 1000000\npersistence true\nautosave_interval 1\nautosave_on_changes true\n";

impl Mosquitto {
    pub(crate) fn start(settings: &str) -> Mosquitto {
        let folder = tempfile::tempdir().expect("a folder is made");
        let port = free_port();
        // A benchmark asks for less of a log than a test looks through.
        let log = if settings.contains("log_type") { "" } else { "log_type all\n" };
        let listener = format!("{log}listener {port} 127.0.0.1\n");
        // The folder must be written by the broker's own user, which it becomes when started by root.
        let location = format!("persistence_location {}/\nuser root\n", folder.path().display());
        let all =
            format!("{listener}{location}{}", settings.replace("FOLDER", &folder.path().to_string_lossy()));
        std::fs::write(folder.path().join("conf"), all).expect("settings are written");
        if settings.contains("password_file") {
            let users = folder.path().join("users");
            let made =
                Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(users).args(["u", "right"]).status();
            assert!(made.expect("mosquitto_passwd runs").success());
        }
        let server = run(folder.path());
        wait_for_port(port);
        Mosquitto { server, folder, port }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// The same broker with the same data.
    pub(crate) fn restart(&mut self) {
        self.server = run(self.folder.path());
        wait_for_port(self.port);
    }

    /// Where it keeps messages.
    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("mosquitto.db")
    }

    /// What it has logged since its last start.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// STOP, CONT, TERM.
    pub(crate) fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    /// `broker = ".."` for a node.
    pub(crate) fn broker(&self) -> String {
        format!("broker = \"mqtt://127.0.0.1:{}\"\n", self.port)
    }
}

fn run(folder: &Path) -> Server {
    let log = std::fs::File::create(folder.join("log")).expect("a log is made");
    let mut command = Command::new(part("mosquitto.sh"));
    command.arg("-c").arg(folder.join("conf")).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("the log has two ends")).stderr(log);
    Server::start(&mut command)
}

/// A client of the outside, connected and polled.
pub(crate) struct Outside {
    pub(crate) client: AsyncClient,
    events: EventLoop,
}

impl Outside {
    pub(crate) fn new(port: u16, id: &str) -> Outside {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_clean_start(true).set_max_packet_size(Some(8 << 20));
        let (client, events) = AsyncClient::new(options, 10_000);
        Outside { client, events }
    }

    /// The next packet that comes.
    pub(crate) async fn next(&mut self) -> Packet {
        loop {
            let event = tokio::time::timeout(super::LIMIT, self.events.poll()).await.expect("in time");
            if let Event::Incoming(packet) = event.expect("the connection holds") {
                return packet;
            }
        }
    }

    /// Subscribes and waits for the answer.
    pub(crate) async fn subscribe(&mut self, filter: &str) {
        self.client.try_subscribe(filter, QoS::AtLeastOnce).expect("is queued");
        while !matches!(self.next().await, Packet::SubAck(_)) {}
    }

    /// The next `count` messages.
    pub(crate) async fn messages(&mut self, count: usize) -> Vec<Publish> {
        let mut found = Vec::new();
        let gathering = async {
            while found.len() < count {
                if let Packet::Publish(publish) = self.next().await {
                    found.push(publish);
                }
            }
        };
        let gathered = tokio::time::timeout(super::LIMIT, gathering).await;
        assert!(gathered.is_ok(), "{} of {count} messages came", found.len());
        found
    }
}

/// Sends messages with QoS 1 and waits until the broker has them all.
pub(crate) async fn publish(port: u16, messages: impl IntoIterator<Item = (String, Vec<u8>)>) {
    publish_with(port, QoS::AtLeastOnce, messages).await;
}

/// Sends messages; with QoS 0 they are on their way when it returns.
pub(crate) async fn publish_with(port: u16, qos: QoS, messages: impl IntoIterator<Item = (String, Vec<u8>)>) {
    let mut outside = Outside::new(port, &format!("outside-{}", free_port()));
    let mut open = 0;
    for (topic, payload) in messages {
        outside.client.try_publish(topic, qos, false, payload).expect("is queued");
        open += 1;
    }
    if qos == QoS::AtMostOnce {
        // Nothing tells that they arrived: a last one with QoS 1 goes behind them.
        outside.client.try_publish("outside/last", QoS::AtLeastOnce, false, "x").expect("is queued");
        open = 1;
    }
    while open > 0 {
        if matches!(outside.next().await, Packet::PubAck(_) | Packet::PubComp(_)) {
            open -= 1;
        }
    }
    outside.client.try_disconnect().expect("is queued");
    while outside.events.poll().await.is_ok() {}
}

/// `{"n":0}`, `{"n":1}` … to `topic`.
pub(crate) fn numbered(topic: &str, range: std::ops::Range<i64>) -> Vec<(String, Vec<u8>)> {
    range.map(|n| (topic.to_owned(), format!("{{\"n\":{n}}}").into_bytes())).collect()
}

/// Longest silence that a test takes for "nothing comes".
pub(crate) const SILENCE: Duration = Duration::from_millis(1_500);
