//! TLS 1.2 and 1.3 by rustls on ring, from files in PEM.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("`{}` holds no {what} in PEM: {source}", path.display())]
    Pem { path: PathBuf, what: &'static str, source: pem::Error },
    #[error("certificate and key do not make a server's identity: {0}")]
    Identity(#[from] rustls::Error),
}

/// A server's identity.
#[derive(Clone)]
pub struct Tls(pub(super) TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// A chain of certificates, the server's own first, and its key.
    pub fn read(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        let error = |path: &Path, what| {
            let path = path.to_path_buf();
            move |source| TlsError::Pem { path, what, source }
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificates)
            .and_then(Iterator::collect)
            .map_err(error(certificates, "certificate"))?;
        if chain.is_empty() {
            return Err(error(certificates, "certificate")(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(error(key, "private key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}
