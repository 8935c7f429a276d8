//! What the providers that speak HTTP themselves share.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client};

use crate::error::{Error, Result};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that trusts what the system trusts, and the certificates in `ca_file`.
pub(crate) fn client(provider: &impl Display, ca_file: Option<&Path>) -> Result<Client> {
    let mut builder = Client::builder().connect_timeout(CONNECT_TIMEOUT);
    if let Some(file) = ca_file {
        let pem = std::fs::read(file).map_err(Error::io("read", file))?;
        let certificates = Certificate::from_pem_bundle(&pem)
            .map_err(|error| Error::refused(provider, format!("trust {}", file.display()), error))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| Error::settings(provider, error))
}
