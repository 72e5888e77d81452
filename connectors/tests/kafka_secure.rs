//! Source and sink against a real Apache Kafka that wants a password, or TLS:
//! wrong ones are named, right ones are read at each connect.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "helpers of tests fail by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field};
use support::certificates::Authority;
use support::kafka::{Given, produce};
use support::kafka_real::Broker;
use support::topology::build_context;
use support::{LIMIT, read, sink, source};
use tidegate_engine::error::ConnectorError;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::source::Source;
use tidegate_engine::topology::node::BuildContext;

/// A source of the topic `t` with these keys, opened.
async fn open(keys: &str, group: &str, context: &BuildContext) -> Result<Box<dyn Source>, ConnectorError> {
    let rows = "topics = [\"t\"]\nformat = \"json\"\nschema = { n = \"int64\" }\n";
    let mut part = source("kafka", &format!("{keys}{rows}group = \"{group}\"\n"), context);
    let opened = tokio::time::timeout(LIMIT, part.source.open(None)).await.expect("in time");
    if opened.is_err() {
        part.source.close().await.expect("closes");
    }
    opened.map(|()| part.source)
}

async fn refusal(keys: &str, context: &BuildContext) -> String {
    match open(keys, "g", context).await {
        Err(ConnectorError::Lost(reason)) => reason,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it opens"),
    }
}

/// Writes `n`, and answers how that ended.
async fn write(keys: &str, context: &BuildContext, n: i64) -> Result<(), ConnectorError> {
    let stream = StreamSchema::new(vec![Field::new("n", DataType::Int64, false)], None);
    let row = RecordBatch::try_new(Arc::clone(&stream.columns), vec![Arc::new(Int64Array::from(vec![n]))]);
    let input = Input { name: "s".into(), stream };
    let mut out = sink("kafka", &format!("{keys}topic = \"t\"\n"), &input, context);
    out.sink.open().await.expect("opens");
    out.sink.write(&row.expect("fits")).await.expect("is taken");
    let flushed = tokio::time::timeout(LIMIT, out.sink.flush(1)).await.expect("in time");
    if flushed.is_ok() {
        out.sink.close().await.expect("closes");
    }
    flushed
}

#[tokio::test]
async fn passwords_and_certificates_are_checked_and_named() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let authority = Authority::new(&folder.path().join("right"));
    Authority::new(&folder.path().join("wrong"));
    let (cert, key) = authority.sign("broker", "IP:127.0.0.1");
    let keystore = folder.path().join("broker.pem");
    std::fs::write(&keystore, [read_file(&key), read_file(&cert)].concat()).expect("is written");
    let broker = Broker::start_secured(&keystore);
    broker.create_topic("t", 1).await;
    let context = BuildContext { base_dir: folder.path().to_owned(), ..build_context() };
    with_passwords(&broker, folder.path(), &context).await;
    with_tls(&broker, &context).await;
}

fn read_file(path: &Path) -> String {
    std::fs::read_to_string(path).expect("is read")
}

async fn with_passwords(broker: &Broker, folder: &Path, context: &BuildContext) {
    produce(&broker.servers, "t", [Given::new(0, "{\"n\":1}")]);
    let secret = folder.join("secret");
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let keys = format!(
            "brokers = [\"127.0.0.1:{}\"]\nsasl = {{ mechanism = \"{mechanism}\", user = \"u\", password = \"secret://file{}\" }}\n",
            broker.sasl_port,
            secret.display()
        );
        std::fs::write(&secret, "wrong-one\n").expect("is written");
        let reason = refusal(&keys, context).await;
        assert!(reason.to_lowercase().contains("authentication"), "{reason}");
        assert!(!reason.contains("wrong-one"), "{reason}");
        let refused = write(&keys, context, 2).await.expect_err("is refused");
        assert!(
            matches!(&refused, ConnectorError::Lost(reason) if reason.to_lowercase().contains("authentication")),
            "{refused:?}"
        );
        std::fs::write(&secret, "right\n").expect("is written");
        let mut right = open(&keys, mechanism, context).await.expect("the password is right");
        assert_eq!(read(right.as_mut(), 1).await.numbers("n")[0], 1);
        right.close().await.expect("closes");
    }
}

async fn with_tls(broker: &Broker, context: &BuildContext) {
    let keys =
        |host: &str, tls: &str| format!("brokers = [\"{host}:{}\"]\ntls = {{ {tls} }}\n", broker.tls_port);
    let wrong_ca = refusal(&keys("127.0.0.1", "ca = \"wrong/ca.pem\""), context).await;
    assert!(wrong_ca.contains("certificate verify failed"), "{wrong_ca}");
    let right = keys("127.0.0.1", "ca = \"right/ca.pem\"");
    write(&right, context, 3).await.expect("arrives");
    let mut part = open(&right, "tls", context).await.expect("the certificate is right");
    assert_eq!(read(part.as_mut(), 2).await.numbers("n"), [1, 3]);
    part.close().await.expect("closes");
}
