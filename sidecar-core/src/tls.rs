//! What TLS connections trust: what the system trusts, and the certificates of the file that a user names.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::Cause;

/// The certificates to trust; those of the system that cannot be read are left out.
fn roots(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let mut roots = rustls_native_certs::load_native_certs().certs;
    if let Some(file) = ca_file {
        for certificate in CertificateDer::pem_file_iter(file)? {
            roots.push(certificate?);
        }
    }
    Ok(roots)
}

/// For the drivers that take a configuration of rustls.
#[cfg(any(feature = "postgres", feature = "nats"))]
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<rustls::ClientConfig, Cause> {
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(roots(ca_file)?);
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(config)
}

/// For the driver that only takes a path: a file of PEM in memory, which is gone with its handle, however that
/// happens. `None` where there is nothing to trust, and the driver has to know better.
#[cfg(feature = "mongodb")]
pub(crate) fn roots_file(ca_file: Option<&Path>) -> Result<Option<std::fs::File>, Cause> {
    use std::io::Write;

    use base64::Engine;
    use rustix::fs::{MemfdFlags, memfd_create};

    let roots = roots(ca_file)?;
    if roots.is_empty() {
        return Ok(None);
    }
    let mut pem = String::new();
    for root in roots {
        let body = base64::prelude::BASE64_STANDARD.encode(root);
        pem += &format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    }
    let mut file = std::fs::File::from(memfd_create("roots", MemfdFlags::CLOEXEC)?);
    file.write_all(pem.as_bytes())?;
    Ok(Some(file))
}
