//! Objects as the remote side of a sink's log. The order of steps is what makes
//! each row be there once: announce where the object ends, show it, then say
//! that it is there. After a crash between any two of them the same object is
//! made again under the same name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidegate_engine::storage::blocking::blocking;
use tidegate_engine::storage::vfs::{Vfs, write_atomically};

use super::Store;
use super::encoder::{ObjectEncoder, ObjectFormat};
use super::marker::{Announced, Marker, object_name};
use crate::sink_log::{Remote, RemoteError, Roll};

/// Encoded bytes are handed to the store at this size.
const HAND_OVER_BYTES: usize = 1 << 20;

/// One step may send many parts, each with a limit of its own.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);

/// How objects are made.
pub(super) struct Settings {
    pub(super) sink: String,
    /// Where the log's name is kept, beside the log.
    pub(super) folder: PathBuf,
    pub(super) vfs: Arc<dyn Vfs>,
    /// This process's name.
    pub(super) session: String,
    pub(super) format: ObjectFormat,
    pub(super) roll: Roll,
}

/// The remote side.
pub(super) struct Objects<S> {
    settings: Settings,
    store: S,
    /// The log's name, once it is known.
    log: Option<String>,
    /// The marker as this process has read or written it last.
    marker: Option<Marker>,
    under_way: Option<UnderWay>,
}

/// An object that nobody sees yet.
struct UnderWay {
    name: String,
    /// From the first rows on, whose columns all have.
    encoder: Option<ObjectEncoder>,
}

impl<S: Store> Objects<S> {
    pub(super) fn new(settings: Settings, store: S) -> Objects<S> {
        Objects { settings, store, log: None, marker: None, under_way: None }
    }

    fn marker(&self) -> Result<&Marker, RemoteError> {
        self.marker.as_ref().ok_or_else(|| RemoteError::Lost("the marker is not known yet".into()))
    }

    /// The name of our log: made once, and as durable as the log itself.
    async fn log(&mut self) -> Result<String, RemoteError> {
        if let Some(log) = &self.log {
            return Ok(log.clone());
        }
        let (path, fresh) = (self.settings.folder.join("name"), self.settings.session.clone());
        let vfs = Arc::clone(&self.settings.vfs);
        let named = blocking(move || name_of(vfs.as_ref(), &path, fresh)).await;
        let log = named.map_err(|error| {
            RemoteError::Lost(format!("cannot name the log {}: {error}", self.settings.folder.display()))
        })?;
        self.log = Some(log.clone());
        Ok(log)
    }

    async fn read(&mut self) -> Result<Option<Marker>, RemoteError> {
        let Some(bytes) = self.store.read_marker().await? else { return Ok(None) };
        let marker = Marker::read(&bytes);
        marker.map(Some).map_err(|reason| {
            RemoteError::Fatal(format!("of the marker {}: {reason}", self.store.marker_place()))
        })
    }

    async fn write(&mut self, marker: Marker) -> Result<(), RemoteError> {
        if !self.store.write_marker(&marker.bytes()).await? {
            // It may be our own, if an answer was lost: the next look tells.
            return Err(RemoteError::Lost(format!("the marker {} has changed", self.store.marker_place())));
        }
        self.marker = Some(marker);
        Ok(())
    }

    /// What the store's marker means to us: ours, to be taken over from an
    /// earlier process of ours, or nobody's.
    fn judge(&self, found: Option<Marker>, log: &str) -> Result<Marker, RemoteError> {
        let session = &self.settings.session;
        let (found, known) = match (found, &self.marker) {
            (Some(found), known) => (found, known),
            // Somebody has emptied the place: what was delivered is known all the same.
            (None, Some(known)) => return Ok(known.clone()),
            (None, None) => return Ok(Marker::new(log, session)),
        };
        if found.log != log && found.is_empty() {
            return Ok(Marker::new(log, session));
        }
        if found.log != log {
            return Err(RemoteError::Fatal(format!(
                "the objects there belong to another log ({}, up to epoch {}; this one is {log}): the state of this \
                 topology is not the one that wrote them, or another topology of this name writes there. Bring that \
                 state back, or choose another place, or accept rows twice and remove {}",
                found.log,
                found.epoch,
                self.store.marker_place()
            )));
        }
        if known.is_some() && found.session != *session {
            return Err(self.superseded(&found));
        }
        Ok(Marker { session: session.clone(), ..found })
    }

