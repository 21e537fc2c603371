//! TLS on the listener: its certificate, which is read again when it is renewed.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, server};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use super::watched::Watched;
use crate::deliver::tls;
use crate::domain::TlsVersion;

/// A connection with TLS.
pub(super) type Stream = tokio_rustls::server::TlsStream<TcpStream>;

/// Application protocols, the preferred one first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What the listener shows of itself. The files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, and those between it and its authority.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// The oldest version that is spoken.
    pub version_min: TlsVersion,
}

impl Tls {
    /// Reads the files, to see whether they can be used. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read, does not hold what it should, or the key is not the certificate's.
    pub fn check(&self) -> Result<(), tls::Error> {
        self.read().map(drop)
    }

    fn read(&self) -> Result<Arc<CertifiedKey>, tls::Error> {
        tls::own_identity(("cert_file", &self.cert_file), ("key_file", &self.key_file))
    }
}

/// Shakes hands.
pub(super) struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// With the certificate as it is now. Blocks.
    ///
    /// # Errors
    /// As [`Tls::check`].
    pub(super) fn new(settings: &Tls) -> Result<Self, tls::Error> {
        let files = Watched::new([settings.cert_file.clone(), settings.key_file.clone()]);
        let current = ArcSwap::new(settings.read()?);
        let identity = Identity { settings: settings.clone(), current, files: Mutex::new(files) };
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(tls::versions(settings.version_min));
        let builder = builder.expect("ring has suites for both versions");
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(identity));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        config.session_storage = server::ServerSessionMemoryCache::new(SESSIONS_MAX);
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands with one who connected.
    ///
    /// # Errors
    /// When no handshake comes about.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        self.0.accept(stream).await
    }
}

/// The most sessions that are kept to be resumed.
const SESSIONS_MAX: usize = 4096;

/// The certificate of now.
struct Identity {
    settings: Tls,
    current: ArcSwap<CertifiedKey>,
    files: Mutex<Watched>,
}

impl Identity {
    /// Reads the files again when one of them has changed. While they are being replaced the key may not be the
    /// certificate's: then the one before stays, and the next change is looked at again.
    fn follow(&self) {
        if !self.files.lock().have_changed() {
            return;
        }
        let file = self.settings.cert_file.display();
        match self.settings.read() {
            Ok(renewed) => {
                self.current.store(renewed);
                info!(%file, "the listener's certificate was read again");
            }
            Err(error) => warn!(%error, "the listener's certificate cannot be read again, the one before stays"),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.follow();
        Some(self.current.load_full())
    }
}
