//! Readers of what we wrote about rows: states, records, letters, cursors.
//! What is accepted has the right checksum, and is the same when it is written
//! and read again.

use super::{is_sealed, sealed};
use crate::dead_letters::letter::{self, Content};
use crate::runtime::checkpoint::Checkpoint;
use crate::runtime::egress::cursor as cursors;
use crate::runtime::ingress::payload;
use crate::storage::ipc;

/// A checkpoint file, as it is and behind its checksum.
pub fn checkpoint(bytes: &[u8]) {
    read_checkpoint(bytes);
    if let Some(sealed) = sealed(bytes) {
        read_checkpoint(&sealed);
    }
}

fn read_checkpoint(bytes: &[u8]) {
    let Ok(checkpoint) = Checkpoint::decode(bytes) else { return };
    assert!(is_sealed(bytes), "a checkpoint without its checksum is accepted");
    // Columns that Arrow reads and does not write cannot be ours.
    let Ok((written, _)) = checkpoint.encode() else { return };
    let again = Checkpoint::decode(&written).expect("what was written is read");
    let (twice, _) = again.encode().expect("what was read is written");
    assert_eq!(again.sources, checkpoint.sources, "other positions come back");
    assert!(twice == written, "another checkpoint comes back");
}

/// How far a queue has been delivered.
pub fn cursor(bytes: &[u8]) {
    for bytes in [Some(bytes.to_vec()), sealed(bytes)].into_iter().flatten() {
        if let Ok(number) = cursors::decode(&bytes) {
            assert_eq!(cursors::encode(number), bytes, "another cursor comes back");
        }
    }
}

/// A record of the ingress log.
pub fn ingress(bytes: &[u8]) {
    let Ok(read) = payload::decode(bytes) else { return };
    let written = payload::encode(read.partition, &read.batch, read.rejects.as_ref(), read.position.as_ref());
    let Ok(written) = written else { return };
    let again = payload::decode(&written).expect("what was written is read");
    let twice =
        payload::encode(again.partition, &again.batch, again.rejects.as_ref(), again.position.as_ref());
    assert!(twice.is_ok_and(|twice| twice == written), "other rows come back");
}

/// The rows of a record of dead letters.
pub fn dead_letters(bytes: &[u8]) {
    for batch in ipc::read(bytes).unwrap_or_default() {
        match letter::read(&batch) {
            Ok(Content::Letters(fate, letters, rows)) => {
                // Of rows without a column Arrow does not know how many they are.
                let Ok(written) = letter::letters(fate, &letters, &rows) else { continue };
                let Ok(Content::Letters(again, others, _)) = letter::read(&written) else {
                    panic!("letters that were written are not read")
                };
                assert_eq!((again, others), (fate, letters), "other letters come back");
            }
            Ok(Content::Replayed(ids)) => {
                let written = letter::replayed(&ids).expect("numbers are text");
                let Ok(Content::Replayed(again)) = letter::read(&written) else { panic!("ids are not read") };
                assert_eq!(again, ids, "other ids come back");
            }
            Err(_) => {}
        }
    }
}
