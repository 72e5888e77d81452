//! A TCP connection with faults on demand: everything passes through a port of
//! ours, which can drop all connections or stop passing bytes.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking")]
#![allow(dead_code, reason = "not every test file uses every helper")]

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the proxy does at present.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Fault {
    /// Counts the orders to drop.
    drops: u64,
    /// Answers of the server do not pass.
    answers_held: bool,
}

/// Stands between a client and a server of this machine until it is dropped.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    fault: Arc<watch::Sender<Fault>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Orders to a proxy, for code that runs inside a server.
#[derive(Clone)]
pub(crate) struct Orders(Arc<watch::Sender<Fault>>);

impl Orders {
    /// Aborts every connection; new ones are accepted.
    pub(crate) fn drop_all(&self) {
        self.0.send_modify(|fault| fault.drops += 1);
    }

    /// Holds back what the server says, or lets it pass again.
    pub(crate) fn hold_answers(&self, held: bool) {
        self.0.send_modify(|fault| fault.answers_held = held);
    }
}

impl Proxy {
    pub(crate) async fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (fault, faults) = watch::channel(Fault::default());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("accepts");
                let faults = faults.clone();
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await {
                        pass(client, server, faults).await;
                    }
                });
            }
        });
        Proxy { port, fault: Arc::new(fault), task }
    }

    pub(crate) fn orders(&self) -> Orders {
        Orders(Arc::clone(&self.fault))
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, mut faults: watch::Receiver<Fault>) {
    let born = faults.borrow_and_update().drops;
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let Fault { drops, answers_held } = *faults.borrow_and_update();
        if drops != born {
            // A reset, as from a router that has forgotten the connection.
            client.set_zero_linger().ok();
            server.set_zero_linger().ok();
            return;
        }
        let written = tokio::select! {
            changed = faults.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = client.read(&mut from_client) => match read {
                Ok(count) if count > 0 => server.write_all(&from_client[..count]).await,
                _ => return,
            },
            read = server.read(&mut from_server), if !answers_held => match read {
                Ok(count) if count > 0 => client.write_all(&from_server[..count]).await,
                _ => return,
            },
        };
        if written.is_err() {
            return;
        }
    }
}
