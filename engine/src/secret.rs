//! Secrets are references in a file and values only where they are used. A
//! value is never printed: it has no `Display` and its `Debug` says nothing.

use std::fmt;

/// A secret's value. Keep it as short a time as possible.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The value itself, for the call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}

/// Text of a topology that may be `secret://env/NAME` or `secret://file/PATH`.
#[derive(Clone)]
pub struct SecretRef(String);

impl fmt::Debug for SecretRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_reference() { out.write_str(&self.0) } else { out.write_str("SecretRef(…)") }
    }
}

impl SecretRef {
    /// A reference, or a literal value (which `check` warns about).
    #[must_use]
    pub fn new(text: impl Into<String>) -> SecretRef {
        SecretRef(text.into())
    }

    /// Whether the text is a reference and not a literal value.
    #[must_use]
    pub fn is_reference(&self) -> bool {
        self.0.starts_with("secret://")
    }

    /// Whether the reference can name a secret; a literal always does.
    ///
    /// # Errors
    /// A sentence naming the reference.
    pub fn check(&self) -> Result<(), String> {
        let Some(reference) = self.0.strip_prefix("secret://") else { return Ok(()) };
        match reference.split_once('/') {
            Some(("env" | "file", name)) if !name.is_empty() => Ok(()),
            Some(("env" | "file", _)) | None => Err(format!("{} names no secret", self.0)),
            Some((store, _)) => Err(format!("unknown secret store `{store}` in {}; use env or file", self.0)),
        }
    }

    /// Reads the secret now; call it at every (re)connect, so that a rotated
    /// secret is used without a restart.
    ///
    /// # Errors
    /// A sentence naming the reference, never the value.
    pub fn resolve(&self) -> Result<Secret, String> {
        self.check()?;
        let Some(reference) = self.0.strip_prefix("secret://") else {
            return Ok(Secret(self.0.clone()));
        };
        match reference.split_once('/') {
            Some(("env", name)) => std::env::var(name)
                .map(Secret)
                .map_err(|_| format!("environment variable {name} of {} is not set", self.0)),
            Some(("file", path)) => {
                // `secret://file/run/x` is the absolute path `/run/x`, `secret://file/./x` a relative one.
                let path = if path.starts_with("./") { path.to_owned() } else { format!("/{path}") };
                std::fs::read_to_string(&path)
                    .map(|text| Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
                    .map_err(|error| format!("cannot read {}: {error}", self.0))
            }
            Some(_) | None => Err(format!("{} names no secret", self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_printed() {
        let literal = SecretRef::new("hunter2");
        assert!(!format!("{literal:?}").contains("hunter2"));
        let value = literal.resolve().expect("a literal resolves to itself");
        assert!(!format!("{value:?}").contains("hunter2"));
        assert_eq!(value.expose(), "hunter2");
    }

    #[test]
    fn a_missing_secret_is_named() {
        let error = SecretRef::new("secret://env/TIDEGATE_NO_SUCH").resolve().expect_err("not set");
        assert!(error.contains("TIDEGATE_NO_SUCH"), "{error}");
        let error = SecretRef::new("secret://moon/x").resolve().expect_err("no such store");
        assert!(error.contains("moon"), "{error}");
    }
}
