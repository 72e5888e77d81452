//! Nodes whose state a person throws away: they begin anew, durably, before
//! anything starts. What a log holds that peers were told of and nobody has
//! worked on is put aside and named, never removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::checkpoint_store::CheckpointStore;
use super::ingress;
use super::job::{JobConfig, JobError};
use super::leftover::{Leftover, unread_records};
use super::parallel::node_of;
use crate::source::Position;
use crate::storage::log::Log;
use crate::storage::vfs::Vfs;
use crate::topology::plan::Plan;

/// Segments that no log reads any more.
const ASIDE: &str = "lost-";

/// Takes from the checkpoint what a person throws away, and makes that durable
/// in its file, so that the word is good for later starts too. Nothing else is
/// refused after this.
///
/// # Errors
/// The disk does not give or take what it must.
pub(super) fn begin(
    plan: &Plan,
    checkpoint: &mut Checkpoint,
    store: &CheckpointStore,
    config: &JobConfig,
) -> Result<(), JobError> {
    let allowed = &config.allowed;
    if allowed.reset_state.is_empty() && allowed.keep_position.is_empty() {
        return Ok(());
    }
    for name in &allowed.reset_state {
        let position = checkpoint.sources.remove(name).and_then(|(position, _)| position);
        checkpoint.received.remove(name);
        checkpoint.operators.retain(|part, _| node_of(part) != name);
        checkpoint.outsides.remove(name);
        let folder = config.data_dir.join("ingress").join(name);
        let behind = put_aside(name, &folder, position.as_ref(), checkpoint.epoch, &config.vfs);
        let Some(behind) = behind.map_err(JobError::Storage)? else { continue };
        // The numbers of records go on: an older checkpoint would skip new ones.
        if plan.sources.iter().any(|node| node.name == *name && node.part.logged) {
            checkpoint.sources.insert(name.clone(), (Some(ingress::behind(behind)), None));
        }
    }
    let named = |name: &String| allowed.keep_position.contains(name) || allowed.reset_state.contains(name);
    for node in plan.sources.iter().filter(|node| named(&node.name)) {
        checkpoint.outsides.insert(node.name.clone(), node.fingerprint.text().to_owned());
    }
    store.amend(checkpoint.epoch, |saved| {
        for name in &allowed.reset_state {
            saved.operators.retain(|part, _| node_of(part) != name);
        }
        saved.sources = checkpoint.sources.clone();
        saved.outsides = checkpoint.outsides.clone();
    })?;
    Ok(())
}

/// Puts aside the segments of a log that hold records which were acknowledged
/// and not worked on, and says so. Answers the last number of the log; `None`
/// if there is none.
fn put_aside(
    name: &str,
    folder: &Path,
    position: Option<&Position>,
    epoch: u64,
    vfs: &Arc<dyn Vfs>,
) -> Result<Option<u64>, String> {
    if vfs.list(folder).is_err() {
        return Ok(None);
    }
    let read = position.and_then(ingress::record_of).unwrap_or(0);
    let log = Log::look(Arc::clone(vfs), folder).map_err(|error| error.to_string())?;
    let behind = log.durable().max(read);
    let Some(Leftover { count, .. }) = unread_records(vfs, folder, position)? else {
        return Ok(Some(behind));
    };
    let failed = |path: &Path, error: std::io::Error| format!("cannot put {} aside: {error}", path.display());
    // Before the first of them: a start after a kill finds nothing left to tell of.
    tracing::error!(
        node = name,
        "--reset-state {name}: {count} records that were acknowledged and not worked on are put aside, and no source reads them: {}",
        folder.join(format!("{ASIDE}{epoch}-*")).display()
    );
    for path in log.files_after(read) {
        let aside = free_name(vfs.as_ref(), &path, epoch);
        vfs.rename(&path, &aside).map_err(|error| failed(&path, error))?;
    }
    vfs.sync_folder(folder).map_err(|error| failed(folder, error))?;
    Ok(Some(behind))
}

/// `lost-7-00000000000000000001.seg`, which nothing has yet.
fn free_name(vfs: &dyn Vfs, path: &Path, epoch: u64) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut aside = path.with_file_name(format!("{ASIDE}{epoch}-{name}"));
    while vfs.size(&aside).is_ok() {
        let mut longer = aside.into_os_string();
        longer.push("-again");
        aside = longer.into();
    }
    aside
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::storage::log::LogLimits;
    use crate::storage::log_reader::Entry;
    use crate::testing::disk::{Fault, SimDisk};
    use crate::testing::seed::Seed;

    const LIMITS: LogLimits = LogLimits { segment_bytes: 200, bytes_max: 1 << 30, bytes_kept: 0 };

    /// What is behind this record in the segments of a folder whose names begin so.
    fn records(disk: &SimDisk, folder: &Path, prefix: &str, after: u64) -> BTreeSet<u64> {
        let copy = Path::new("/copy").join(prefix);
        disk.create_folder(&copy).expect("made");
        for path in disk.list(folder).expect("is readable") {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let Some(name) = name.strip_prefix(prefix).filter(|name| name.starts_with('0')) else { continue };
            let mut file = disk.create(&copy.join(name)).expect("made");
            file.write(&disk.read(&path).expect("is there")).expect("written");
        }
        let log = Log::look(Arc::new(disk.clone()), &copy).expect("is readable");
        let mut reader = log.records_after(after);
        let entries = std::iter::from_fn(|| reader.next_entry().expect("is readable"));
        let number = |entry| if let Entry::Record(record) = entry { Some(record.number) } else { None };
        entries.filter_map(number).collect()
    }

    /// Whatever the disk does meanwhile, and however often it is done again.
    #[test]
    fn what_was_acknowledged_is_put_aside_and_never_lost_and_numbers_go_on() {
        let folder = Path::new("/data/ingress/in");
        let mut crashed = 0;
        for history in 0..500 {
            let mut seed = Seed::new(history);
            let disk = SimDisk::default();
            let mut log = Log::open(Arc::new(disk.plugged()), folder, LIMITS, 0).expect("opens");
            let last = 1 + seed.below(40) as u64;
            for number in 1..=last {
                log.append(0, format!("record {number}").as_bytes()).expect("room");
                log.sync().expect("durable");
            }
            drop(log);
            let read = seed.below(usize::try_from(last).expect("small") + 1) as u64;
            let position = ingress::behind(read);
            let aside = |disk: &SimDisk| {
                let vfs: Arc<dyn Vfs> = Arc::new(disk.plugged());
                put_aside("in", folder, Some(&position), 7, &vfs)
            };
            disk.plan(disk.operations() + seed.below(30) as u64, Fault::Crash);
            let first = aside(&disk);
            crashed += usize::from(first.is_err());
            disk.restart(&mut seed);
            disk.plan(u64::MAX, Fault::Crash);
            let behind = aside(&disk).expect("no fault").expect("there is a log");
            assert!(behind >= read, "history {history}");
            disk.restart(&mut seed);
            let left = records(&disk, folder, "", read);
            assert_eq!(left, BTreeSet::new(), "history {history}: nothing of it is read");
            let kept = records(&disk, folder, "lost-7-", read);
            assert_eq!(kept, (read + 1..=last).collect(), "history {history}");
        }
        assert!(crashed > 50, "{crashed}");
    }
}
