//! MQTT over TLS against a real Mosquitto: M18, each fault with an error of
//! its own, new certificates used at the next connect.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure real time"
)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field};
use support::certificates::Authority;
use support::mosquitto::{FORGETFUL, Mosquitto};
use support::topology::build_context;
use support::{LIMIT, read, sink, source};
use tempfile::TempDir;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::source::Source;
use tidegate_engine::topology::node::BuildContext;

/// A broker with a certificate for 127.0.0.1, and our side of it.
struct Secured {
    broker: Mosquitto,
    folder: TempDir,
    authority: Authority,
    context: BuildContext,
}

impl Secured {
    fn start(more: &str) -> Secured {
        let folder = tempfile::tempdir().expect("a folder is made");
        let authority = Authority::new(&folder.path().join("right"));
        Authority::new(&folder.path().join("wrong"));
        let (cert, key) = authority.sign("broker", "IP:127.0.0.1");
        let settings = format!(
            "{FORGETFUL}cafile {}\ncertfile {}\nkeyfile {}\n{more}",
            authority.pem().display(),
            cert.display(),
            key.display()
        );
        let broker = Mosquitto::start(&settings);
        let context = BuildContext {
            base_dir: folder.path().to_owned(),
            data_dir: folder.path().join("data"),
            ..build_context()
        };
        Secured { broker, folder, authority, context }
    }

    fn keys(&self, host: &str, tls: &str) -> String {
        format!("broker = \"mqtts://{host}:{}\"\ntls = {{ {tls} }}\nkeep_alive = \"5s\"\n", self.broker.port)
    }

    /// Opens a source with these TLS settings.
    async fn open(&self, host: &str, version: &str, tls: &str) -> Result<Box<dyn Source>, ConnectorError> {
        let rows = "format = \"json\"\nschema = { n = \"int64\" }\n";
        let keys = format!(
            "{}{rows}topics = [\"t\"]\npersistent = false\nversion = \"{version}\"\n",
            self.keys(host, tls)
        );
        let mut part = source("mqtt", &keys, &self.context);
        tokio::time::timeout(LIMIT, part.source.open(None)).await.expect("in time")?;
        Ok(part.source)
    }

    async fn reason(&self, host: &str, version: &str, tls: &str) -> String {
        match self.open(host, version, tls).await {
            Err(ConnectorError::Lost(reason)) => reason,
            Err(error) => panic!("{error:?}"),
            Ok(_) => panic!("it connects"),
        }
    }

    async fn publish(&self, n: i64) {
        let stream = StreamSchema::new(vec![Field::new("n", DataType::Int64, false)], None);
        let columns = Arc::clone(&stream.columns);
        let input = Input { name: "s".into(), stream };
        let keys = format!("{}topic = \"t\"\n", self.keys("127.0.0.1", "ca = \"right/ca.pem\""));
        let mut out = sink("mqtt", &keys, &input, &self.context);
        out.sink.open().await.expect("opens");
        let row = RecordBatch::try_new(columns, vec![Arc::new(Int64Array::from(vec![n]))]).expect("fits");
        out.sink.write(&row).await.expect("is taken");
        out.sink.flush(1).await.expect("arrives");
        out.sink.close().await.expect("closes");
    }
}

#[tokio::test]
async fn m18_every_fault_of_a_certificate_has_an_error_of_its_own() {
    let secured = Secured::start("");
    for version in ["5", "3.1.1"] {
        let right = secured.open("127.0.0.1", version, "ca = \"right/ca.pem\"").await;
        let mut right = right.expect("the certificate is right");
        tokio::time::timeout(LIMIT, secured.publish(7)).await.expect("in time");
        assert_eq!(read(right.as_mut(), 1).await.numbers("n"), [7]);
        right.close().await.expect("closes");
        let wrong_ca = secured.reason("127.0.0.1", version, "ca = \"wrong/ca.pem\"").await;
        assert!(wrong_ca.contains("UnknownIssuer") || wrong_ca.contains("BadSignature"), "{wrong_ca}");
        let wrong_name = secured.reason("localhost", version, "ca = \"right/ca.pem\"").await;
        assert!(wrong_name.contains("localhost"), "{wrong_name}");
        let unreadable =
            secured.open("127.0.0.1", version, "ca = \"none.pem\"").await.err().expect("no file");
        assert!(
            matches!(&unreadable, ConnectorError::Fatal(reason) if reason.contains("none.pem")),
            "{unreadable:?}"
        );
    }
}

/// A broker that wants to know us; our certificate is read at each connect.
#[tokio::test]
async fn m18_a_certificate_of_ours_is_used_as_it_is_at_the_connect() {
    let secured = Secured::start("require_certificate true\n");
    let folder = secured.folder.path();
    let anonymous = secured.reason("127.0.0.1", "5", "ca = \"right/ca.pem\"").await;
    assert!(anonymous.to_lowercase().contains("certificate"), "{anonymous}");
    let ours = "ca = \"right/ca.pem\", cert = \"our.pem\", key = \"our.key\"";
    copy(&Authority::new(&folder.join("stranger")).sign("us", "DNS:us"), folder);
    let stranger = secured.reason("127.0.0.1", "5", ours).await;
    assert!(stranger.contains("UnknownCA") || stranger.contains("DecryptError"), "{stranger}");
    copy(&secured.authority.sign("us", "DNS:us"), folder);
    secured.open("127.0.0.1", "5", ours).await.expect("we are known").close().await.expect("closes");
}

fn copy((cert, key): &(PathBuf, PathBuf), to: &Path) {
    std::fs::copy(cert, to.join("our.pem")).expect("is copied");
    std::fs::copy(key, to.join("our.key")).expect("is copied");
}
