//! Where objects go and as whom, read and refused; a real store, and one that
//! asks for time.

use std::process::Stdio;
use std::time::Duration;

use object_store::ObjectStoreExt;
use tempfile::TempDir;
use tidegate_engine::secret::SecretRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;

use super::bucket::{Bucket, Keys};
use super::patience::Patient;
use super::store::S3;
use super::{SINK, place_of};
use crate::objects::Store;
use crate::testing::{build_context, node};

const LIMIT: Duration = Duration::from_secs(60);

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

/// A real server over a folder, with the bucket `plant`.
struct Server {
    folder: TempDir,
    endpoint: String,
    _child: Child,
}

impl Server {
    async fn start() -> Server {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/parts/s3.sh");
        let output = Command::new("bash").arg(script).output().await.expect("bash runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let program = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let folder = tempfile::tempdir().expect("a folder");
        let (buckets, sidecar) = (folder.path().join("buckets"), folder.path().join("sidecar"));
        std::fs::create_dir_all(buckets.join("plant")).expect("a folder");
        std::fs::create_dir_all(&sidecar).expect("a folder");
        let mut command = Command::new(program);
        command.args(["--access", "id", "--secret", "secret", "--quiet", "--port", &address.to_string()]);
        command.arg("--iam-dir").arg(folder.path()).arg("posix").arg("--sidecar").arg(sidecar).arg(buckets);
        let child = command.kill_on_drop(true).stdout(Stdio::null()).spawn().expect("it starts");
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, listens).await.expect("listens in time");
        Server { folder, endpoint: format!("http://{address}"), _child: child }
    }

    fn store(&self, marker: &str, note: &str) -> S3 {
        let bucket = bucket(&self.endpoint, "load/");
        S3::new(bucket, format!("load/{marker}"), self.folder.path().join(note))
    }

    fn object(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.folder.path().join("buckets/plant/load").join(name)).ok()
    }
}

fn bucket(endpoint: &str, prefix: &str) -> Bucket {
    Bucket {
        name: "plant".into(),
        prefix: prefix.into(),
        endpoint: Some(endpoint.into()),
        region: None,
        allow_http: true,
        conditional_put: true,
        keys: Some(Keys { id: SecretRef::new("id"), secret: SecretRef::new("secret") }),
        patient: Patient::default(),
    }
}

#[tokio::test]
async fn a_marker_is_replaced_only_where_it_is_as_it_was_left() {
    let server = Server::start().await;
    let work = async {
        for marker in ["a.json", "b.json"] {
            let (mut first, mut second) = (server.store(marker, "1"), server.store(marker, "2"));
            for store in [&mut first, &mut second] {
                store.connect().await.expect("connects");
                assert_eq!(store.read_marker().await, Ok(None));
            }
            assert_eq!(first.write_marker(b"1").await, Ok(true));
            assert_eq!(second.write_marker(b"2").await, Ok(false), "it was not there when it looked");
            assert_eq!(second.read_marker().await, Ok(Some(b"1".to_vec())));
            assert_eq!(second.write_marker(b"2").await, Ok(true));
            assert_eq!(first.write_marker(b"3").await, Ok(false), "it is another's now");
            assert_eq!(second.write_marker(b"4").await, Ok(true));
            assert_eq!(first.read_marker().await, Ok(Some(b"4".to_vec())));
        }
    };
    tokio::time::timeout(LIMIT, work).await.expect("in time");
}

#[tokio::test]
async fn what_was_not_published_is_neither_seen_nor_mixed_with_the_next_attempt() {
    let server = Server::start().await;
    let large: Vec<u8> = (0..13_000_000_u32).map(|n| u8::try_from(n % 251).expect("small")).collect();
    let work = async {
        let mut store = server.store("m", "note");
        store.connect().await.expect("connects");
        store.add("x", large.clone()).await.expect("taken");
        assert!(server.folder.path().join("note").exists() && server.object("x").is_none());
        // The process dies; the next one makes the object anew.
        let mut store = server.store("m", "note");
        store.connect().await.expect("connects");
        assert!(!server.folder.path().join("note").exists(), "the upload that was left is aborted");
        for piece in large.chunks(700_000) {
            store.add("x", piece.to_vec()).await.expect("taken");
        }
        store.publish("x").await.expect("is seen");
        assert!(server.object("x").is_some_and(|object| object == large));
        store.add("y", b"half".to_vec()).await.expect("taken");
        store.connect().await.expect("connects");
        store.add("y", b"whole".to_vec()).await.expect("taken");
        store.publish("y").await.expect("is seen");
        assert_eq!(server.object("y"), Some(b"whole".to_vec()));
    };
    tokio::time::timeout(LIMIT, work).await.expect("in time");
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
    let bucket = bucket(&endpoint, "");
    let client = bucket.client().expect("a client");
    let work = async {
        let got = client.get(&"a".into()).await.expect("is there");
        assert_eq!(got.bytes().await.expect("bytes").as_ref(), b"hi");
        // Longer than a request may take: told, and the store is left alone, also by
        // the next client.
        for client in [client, bucket.client().expect("a client")] {
            let error = client.get(&"a".into()).await.expect_err("is asked to wait");
            let text = format!("{:?}", bucket.lost(&error));
            assert!(text.contains("asks to wait for 200 s"), "{text}");
        }
    };
    tokio::time::timeout(LIMIT, work).await.expect("in time");
    let came = server.await.expect("no panic");
    assert!(came[1] - came[0] >= Duration::from_secs(2), "{:?}", came[1] - came[0]);
}
