//! Who may speak to an OPC UA server and whom we believe: users, certificates.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "support/asyncua.rs"]
mod asyncua;
#[path = "support/feed.rs"]
mod feed;
#[path = "support/python.rs"]
mod python;
#[path = "support/topology.rs"]
mod topology;
#[path = "support/uaserver.rs"]
mod uaserver;

use std::fs;
use std::path::Path;

use asyncua::{Asyncua, Options};
use feed::Feed;
use uaserver::UaServer;

const NODE: &str = "nodes = [{ node = \"nsu=urn:t;s=v1\" }]\npublishing = \"50ms\"\nsampling = \"0s\"\nkeep_alive = \"1s\"\nrequest_timeout = \"2s\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_and_a_wrong_password_is_a_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let asyncua = Asyncua::start(Options { certificate: Some(folder.path()), ..Options::default() }).await;
    let ours = UaServer::start_with(2, folder.path(), true).await;
    for endpoint in [asyncua.endpoint(), ours.endpoint()] {
        let secret = folder.path().join("password");
        fs::write(&secret, "right").expect("written");
        let keys = format!("{NODE}user = \"operator\"\npassword = \"secret://file/{}\"", secret.display());
        let mut feed = Feed::open(&endpoint, &keys).await;
        feed.good().await;
        feed.close().await;
        fs::write(&secret, "wrong").expect("written");
        let refused = Feed::try_open(&endpoint, &keys).await.err().expect("is refused");
        assert!(refused.to_string().contains("user or password are refused"), "{refused}");
        assert!(!refused.to_string().contains("wrong"), "the password is in {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_the_server_does_not_offer_is_named_with_those_it_does() {
    let server = Asyncua::start(Options::default()).await;
    let keys = format!("{NODE}policy = \"Basic256Sha256\"\nmode = \"Sign\"");
    let mut context = topology::build_context();
    let data = tempfile::tempdir().expect("a folder");
    context.data_dir = data.path().to_owned();
    let refused =
        Feed::try_open_in(&server.endpoint(), &keys, &context).await.err().expect("no such endpoint");
    let refused = refused.to_string();
    assert!(refused.contains("offers no Basic256Sha256 with mode Sign"), "{refused}");
    assert!(refused.contains("it offers None with mode None"), "{refused}");
}

/// Moves the only certificate from `rejected/` to `trusted/`, as a person does.
fn trust(pki: &Path) {
    let rejected: Vec<_> = fs::read_dir(pki.join("rejected")).expect("a folder").flatten().collect();
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    fs::rename(rejected[0].path(), pki.join("trusted").join(rejected[0].file_name())).expect("moved");
}

fn trusted(pki: &Path) -> usize {
    fs::read_dir(pki.join("trusted")).expect("a folder").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn u7_a_certificate_is_trusted_by_a_person_and_a_changed_one_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = folder.path().join("pki");
    let old = folder.path().join("old");
    let new = folder.path().join("new");
    fs::create_dir_all(&old).expect("made");
    fs::create_dir_all(&new).expect("made");
    let server = Asyncua::start(Options { certificate: Some(&old), ..Options::default() }).await;
    let (port, endpoint) = (server.process.port, server.endpoint());
    let keys = |mode: &str| {
        format!("{NODE}policy = \"Basic256Sha256\"\nmode = \"{mode}\"\npki = \"{}\"", pki.display())
    };
    let unknown =
        Feed::try_open(&endpoint, &keys("SignAndEncrypt")).await.err().expect("nobody has trusted it");
    assert!(unknown.to_string().contains("nobody has trusted it"), "{unknown}");
    assert!(unknown.to_string().contains(".der"), "{unknown}");
    assert_eq!(trusted(&pki), 0, "never by itself");
    // Trying again does not wear the refusal down.
    assert!(Feed::try_open(&endpoint, &keys("Sign")).await.is_err());
    assert_eq!(trusted(&pki), 0, "never by itself");
    trust(&pki);
    for mode in ["Sign", "SignAndEncrypt"] {
        let mut feed = Feed::open(&endpoint, &keys(mode)).await;
        feed.good().await;
        feed.close().await;
    }
    let mut feed = Feed::open(&endpoint, &keys("SignAndEncrypt")).await;
    feed.good().await;
    // The server comes back with another key under the same name.
    drop(server);
    feed.until_connected(false).await;
    let _server = Asyncua::start(Options { port, certificate: Some(&new), ..Options::default() }).await;
    let lost = loop {
        match feed.batch().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let changed = feed.reopen().await.expect_err("another certificate");
    assert!(changed.to_string().contains("nobody has trusted it"), "{lost}, then {changed}");
    assert_eq!(trusted(&pki), 1);
    trust(&pki);
    feed.reopen().await.expect("a person has trusted it");
    feed.until("a gap is told", |row| row.status.starts_with("Gap")).await;
    feed.good().await;
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_over_an_encrypted_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = folder.path().join("pki");
    let server = Asyncua::start(Options { certificate: Some(folder.path()), ..Options::default() }).await;
    let secret = folder.path().join("password");
    fs::write(&secret, "right").expect("written");
    let keys = format!(
        "{NODE}policy = \"Basic256Sha256\"\npki = \"{}\"\nuser = \"operator\"\npassword = \"secret://file/{}\"",
        pki.display(),
        secret.display()
    );
    assert!(Feed::try_open(&server.endpoint(), &keys).await.is_err());
    trust(&pki);
    let mut feed = Feed::open(&server.endpoint(), &keys).await;
    feed.good().await;
    feed.close().await;
}
