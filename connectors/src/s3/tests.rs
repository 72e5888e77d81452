//! Where objects go and as whom, read and refused; a store that asks for time.

use std::time::Duration;

use object_store::ObjectStoreExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;

use super::bucket::Bucket;
use super::{SINK, place_of};
use crate::testing::{build_context, node};

#[test]
fn a_bucket_and_a_prefix_are_told_apart() {
    let place = |text: &str| place_of(text).map(|(bucket, prefix)| format!("{bucket} {prefix}"));
    assert_eq!(place("plant/load/"), Some("plant load/".into()));
    assert_eq!(place("plant/"), Some("plant ".into()));
    assert_eq!(place("plant/a/b=1/"), Some("plant a/b=1/".into()));
    for wrong in ["", "plant", "/load/", "plant/load", "plant/a//b/", "plant/../b/", "plant/a b/", "p/a/"] {
        assert_eq!(place(wrong), None, "{wrong}");
    }
}

/// Codes and texts of a node's mistakes.
fn mistakes(keys: &str) -> Vec<String> {
    let text = format!("[sink.out]\ntype = \"s3\"\nfrom = \"x\"\n{keys}\n");
    let input = Input { name: "x".into(), stream: StreamSchema::new(Vec::new(), None) };
    match (SINK.build)(&node(&text), &build_context(), &input) {
        Ok(_) => Vec::new(),
        Err(error) => error.0.iter().map(|wrong| format!("{} {}", wrong.code, wrong.message)).collect(),
    }
}

#[test]
fn keys_are_references_and_rows_never_go_in_the_clear_unasked() {
    let right = "path = \"s3://plant/x/\"";
    assert_eq!(mistakes(right), Vec::<String>::new());
    let keys = "access_key_id = \"secret://env/A\"\nsecret_access_key = \"secret://env/B\"";
    assert_eq!(mistakes(&format!("{right}\n{keys}")), Vec::<String>::new());
    let literal = mistakes(&format!("{right}\n{}", keys.replace("secret://env/B", "hunter2")));
    assert!(literal.len() == 1 && literal[0].starts_with("TG-C011"), "{literal:?}");
    assert!(!literal[0].contains("hunter2"), "{literal:?}");
    let half = mistakes(&format!("{right}\naccess_key_id = \"secret://env/A\""));
    assert!(half.len() == 1 && half[0].contains("go together"), "{half:?}");
    let clear = mistakes(&format!("{right}\nendpoint = \"http://store:9000\""));
    assert!(clear.len() == 1 && clear[0].contains("in the clear"), "{clear:?}");
    let allowed = format!("{right}\nendpoint = \"http://store:9000\"\nallow_http = true");
    assert_eq!(mistakes(&allowed), Vec::<String>::new());
    let roll = mistakes(&format!("{right}\nroll = {{ size = \"0B\", age = \"0s\" }}"));
    assert_eq!(roll.len(), 2, "{roll:?}");
}

/// Answers each connection in its turn, then no more; when each request came.
async fn answer(listener: TcpListener, answers: Vec<&'static str>) -> Vec<Instant> {
    let mut came = Vec::new();
    for answer in answers {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut bytes = [0; 8192];
        let read = stream.read(&mut bytes).await.expect("a request");
        assert!(read > 0);
        came.push(Instant::now());
        stream.write_all(answer.as_bytes()).await.expect("answers");
    }
    came
}

#[tokio::test]
async fn a_store_that_asks_for_time_gets_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let close = "content-length: 0\r\nconnection: close\r\n\r\n";
    let wait = |seconds: u32| -> &'static str {
        format!("HTTP/1.1 503 Slow Down\r\nretry-after: {seconds}\r\n{close}").leak()
    };
    let found = "HTTP/1.1 200 OK\r\netag: \"a\"\r\nlast-modified: Fri, 27 Nov 2026 12:00:00 GMT\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    let server = tokio::spawn(answer(listener, vec![wait(2), found, wait(200)]));
    let bucket = Bucket {
        name: "plant".into(),
        prefix: String::new(),
        endpoint: Some(endpoint),
        region: None,
        allow_http: true,
        conditional_put: true,
        keys: Some(super::Keys {
            id: tidegate_engine::secret::SecretRef::new("id"),
            secret: tidegate_engine::secret::SecretRef::new("secret"),
        }),
    };
    let client = bucket.client().expect("a client");
    let work = async {
        let got = client.get(&"a".into()).await.expect("is there");
        assert_eq!(got.bytes().await.expect("bytes").as_ref(), b"hi");
        // Longer than a request may take: told, and the store is left alone.
        for _ in 0..2 {
            let error = client.get(&"a".into()).await.expect_err("is asked to wait");
            let text = format!("{:?}", bucket.lost(&error));
            assert!(text.contains("asks to wait for another"), "{text}");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("in time");
    let came = server.await.expect("no panic");
    assert!(came[1] - came[0] >= Duration::from_secs(2), "{:?}", came[1] - came[0]);
}
