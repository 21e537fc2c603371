//! A certificate authority, the certificates that it makes, and a receiver that speaks TLS.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ProtocolVersion, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::serving::{self, Serving};

/// A certificate authority with a folder of PEM files: `ca.pem`, and a certificate and key for each name.
#[derive(Debug)]
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    root: rcgen::Certificate,
    dir: TempDir,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    cert: rustls::pki_types::CertificateDer<'static>,
    key: Vec<u8>,
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

impl TestCa {
    /// A new authority.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sluiced-test-ca-").tempdir().expect("a temporary folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let root = params.self_signed(&key).expect("an authority signs itself");
        std::fs::write(dir.path().join("ca.pem"), root.pem()).expect("a file can be written");
        Self { issuer: Issuer::new(params, key), root, dir }
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A certificate for a name or an address, good for both sides of a connection.
    pub fn identity(&self, name: &str) -> Identity {
        self.certify(name, CertificateParams::new(vec![name.to_owned()]).expect("a test's names are valid"))
    }

    /// The same, but it has expired long ago.
    pub fn expired(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a test's names are valid");
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(2001, 1, 1));
        self.certify(name, params)
    }

    fn certify(&self, name: &str, mut params: CertificateParams) -> Identity {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.signed_by(&key, &self.issuer).expect("the authority signs");
        let (cert_file, key_file) = (self.file_of(name, "pem"), self.file_of(name, "key"));
        std::fs::write(&cert_file, cert.pem()).expect("a file can be written");
        std::fs::write(&key_file, key.serialize_pem()).expect("a file can be written");
        Identity { cert_file, key_file, cert: cert.der().clone(), key: key.serialize_der() }
    }

    fn file_of(&self, name: &str, ending: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.{ending}"))
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).expect("an authority's certificate is one");
        Arc::new(roots)
    }
}

/// How a receiver does TLS.
#[derive(Debug, Clone, Copy)]
pub struct Manner<'a> {
    /// What it shows of itself.
    pub identity: &'a Identity,
    /// The authority whose clients it takes; `None` takes any without asking.
    pub clients: Option<&'a TestCa>,
    /// The versions that it speaks.
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Whether it offers HTTP/2.
    pub http2: bool,
}

impl<'a> Manner<'a> {
    /// Every version, HTTP/1.1 only, and no client certificates.
    pub fn of(identity: &'a Identity) -> Self {
        Self { identity, clients: None, versions: rustls::ALL_VERSIONS, http2: false }
    }
}

/// One request over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secured {
    /// The name that the client asked for in the handshake (SNI).
    pub server_name: String,
    /// `Host`, or the authority of HTTP/2.
    pub host: String,
    /// The version of HTTP.
    pub http: Version,
    /// The version of TLS.
    pub tls: ProtocolVersion,
    /// Whether the client showed a certificate.
    pub client_certificate: bool,
}

/// A receiver that speaks TLS on a thread of its own and answers 200. Stopped on drop.
#[derive(Debug)]
pub struct TlsReceiver {
    seen: Arc<Mutex<Seen>>,
    serving: Serving,
}

#[derive(Debug, Default)]
struct Seen {
    connections: usize,
    requests: Vec<Secured>,
}

impl TlsReceiver {
    /// Starts one.
    pub fn start(manner: Manner<'_>) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(manner)));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let serving = Serving::start("tls receiver", serving::ANY, async move |listener| {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, acceptor.clone(), Arc::clone(&shared)));
            }
        });
        Self { seen, serving }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.serving.address().port()
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Secured> {
        self.seen.lock().requests.clone()
    }

    /// Connections accepted so far, those whose handshake failed included.
    pub fn connections(&self) -> usize {
        self.seen.lock().connections
    }
}

fn server_config(manner: Manner<'_>) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(manner.versions).expect("ring knows every version");
    let builder = match manner.clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(ca.roots(), provider).build();
            builder.with_client_cert_verifier(verifier.expect("there is an authority"))
        }
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(manner.identity.key.clone()));
    let mut config = builder.with_single_cert(vec![manner.identity.cert.clone()], key).expect("the key is its own");
    config.alpn_protocols = if manner.http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { Vec::new() };
    config
}

/// Serves one connection. Its errors are the client's refusal or its going away.
async fn connection(stream: TcpStream, acceptor: TlsAcceptor, seen: Arc<Mutex<Seen>>) -> Option<()> {
    seen.lock().connections += 1;
    let stream = acceptor.accept(stream).await.ok()?;
    let session = stream.get_ref().1;
    let about = Secured {
        server_name: session.server_name().unwrap_or_default().to_owned(),
        host: String::new(),
        http: Version::HTTP_11,
        tls: session.protocol_version()?,
        client_certificate: session.peer_certificates().is_some(),
    };
    let http2 = session.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| answer(request, about.clone(), Arc::clone(&seen)));
    let io = TokioIo::new(stream);
    if http2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await.ok()
    } else {
        http1::Builder::new().serve_connection(io, service).await.ok()
    }
}

async fn answer(
    request: Request<Incoming>,
    about: Secured,
    seen: Arc<Mutex<Seen>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok().map(str::to_owned));
    let host = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default();
    let http = request.version();
    // A client that breaks off has gone away: what it would be answered does not matter.
    drop(request.into_body().collect().await);
    seen.lock().requests.push(Secured { host, http, ..about });
    Ok(Response::new(Full::new(Bytes::from_static(b"ok"))))
}
