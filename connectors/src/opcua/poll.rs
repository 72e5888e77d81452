//! Reading nodes at an interval instead of subscribing; a poll that fails is a
//! row of bad values.

use std::sync::Arc;
use std::time::Duration;

use opcua::client::Session;
use opcua::types::{ReadValueId, TimestampsToReturn};
use tidegate_engine::error::ConnectorError;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::link::{News, Wanted};
use super::nodes::{Item, refusal, resolve};
use super::session::{Change, Connection};

/// Nodes in one read request.
const READ_CHUNK: usize = 1_000;

/// Polls until the connection must be made anew, or once.
pub(crate) async fn poll(
    connection: &mut Connection,
    wanted: &Wanted,
    every: Duration,
    news: &mpsc::Sender<News>,
) -> Result<(), ConnectorError> {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut items: Option<Vec<Arc<Item>>> = None;
    let mut gap_owed = wanted.gap.clone();
    loop {
        tokio::select! {
            biased;
            change = connection.changes.recv() => match change {
                Some(Change::Connected(_)) => {
                    // Namespaces may have other numbers after every connect.
                    let session = &connection.session;
                    let found = resolve(session, &wanted.selections, &wanted.tag_names).await?;
                    tell(news, News::Connected(true)).await?;
                    if let Some(reason) = gap_owed.take() {
                        tell(news, News::Gap { items: found.items.clone(), reason }).await?;
                    }
                    if !found.absent.is_empty() {
                        let values = found.absent.iter().map(refusal).collect();
                        tell(news, News::Values { values, ticket: None }).await?;
                    }
                    items = Some(found.items);
                    if wanted.once {
                        return read(session, items.as_deref().unwrap_or_default(), news).await;
                    }
                }
                Some(Change::Disconnected) => tell(news, News::Connected(false)).await?,
                Some(Change::Ended(error)) => return Err(error),
                None => return Err(ConnectorError::Lost("the session has ended".into())),
            },
            _ = ticks.tick(), if items.is_some() => {
                read(&connection.session, items.as_deref().unwrap_or_default(), news).await?;
            }
        }
    }
}

async fn read(
    session: &Session,
    items: &[Arc<Item>],
    news: &mpsc::Sender<News>,
) -> Result<(), ConnectorError> {
    for chunk in items.chunks(READ_CHUNK) {
        let wanted: Vec<ReadValueId> =
            chunk.iter().map(|item| ReadValueId::from(item.node.clone())).collect();
        let one = match session.read(&wanted, TimestampsToReturn::Both, 0.0).await {
            Ok(values) => {
                let values = chunk.iter().cloned().zip(values).collect();
                News::Values { values, ticket: None }
            }
            Err(error) => News::Unread { items: chunk.to_vec(), reason: error.to_string() },
        };
        tell(news, one).await?;
    }
    Ok(())
}

async fn tell(news: &mpsc::Sender<News>, one: News) -> Result<(), ConnectorError> {
    news.send(one).await.map_err(|_| ConnectorError::Lost("nobody reads the polls".into()))
}
