//! `tidegate explain TG-C003`: what a code means, with a bad and a good line.

use clap::Args;
use tidegate_engine::diagnostic::nearest;

use super::codes::CODES;
use super::print::say;
use crate::exit::{FAILED, Failure};

#[derive(Args)]
pub(crate) struct Explain {
    /// The code, e.g. TG-C003; all codes are listed if left out
    code: Option<String>,
}

impl Explain {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let Some(wanted) = self.code.map(|code| code.to_uppercase()) else {
            for code in CODES {
                say!("{:<9} {}", code.code, code.means);
            }
            return Ok(());
        };
        match CODES.iter().find(|code| code.code == wanted) {
            Some(code) => {
                say!("{}: {}\n\nwrong:  {}\nright:  {}", code.code, code.means, code.wrong, code.right);
                Ok(())
            }
            None => {
                let near = nearest(&wanted, CODES.iter().map(|code| code.code));
                let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                Err(Failure::new(FAILED, format!("there is no code {wanted}{near}")))
            }
        }
    }
}