    fn superseded(&self, found: &Marker) -> RemoteError {
        RemoteError::Fatal(format!(
            "another process ({}) with a copy of this topology's state writes to the same place (marker {}): only one \
             may run; stop one of them for good",
            found.session,
            self.store.marker_place()
        ))
    }
}

/// Reads the name of a log, or gives it this one.
fn name_of(vfs: &dyn Vfs, path: &Path, fresh: String) -> io::Result<String> {
    match vfs.read(path) {
        Ok(name) => String::from_utf8(name).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_atomically(vfs, path, &[fresh.as_bytes()])?;
            Ok(fresh)
        }
        Err(error) => Err(error),
    }
}

#[async_trait]
impl<S: Store> Remote for Objects<S> {
    async fn connect(&mut self) -> Result<u64, RemoteError> {
        self.under_way = None;
        let log = self.log().await?;
        self.store.connect().await?;
        let found = self.read().await?;
        let marker = self.judge(found.clone(), &log)?;
        let epoch = marker.epoch;
        if found.as_ref() == Some(&marker) {
            self.marker = Some(marker);
        } else {
            // From here on an earlier process knows that it is no longer alone.
            self.write(marker).await?;
        }
        Ok(epoch)
    }

    async fn begin(&mut self) -> Result<u64, RemoteError> {
        let found = self.read().await?;
        let marker = self.marker()?.clone();
        match found {
            Some(found) if found == marker => {}
            Some(found) if found.session != marker.session => return Err(self.superseded(&found)),
            Some(_) | None => return Err(RemoteError::Lost("the marker is not as it was left".into())),
        }
        let extension = self.settings.format.extension();
        let name = object_name(&self.settings.sink, &marker.log, marker.epoch, extension);
        if let Some(announced) = marker.announced.as_ref().filter(|announced| announced.name != name) {
            return Err(RemoteError::Fatal(format!(
                "the object {} may be there with rows that would go to {name} now: the format has changed before it \
                 was complete; start once with the former format",
                announced.name
            )));
        }
        self.under_way = Some(UnderWay { name, encoder: None });
        Ok(marker.epoch)
    }

    async fn insert(&mut self, rows: &RecordBatch) -> Result<(), RemoteError> {
        let Some(UnderWay { name, encoder }) = self.under_way.take() else {
            return Err(RemoteError::Lost("no object is under way".into()));
        };
        let mut encoder = match encoder {
            Some(encoder) => encoder,
            None => ObjectEncoder::new(&self.settings.format, &rows.schema()).map_err(RemoteError::Fatal)?,
        };
        let rows = rows.clone();
        let encoded = blocking(move || encoder.write(&rows).map(|()| encoder));
        let mut encoder = encoded.await.map_err(RemoteError::Fatal)?;
        if encoder.ready() >= HAND_OVER_BYTES {
            self.store.add(&name, encoder.take()).await?;
        }
        self.under_way = Some(UnderWay { name, encoder: Some(encoder) });
        Ok(())
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), RemoteError> {
        let mut marker = self.marker()?.clone();
        if let Some(UnderWay { name, encoder: Some(encoder) }) = self.under_way.take() {
            match &marker.announced {
                Some(announced) if announced.epoch == epoch => {}
                Some(announced) => {
                    let message =
                        format!("{} was announced up to epoch {}, not {epoch}", name, announced.epoch);
                    return Err(RemoteError::Fatal(message));
                }
                None => {
                    marker.announced = Some(Announced { epoch, name: name.clone() });
                    self.write(marker.clone()).await?;
                }
            }
            let first = marker.epoch + 1;
            let finished = blocking(move || encoder.finish(first, epoch));
            self.store.add(&name, finished.await.map_err(RemoteError::Fatal)?).await?;
            self.store.publish(&name).await?;
        }
        let next = Marker { epoch, announced: None, ..marker.clone() };
        if next == marker { Ok(()) } else { self.write(next).await }
    }

    fn roll(&self) -> Option<Roll> {
        Some(self.settings.roll)
    }

    fn bytes(&self) -> u64 {
        let encoder = self.under_way.as_ref().and_then(|under_way| under_way.encoder.as_ref());
        encoder.map_or(0, ObjectEncoder::bytes)
    }

    fn announced(&self) -> Option<u64> {
        Some(self.marker.as_ref()?.announced.as_ref()?.epoch)
    }

    fn step_timeout(&self) -> Duration {
        STEP_TIMEOUT
    }

    fn marker_place(&self) -> String {
        self.store.marker_place()
    }
}
