//! Authorities and certificates for tests, made by the program `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::parts::part;

/// An authority in a folder of its own.
pub(crate) struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// A new one, `ca.pem` and `ca.key` in this folder.
    pub(crate) fn new(folder: &Path) -> Authority {
        std::fs::create_dir_all(folder).expect("a folder is made");
        let authority = Authority { folder: folder.to_owned() };
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=tests",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        authority
    }

    /// The file with its certificate.
    pub(crate) fn pem(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate for these names (`IP:127.0.0.1`, `DNS:..`), and its key:
    /// `NAME.pem` and `NAME.key`.
    pub(crate) fn sign(&self, name: &str, names: &str) -> (PathBuf, PathBuf) {
        let (pem, key, request) = (format!("{name}.pem"), format!("{name}.key"), format!("{name}.csr"));
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            &format!("subjectAltName={names}"),
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-copy_extensions",
            "copy",
            "-out",
            &pem,
        ]);
        (self.folder.join(pem), self.folder.join(key))
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new(part("openssl.sh"));
        let output = command.args(arguments).current_dir(&self.folder).output().expect("openssl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {said}");
    }
}
