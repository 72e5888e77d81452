//! `mail` against a real SMTP server (aiosmtpd) with STARTTLS and a login.

use std::fs;
use std::path::Path;

use tidegate_engine::flow::events::What;
use tidegate_engine::flow::state::{RunState, TaskState};
use tidegate_engine::time::Time;

use super::parts::in_time;
use super::python::{Server, free_port};
use super::{attempts, fire, flows, paused_by, start, topology};

const SERVER: &str = include_str!("smtp.py");

async fn server(folder: &Path) -> Server {
    Server::start(SERVER, &[folder.to_str().expect("UTF-8")]).await
}

/// The task `a`, sent over TLS with the login of the server.
fn mail(folder: &Path, port: u16, keys: &str) -> String {
    fs::write(folder.join("password"), "s3cret").expect("writes");
    let folder = folder.display();
    format!(
        "[[flow.warn.task]]\nid = \"a\"\ntype = \"mail\"\nserver = \"localhost:{port}\"\n\
         from = \"Tidegate <tidegate@plant.example>\"\nsubject = \"{{machine}} ist zu heiß\"\n\
         text = \"{{v}} °C\"\nuser = \"shift\"\npassword = \"secret://file/{folder}/password\"\n\
         ca = \"{folder}/ca.pem\"\nretry = {{ times = 1000, wait = \"20ms\", factor = 1 }}\n{keys}\n"
    )
}

/// Every message that was taken.
fn taken(folder: &Path) -> Vec<String> {
    let read = |n| fs::read_to_string(folder.join(format!("{n}.eml"))).ok();
    (1..).map_while(read).collect()
}

#[tokio::test]
async fn a_mail_is_delivered_once_over_tls_with_a_login() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = server(folder.path()).await;
    let to = "to = [\"shift@plant.example\", \"later@plant.example\"]";
    let mut plant = start(&mail(folder.path(), server.port, to), folder.path());
    let run = fire(&mut plant).await;
    assert_eq!(run.state, RunState::Succeeded, "{run:?}");
    // The first attempt found `later` refused for the moment; nobody was sent anything then.
    assert_eq!(attempts(&plant, &run, "a"), 2);
    let taken = taken(folder.path());
    assert_eq!(taken.len(), 1);
    assert!(taken[0].contains("x-rcpt: shift@plant.example,later@plant.example"), "{taken:?}");
    // RFC 2047: a subject beyond ASCII; RFC 5322: a message id that a repeat would share.
    assert!(taken[0].contains("Subject: pump 1 ist zu =?utf-8?b?"), "{taken:?}");
    let key = tidegate_engine::flow::key::RunKey::of("plant", "hot", "pump 1", Time(5), 0);
    assert!(taken[0].contains(&format!("Message-ID: <{key}-a@tidegate>")), "{taken:?}");
}

#[tokio::test]
async fn what_the_server_refuses_for_good_is_not_sent_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = server(folder.path()).await;
    let to = "to = [\"shift@plant.example\"]";
    let cases = [
        (
            mail(folder.path(), server.port, "to = [\"shift@plant.example\", \"refused@plant.example\"]"),
            "no such mailbox",
        ),
        (
            mail(folder.path(), server.port, to).replace("\"shift\"\n", "\"other\"\n"),
            "the mail server refuses",
        ),
    ];
    for (tasks, words) in cases {
        let state = tempfile::tempdir().expect("a folder");
        let mut plant = start(&tasks, state.path());
        let run = fire(&mut plant).await;
        paused_by(&run, words);
        assert_eq!(attempts(&plant, &run, "a"), 1);
    }
    assert!(taken(folder.path()).is_empty());
}

#[tokio::test]
async fn without_tls_nothing_is_sent_unless_it_is_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("plain"), "").expect("writes");
    let server = server(folder.path()).await;
    let to = "to = [\"shift@plant.example\"]";
    let tasks = mail(folder.path(), server.port, to);
    let tasks: Vec<&str> = tasks
        .lines()
        .filter(|line| !["user", "password", "ca "].iter().any(|key| line.starts_with(key)))
        .collect();
    let tasks = tasks.join("\n");
    let state = tempfile::tempdir().expect("a folder");
    let mut plant = start(&tasks, state.path());
    paused_by(&fire(&mut plant).await, "STARTTLS");
    let state = tempfile::tempdir().expect("a folder");
    let mut plant = start(&format!("{tasks}\ntls = \"none\"\n"), state.path());
    assert_eq!(fire(&mut plant).await.state, RunState::Succeeded);
    assert_eq!(taken(folder.path()).len(), 1);
}

#[tokio::test]
async fn a_server_that_is_away_is_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let to = "to = [\"shift@plant.example\"]";
    fs::write(folder.path().join("ca.pem"), "").expect("writes");
    let mut plant = start(&mail(folder.path(), port, to), folder.path());
    let mut heard = plant.events.listen();
    let place = folder.path().to_owned();
    let back = tokio::spawn(async move {
        loop {
            let event = heard.recv().await.expect("is told");
            if matches!(event.what, What::Task { state: TaskState::RetryWait, .. }) {
                break;
            }
        }
        Server::start_on(port, SERVER, &[place.to_str().expect("UTF-8")]).await
    });
    assert_eq!(fire(&mut plant).await.state, RunState::Succeeded);
    drop(in_time(back).await.expect("no panic"));
    assert_eq!(taken(folder.path()).len(), 1);
}

#[test]
fn mistakes_are_found_at_load() {
    let folder = tempfile::tempdir().expect("a folder");
    for (keys, code) in [
        ("to = [\"shift\"]", "TG-F023"),
        ("to = []", "TG-F023"),
        ("to = [\"a@b.c\"]\nsubject = 5", "TG-C005"),
    ] {
        let tasks = format!(
            "[[flow.warn.task]]\nid = \"a\"\ntype = \"mail\"\nserver = \"localhost:25\"\nfrom = \"a@b.c\"\n{keys}\n{}",
            if keys.contains("subject") { "" } else { "subject = \"x\"" }
        );
        let found = flows(&topology(&tasks), folder.path(), Vec::new())
            .err()
            .map(|error| error.0)
            .unwrap_or_default();
        let codes: Vec<&str> = found.iter().map(|diagnostic| diagnostic.code).collect();
        assert_eq!(codes, [code], "{keys}");
    }
}
