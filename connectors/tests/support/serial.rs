//! A serial line: two pseudo-terminals that socat joins.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio_serial::{SerialPortBuilderExt, SerialStream};

/// The line, with the two paths of its ends, until it is dropped.
pub(crate) struct SerialLine {
    pub(crate) ours: String,
    pub(crate) theirs: String,
    socat: Child,
    _folder: Option<tempfile::TempDir>,
}

impl Drop for SerialLine {
    fn drop(&mut self) {
        self.socat.kill().ok();
        self.socat.wait().ok();
    }
}

impl SerialLine {
    pub(crate) async fn start() -> SerialLine {
        let folder = tempfile::tempdir().expect("a folder");
        let end = |name: &str| folder.path().join(name).display().to_string();
        let (ours, theirs) = (end("ours"), end("theirs"));
        let mut line = SerialLine::start_at(&ours, &theirs).await;
        line._folder = Some(folder);
        line
    }

    /// With the same paths as a line that is gone.
    pub(crate) async fn start_at(ours: &str, theirs: &str) -> SerialLine {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parts/socat.sh");
        let found = Command::new(script).stderr(Stdio::inherit()).output().expect("socat.sh runs");
        assert!(found.status.success(), "socat.sh failed");
        if let Some(folder) = Path::new(ours).parent() {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        let socat = Command::new(String::from_utf8(found.stdout).expect("a path").trim())
            .arg(format!("pty,raw,echo=0,link={ours}"))
            .arg(format!("pty,raw,echo=0,link={theirs}"))
            .spawn()
            .expect("socat starts");
        let line = SerialLine { ours: ours.into(), theirs: theirs.into(), socat, _folder: None };
        let there = async {
            while !(Path::new(ours).exists() && Path::new(theirs).exists()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), there).await.expect("both ends are there");
        line
    }

    /// The device's end, open.
    pub(crate) fn device(&self) -> SerialStream {
        tokio_serial::new(&self.theirs, 19_200).open_native_async().expect("opens")
    }
}
