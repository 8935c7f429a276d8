//! The disk that several executions share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// How many bytes the inputs and the outputs of executions may take; clones share them.
#[derive(Debug, Clone)]
pub struct DiskBudget {
    bytes: u64,
    blocks: Arc<Semaphore>,
}

/// A part of it, until it is dropped.
pub(super) type Room = OwnedSemaphorePermit;

/// What is counted as one: a semaphore counts up to 2^32 in one call.
const BLOCK: u64 = 1024 * 1024;

impl DiskBudget {
    /// So many bytes, in whole MiB and at least one.
    pub fn new(bytes: u64) -> Self {
        let blocks = usize::try_from(blocks(bytes)).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { bytes, blocks: Arc::new(Semaphore::new(blocks)) }
    }

    /// Waits until there is room for so many bytes more; whoever came first is first.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when there never is.
    pub(super) async fn reserve(&self, what: &'static str, bytes: u64) -> Result<Room> {
        self.check(what, bytes)?;
        let Ok(blocks) = u32::try_from(blocks(bytes)) else { return Err(self.too_large(what, bytes)) };
        if let Ok(room) = self.blocks.clone().try_acquire_many_owned(blocks) {
            return Ok(room);
        }
        tracing::info!("the {what} take {bytes} bytes: waiting for room on the disk");
        let room = self.blocks.clone().acquire_many_owned(blocks).await;
        room.map_err(|_| Error::Internal("the disk budget was closed".into()))
    }

    /// Whether so many bytes have room when nothing else has.
    pub(super) fn check(&self, what: &'static str, bytes: u64) -> Result<()> {
        if bytes > self.bytes { Err(self.too_large(what, bytes)) } else { Ok(()) }
    }

    fn too_large(&self, what: &'static str, bytes: u64) -> Error {
        Error::TooLarge { what, bytes, limit: self.bytes }
    }
}

fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).max(1)
}
