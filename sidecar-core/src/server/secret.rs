//! The shared secret.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use subtle::ConstantTimeEq;

/// What a module must know to be served; never printed, compared in constant time.
#[derive(Clone)]
pub struct Secret {
    // Digests are of one length, so that comparing takes as long whatever is given.
    digest: blake3::Hash,
}

impl Secret {
    /// The secret that equals `text`.
    pub fn new(text: impl AsRef<[u8]>) -> Self {
        Self { digest: blake3::hash(text.as_ref()) }
    }

    /// Whether `given` is the secret.
    pub fn matches(&self, given: &[u8]) -> bool {
        self.digest.as_bytes().ct_eq(blake3::hash(given).as_bytes()).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.digest.as_bytes().ct_eq(other.digest.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A secret that is created once and kept in a file which only this user can read.
///
/// # Errors
/// When the file cannot be read or created.
pub fn kept_secret(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(secret) if !secret.trim().is_empty() => return Ok(secret.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // One that is empty is none.
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    path.parent().map(fs::create_dir_all).transpose()?;
    // Whole or not at all, whoever else creates one at this moment: the first one counts.
    let staged = path.with_extension(std::process::id().to_string());
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    writeln!(file, "{}", uuid::Uuid::new_v4().simple())?;
    let linked = fs::hard_link(&staged, path);
    fs::remove_file(&staged)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(fs::read_to_string(path)?.trim().to_owned()),
    }
}
