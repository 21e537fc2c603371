//! TLS: which receivers are trusted, and what an endpoint may ask for instead.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use sha2::{Digest as _, Sha256};

use crate::domain::{EndpointTls, TlsVersion};

/// The largest file of certificates or keys, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why TLS cannot be done as it is written, with an endpoint or on the listener. `Display` names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {what}", path.display())]
pub struct Error {
    /// The key of the `tls` table that names the file.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    what: Box<str>,
}

#[derive(Debug, thiserror::Error)]
enum What {
    #[error("cannot be read: {0}")]
    Read(std::io::Error),
    #[error("is larger than {FILE_BYTES_MAX} bytes")]
    Large,
    #[error("is not a PEM file of certificates: {0}")]
    Pem(pem::Error),
    #[error("holds no certificate")]
    NoCertificate,
    #[error("holds no private key: {0}")]
    NoKey(pem::Error),
    #[error("holds a certificate that cannot be used: {0}")]
    Certificate(rustls::Error),
    #[error("holds a private key that cannot be used, or one of another certificate: {0}")]
    Key(rustls::Error),
}

impl Error {
    fn new(key: &'static str, path: &Path, what: &What) -> Self {
        Self { key, path: path.to_owned(), what: what.to_string().into() }
    }
}

/// Connects the commands of the command line to a daemon, or to what speaks TLS before it.
pub type Dialer = HttpsConnector<HttpConnector>;

/// Why a [`Dialer`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DialerError {
    /// The file of certificate authorities cannot be used.
    #[error(transparent)]
    File(#[from] Error),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

/// A dialer for http and https, that trusts whom the system trusts or, in their place, the authorities of a file. It goes
/// wherever it is told: there is no address policy for what people ask for themselves. Blocks.
///
/// # Errors
/// When the file cannot be used, or TLS not be set up.
pub fn dialer(ca_file: Option<&Path>) -> Result<Dialer, DialerError> {
    let settings = EndpointTls { ca_file: ca_file.map(Path::to_owned), ..EndpointTls::default() };
    let own = Own::load(&settings)?;
    let system = if own.roots.is_some() { System::trusting_nobody() } else { System::load() };
    let tls = system.client_config(Some(&own))?;
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http))
}

/// What an endpoint's files hold.
pub(super) struct Own {
    digest: [u8; 32],
    /// Who is trusted; `None` is whom the system trusts.
    roots: Option<Arc<RootCertStore>>,
    /// What the daemon shows of itself.
    identity: Option<Arc<CertifiedKey>>,
    version_min: TlsVersion,
}

impl Own {
    /// Reads the endpoint's files. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read, does not hold what it should, or the key is not the certificate's.
    pub(super) fn load(settings: &EndpointTls) -> Result<Self, Error> {
        let mut digest = Sha256::new();
        digest.update([settings.min_version as u8]);
        let roots = match &settings.ca_file {
            Some(path) => Some(roots("ca_file", path, &mut digest)?),
            None => None,
        };
        digest.update([u8::from(roots.is_some())]);
        let identity = match &settings.client {
            Some(client) => {
                let (cert, key) = (("client_cert_file", &*client.cert_file), ("client_key_file", &*client.key_file));
                Some(identity(cert, key, &mut digest)?)
            }
            None => None,
        };
        Ok(Self { digest: digest.finalize().into(), roots, identity, version_min: settings.min_version })
    }

    /// Equal for endpoints whose connections can be shared.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").finish_non_exhaustive()
    }
}

fn roots(key: &'static str, path: &Path, digest: &mut Sha256) -> Result<Arc<RootCertStore>, Error> {
    let refuse = |what| Error::new(key, path, &what);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path, digest)? {
        roots.add(certificate).map_err(|error| refuse(What::Certificate(error)))?;
    }
    Ok(Arc::new(roots))
}

/// What the daemon shows of itself to those who connect to it: the certificate chain of one file, and its private key of
/// another, each with the key of the configuration that names it. Blocks.
///
/// # Errors
/// When a file cannot be read, does not hold what it should, or the key is not the certificate's.
pub fn own_identity(cert: (&'static str, &Path), key: (&'static str, &Path)) -> Result<Arc<CertifiedKey>, Error> {
    identity(cert, key, &mut Sha256::new())
}

