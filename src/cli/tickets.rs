//! `tidegate tickets`: tickets of flows, read from the journal.

use clap::Args;
use tidegate_engine::flow::key::run_id_text;

use super::print::{plain, say};
use super::runs::{Where, short};
use crate::exit::{Failure, IO};

#[derive(Args)]
pub(crate) struct Tickets {
    #[command(flatten)]
    place: Where,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

impl Tickets {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let journal = self.place.open()?;
        for ticket in journal.tickets(self.limit).map_err(|error| Failure::new(IO, error))? {
            if self.json {
                let line = serde_json::json!({
                    "number": ticket.id, "topology": ticket.topology, "flow": ticket.flow, "run": run_id_text(ticket.run),
                    "opened_at": ticket.opened_at.to_string(), "state": ticket.state, "severity": ticket.severity,
                    "title": ticket.title, "body": ticket.body,
                });
                say!("{line}");
            } else {
                say!(
                    "#{:<5} {:<8} {:<9} {} {}",
                    ticket.id,
                    ticket.state,
                    ticket.severity,
                    short(ticket.opened_at),
                    plain(&ticket.title)
                );
                for line in ticket.body.lines() {
                    say!("       {}", plain(line));
                }
            }
        }
        Ok(())
    }
}
