//! Where a part's events go: for each port, the edges that read it.

use std::sync::Arc;

use super::edge::{Closed, EdgeSender};
use super::stats::NodeStats;
use crate::event::Event;

/// The edges behind each port of a part.
pub(super) struct Outlets {
    pub(super) ports: Vec<Vec<EdgeSender>>,
    pub(super) stats: Arc<NodeStats>,
}

impl Outlets {
    /// Sends an event to every reader of a port, counting rows once.
    pub(super) async fn send(&self, port: usize, event: Event) -> Result<(), Closed> {
        let edges = self.ports.get(port).map(Vec::as_slice).unwrap_or_default();
        if let Event::Batch(batch) = &event {
            self.stats.sent(port, batch.num_rows());
        }
        for edge in edges {
            self.stats.blocked(edge.send(event.clone()).await?);
        }
        Ok(())
    }

    /// Sends a watermark, barrier or end to every reader of every port.
    pub(super) async fn broadcast(&self, event: &Event) -> Result<(), Closed> {
        for edge in self.ports.iter().flatten() {
            self.stats.blocked(edge.send(event.clone()).await?);
        }
        Ok(())
    }
}
