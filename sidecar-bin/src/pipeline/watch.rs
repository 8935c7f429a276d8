//! A folder whose files become events.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sidecar_core::{DataPlane, EventId, Submission};
use tracing::{info, warn};
use uuid::Uuid;

use crate::exit::{self, Failure};

/// How often the folder is looked at. A file counts as whole when it has not changed from one look to the next.
const LOOK: Duration = Duration::from_millis(500);

/// The ids of files: the same for the same state of the same file, so that a restart submits nothing twice.
const FILES: Uuid = Uuid::from_u128(0x0b0f_3f0a_58a5_4f2e_a2c8_77b3_9f44_1d02);

type State = (u64, SystemTime);

/// Submits each file that lies in the folder or appears there. It ends only with an error.
pub(super) async fn watch(dir: &Path, event_type: &str, plane: &DataPlane) -> Failure {
    let (mut seen, mut done) = (HashMap::<PathBuf, State>::new(), HashMap::<PathBuf, State>::new());
    loop {
        let now = match files(dir) {
            Ok(now) => now,
            Err(error) => {
                return Failure::new(exit::LOCAL_FAILED, format!("--watch {}: {error}", dir.display()));
            }
        };
        for (path, state) in &now {
            let is_whole = seen.get(path) == Some(state);
            if is_whole && done.get(path) != Some(state) {
                match submit(path, *state, event_type, plane).await {
                    Ok(id) => info!("submitted {} as event {id}", path.display()),
                    Err(error) => warn!("{} is not submitted: {}", path.display(), error.chain()),
                }
                done.insert(path.clone(), *state);
            }
        }
        done.retain(|path, _| now.contains_key(path));
        seen = now;
        tokio::time::sleep(LOOK).await;
    }
}

async fn submit(
    path: &Path,
    (size, time): State,
    event_type: &str,
    plane: &DataPlane,
) -> sidecar_core::Result<EventId> {
    let name = format!("{}\n{size}\n{time:?}", path.display());
    let id = EventId::from(Uuid::new_v5(&FILES, name.as_bytes()));
    Submission::new(event_type).event_id(id).path(path)?.submit(plane).await
}

/// The files in the folder, but hidden ones, which are not whole yet by the habit of many programs.
fn files(dir: &Path) -> std::io::Result<HashMap<PathBuf, State>> {
    let mut files = HashMap::new();
    for entry in std::path::absolute(dir)?.read_dir()? {
        let entry = entry?;
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        // It may be gone again.
        let Ok(found) = entry.metadata() else { continue };
        if found.is_file() && !is_hidden {
            files.insert(entry.path(), (found.len(), found.modified()?));
        }
    }
    Ok(files)
}
