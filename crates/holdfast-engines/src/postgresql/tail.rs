//! The newest log, ahead of the archive of whole segments: how it is followed, and kept for a restore.

use holdfast_core::position::Position;

use super::position::{SEGMENT_BYTES, wal_name};
use super::replication::WalStream;
use super::sql::reload;
use super::{Postgresql, WalTail, config};
use crate::files::{make_folder, write_readable};
use crate::{Instance, LogTail, Paths, Result};

impl Postgresql {
    /// Settings that an earlier release, or other settings of the agent's, wrote differently are written anew on the way.
    pub(super) async fn open_tail(
        &self,
        instance: &Instance,
        from: Position,
    ) -> Result<Option<Box<dyn LogTail>>> {
        let pgbackrest = self.pgbackrest()?;
        let is_current = config::is_current(instance, &pgbackrest, self.tail);
        if !is_current {
            config::write_all(instance, &pgbackrest, self.tail)?;
        }
        // Only once there is a tail: until the first backup nothing could be restored anyway, and commits do not wait for it.
        if config::set_synchronous(instance, self.tail == WalTail::Synchronous)? || !is_current {
            reload(instance).await?;
        }
        if self.tail == WalTail::Off {
            return Ok(None);
        }
        Ok(Some(Box::new(WalStream::open(instance, from, self.tail == WalTail::Synchronous).await?)))
    }
}

/// The beginning of a segment, and zeros behind it as in one that the engine has not filled yet.
pub(super) fn keep_segment(instance: &Instance, segment: Position, bytes: &[u8]) -> Result<()> {
    let folder = Paths(&instance.folder).tail();
    make_folder(&folder, 0o711, None)?;
    let mut whole = bytes.to_vec();
    whole.resize(usize::try_from(SEGMENT_BYTES).expect("16 MiB"), 0);
    write_readable(&folder.join(wal_name(segment)), &whole, instance.run_as.as_ref())
}
