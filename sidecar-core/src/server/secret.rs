//! The shared secret.

use std::fmt;

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
