//! Root certificates, read once.

use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

/// Root certificates of a file, which stays as it was when it was read.
#[derive(Clone)]
pub struct RootCertificates {
    file: PathBuf,
    pub(crate) store: Arc<RootCertStore>,
}

impl RootCertificates {
    /// Takes the certificates of a PEM text; `file` is where it is from.
    ///
    /// # Errors
    /// When it holds none, or one that is malformed.
    pub fn new(file: &Path, pem: &[u8]) -> io::Result<RootCertificates> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| invalid(e.to_string()))?;
            store.add(certificate).map_err(|e| invalid(e.to_string()))?;
        }
        if store.is_empty() {
            return Err(invalid("there is no certificate in it".to_owned()));
        }
        Ok(RootCertificates { file: file.to_owned(), store: Arc::new(store) })
    }
}

impl std::fmt::Debug for RootCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RootCertificates({})", self.file.display())
    }
}

impl PartialEq for RootCertificates {
    fn eq(&self, other: &RootCertificates) -> bool {
        self.file == other.file && Arc::ptr_eq(&self.store, &other.store)
    }
}

impl Eq for RootCertificates {}

impl Hash for RootCertificates {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.file.hash(state);
    }
}
