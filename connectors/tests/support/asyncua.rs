//! asyncua's OPC UA server (somebody else's code), with a second port on which
//! a test asks for what it has and orders it about.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]
#![allow(dead_code, reason = "not every test file uses every helper")]

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::python;

/// Arguments: port, port for orders, namespaces in order (with commas),
/// number of nodes, folder with the server's certificate or `none`.
const PROGRAM: &str = r#"
import ast, asyncio, datetime, inspect, json, logging, sys
from pathlib import Path
from asyncua import Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import SimpleRoleRuleset, User, UserRole
from cryptography.x509.oid import ExtendedKeyUsageOID
logging.disable(logging.CRITICAL)
port, orders, namespaces, count, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), int(sys.argv[4]), sys.argv[5]

class Users:
    def get_user(self, iserver, username=None, password=None, certificate=None):
        if username is None or (username, password) == ("operator", "right"):
            return User(role=UserRole.User)
        return None

async def on_order(reader, writer):
    while line := await reader.readline():
        try:
            code = compile(line.decode(), "order", "eval", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            answer = eval(code, globals())
            answer = await answer if inspect.isawaitable(answer) else answer
            writer.write((json.dumps(answer, default=str) + "\n").encode())
        except Exception as error:
            writer.write((f"!{error!r}\n").encode())

def sessions():
    return len(server.iserver._external_sessions)

def subscriptions():
    return len(server.iserver.subscription_service.subscriptions)

async def put(node, value):
    await server.write_attribute_value(nodes[node].nodeid, ua.DataValue(ua.Variant(float(value), ua.VariantType.Double)))

def instant(seconds):
    return None if seconds is None else datetime.datetime(1601, 1, 1) if seconds == 0 else datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).replace(tzinfo=None)

async def put_at(node, value, source, received):
    await server.write_attribute_value(nodes[node].nodeid, ua.DataValue(ua.Variant(float(value), ua.VariantType.Double),
        SourceTimestamp=instant(source), ServerTimestamp=instant(received)))

counting = None
async def count_on(node, every):
    k = 0
    while True:
        k += 1
        await put(node, k)
        await asyncio.sleep(every)

def start_counting(node, every):
    global counting
    counting = asyncio.create_task(count_on(node, every))

async def main():
    global server, nodes
    server = Server(user_manager=Users()) if folder != "none" else Server()
    await server.init()
    await server.set_application_uri("urn:test:server")
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/t/")
    if folder == "none":
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    else:
        key, cert = Path(folder) / "key.pem", Path(folder) / "cert.der"
        await setup_self_signed_certificate(key, cert, "urn:test:server", "127.0.0.1",
            [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH], {"commonName": "test server"})
        await server.load_certificate(str(cert))
        await server.load_private_key(str(key))
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_Sign,
            ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        server.set_identity_tokens([ua.AnonymousIdentityToken, ua.UserNameIdentityToken])
    indices = [await server.register_namespace(uri) for uri in namespaces]
    index = dict(zip(namespaces, indices))["urn:t"]
    folder_node = await server.nodes.objects.add_object(ua.NodeId("device", index), "device")
    nodes = {f"v{i}": await folder_node.add_variable(ua.NodeId(f"v{i}", index), f"v{i}", 0.0) for i in range(count)}
    await nodes["v0"].set_writable()
    await asyncio.start_server(on_order, "127.0.0.1", orders)
    async with server:
        await asyncio.Event().wait()

asyncio.run(main())
"#;

/// A running server.
pub(crate) struct Asyncua {
    pub(crate) process: python::Server,
    orders: u16,
}

/// What a server is started with.
#[derive(Clone, Copy)]
pub(crate) struct Options<'a> {
    /// 0 for any.
    pub(crate) port: u16,
    /// In the order in which they get their numbers; `urn:t` has the nodes.
    pub(crate) namespaces: &'a str,
    /// Nodes `v0`, `v1`, … of type double.
    pub(crate) nodes: usize,
    /// Where its certificate is or is made; without, no security and no users.
    pub(crate) certificate: Option<&'a std::path::Path>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { port: 0, namespaces: "urn:t", nodes: 3, certificate: None }
    }
}

impl Asyncua {
    pub(crate) async fn start(options: Options<'_>) -> Asyncua {
        let port = if options.port == 0 { python::free_port() } else { options.port };
        let orders = python::free_port();
        let nodes = options.nodes.to_string();
        let folder = options.certificate.map_or("none".into(), |folder| folder.display().to_string());
        let arguments = [orders.to_string(), options.namespaces.to_owned(), nodes, folder];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let process = python::Server::start_on(port, PROGRAM, &arguments).await;
        Asyncua { process, orders }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("opc.tcp://127.0.0.1:{}/t/", self.process.port)
    }

    /// What a Python expression gives in the server, as JSON.
    pub(crate) async fn order(&self, expression: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.orders)).await.expect("takes orders");
            stream.write_all(format!("{expression}\n").as_bytes()).await.expect("is sent");
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).await.expect("answers");
            answer.trim().to_owned()
        };
        let answer = timeout(Duration::from_secs(20), asked).await.expect("answers in time");
        assert!(!answer.starts_with('!'), "{expression}: {answer}");
        answer
    }

    /// Waits until an expression gives this.
    pub(crate) async fn until(&self, expression: &str, wanted: &str) {
        let mut last = String::new();
        let waiting = async {
            loop {
                last = self.order(expression).await;
                if last == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = timeout(Duration::from_secs(20), waiting).await;
        assert!(waited.is_ok(), "{expression} is {last} and not {wanted}");
    }
}