fn identity(
    (cert_name, cert_path): (&'static str, &Path),
    (key_name, key_path): (&'static str, &Path),
    digest: &mut Sha256,
) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates(cert_name, cert_path, digest)?;
    let refuse = |what| Error::new(key_name, key_path, &what);
    let pem = read(key_name, key_path)?;
    digest.update(&pem);
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| refuse(What::NoKey(error)))?;
    let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
    certified.map(Arc::new).map_err(|error| refuse(What::Key(error)))
}

fn certificates(key: &'static str, path: &Path, digest: &mut Sha256) -> Result<Vec<CertificateDer<'static>>, Error> {
    let refuse = |what| Error::new(key, path, &what);
    let pem = read(key, path)?;
    digest.update((pem.len() as u64).to_be_bytes());
    digest.update(&pem);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| refuse(What::Pem(error)))?;
    if found.is_empty() { Err(refuse(What::NoCertificate)) } else { Ok(found) }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let refuse = |what| Error::new(key, path, &what);
    let size = std::fs::metadata(path).map_err(|error| refuse(What::Read(error)))?.len();
    if size > FILE_BYTES_MAX {
        return Err(refuse(What::Large));
    }
    std::fs::read(path).map_err(|error| refuse(What::Read(error)))
}

/// Whom the system trusts.
#[derive(Clone)]
pub(super) struct System {
    provider: Arc<CryptoProvider>,
    /// `None` when it trusts nobody.
    verifier: Option<Arc<dyn ServerCertVerifier>>,
}

impl System {
    /// Reads the system's trusted certificates. Without any, every https endpoint without a `ca_file` will fail.
    pub(super) fn load() -> Self {
        let provider = Arc::new(ring::default_provider());
        match rustls_platform_verifier::Verifier::new(Arc::clone(&provider)) {
            Ok(verifier) => Self { provider, verifier: Some(Arc::new(verifier)) },
            Err(error) => {
                tracing::warn!(%error, "no trusted certificates found, https endpoints will fail");
                Self::trusting_nobody()
            }
        }
    }

    fn trusting_nobody() -> Self {
        Self { provider: Arc::new(ring::default_provider()), verifier: None }
    }

    /// How TLS is done: as the endpoint asks, or without any wishes.
    ///
    /// # Errors
    /// When the cryptography at hand does not know the versions.
    pub(super) fn client_config(&self, own: Option<&Own>) -> Result<ClientConfig, rustls::Error> {
        let versions = versions(own.map_or(TlsVersion::default(), |own| own.version_min));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(versions)?;
        let builder = match (own.and_then(|own| own.roots.clone()), &self.verifier) {
            (Some(roots), _) => builder.with_root_certificates(roots),
            (None, Some(verifier)) => builder.dangerous().with_custom_certificate_verifier(Arc::clone(verifier)),
            (None, None) => builder.with_root_certificates(RootCertStore::empty()),
        };
        Ok(match own.and_then(|own| own.identity.clone()) {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
            None => builder.with_no_client_auth(),
        })
    }
}

/// The versions of TLS from the oldest that is wanted.
pub fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    match min {
        TlsVersion::Tls12 => &FROM_12,
        TlsVersion::Tls13 => &FROM_12[..1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_trusts_nobody_can_be_made() {
        assert!(System::trusting_nobody().client_config(None).is_ok());
    }

    #[test]
    fn a_file_that_is_not_there_or_holds_no_certificate_is_named_with_its_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let ca_file = dir.path().join("ca.pem");
        let settings = EndpointTls { ca_file: Some(ca_file.clone()), ..EndpointTls::default() };
        let missing = Own::load(&settings).expect_err("the file is missing");
        assert_eq!((missing.key, &missing.path), ("ca_file", &ca_file));
        assert!(missing.to_string().contains("ca.pem cannot be read: No such file"), "{missing}");
        std::fs::write(&ca_file, "nothing").expect("a file can be written");
        let empty = Own::load(&settings).expect_err("the file is empty");
        assert!(empty.to_string().ends_with("ca.pem holds no certificate"), "{empty}");
    }
}
