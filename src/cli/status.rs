//! `tidegate status`: what a running daemon does, asked over its API.

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::print::say;
use crate::exit::{FAILED, Failure, UNREACHABLE};

#[derive(Args)]
pub(crate) struct Status {
    /// Address of the daemon's API
    #[arg(long, default_value = "127.0.0.1:7450")]
    api: String,
    /// Print the daemon's JSON as it is
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(FAILED, error))?;
        let body = runtime.block_on(ask(&self.api, "GET", "/status", None))?;
        if self.json {
            say!("{body}");
            return Ok(());
        }
        let status: serde_json::Value = serde_json::from_str(&body)
            .map_err(|error| Failure::new(FAILED, format!("{} gave no status: {error}", self.api)))?;
        for topology in status.as_array().map(Vec::as_slice).unwrap_or_default() {
            let text = |key: &str| topology[key].as_str().unwrap_or_default();
            let colon = if text("reason").is_empty() { "" } else { ": " };
            say!("{}  {}{colon}{}", text("topology"), text("state"), text("reason"));
            for node in topology["nodes"].as_array().map(Vec::as_slice).unwrap_or_default() {
                let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
                say!(
                    "  {:<8} {:<20} {:>12} in  {}",
                    text("kind"),
                    text("name"),
                    node["rows_in"],
                    text("state")
                );
            }
        }
        Ok(())
    }
}

/// One request over HTTP/1.0, with JSON if it has a body; the answer's body.
pub(super) async fn ask(
    address: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<String, Failure> {
    let unreachable =
        |error: std::io::Error| Failure::new(UNREACHABLE, format!("no daemon answers at {address}: {error}"));
    let mut stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let body = body.map_or_else(String::new, |body| {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let end = if body.is_empty() { "\r\n" } else { "" };
    let request = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n{body}{end}");
    stream.write_all(request.as_bytes()).await.map_err(unreachable)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(unreachable)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| Failure::new(FAILED, format!("{address} does not speak HTTP")))?;
    let is_good = head.split(' ').nth(1).is_some_and(|code| code.starts_with('2'));
    if is_good { Ok(body.to_owned()) } else { Err(Failure::new(FAILED, body.trim_end())) }
}
