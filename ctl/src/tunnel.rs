//! From a plain connection on the local port to a mutual TLS connection with the gateway.

use crate::far::Host;
use crate::peer::Allowed;
use godebug_api::Refusal;
use godebug_api::control::{BUILD_INFO_CALL, BuildInfoAnswer, LONGEST_BUILD_INFO};
use godebug_api::documents::BuildInfo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, CipherSuite, ClientConfig, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a gateway has for the TCP connection, and again for the TLS handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a silent connection is probed: a laptop that slept must notice that its peer is gone.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What a gateway says of the program, and some words around it, in bytes.
const LONGEST_ANSWER: u64 = LONGEST_BUILD_INFO as u64 + 1024;

/// What a client needs to be let in.
pub(crate) struct Credentials<'a> {
    /// PEM, all three.
    pub(crate) ca: &'a str,
    pub(crate) certificate: &'a str,
    pub(crate) key: &'a str,
    /// The name in the gateway's certificate.
    pub(crate) server_name: &'a str,
}

/// The gateway of one session.
pub(crate) struct Gateway {
    host: String,
    port: u16,
    connector: TlsConnector,
    server_name: ServerName<'static>,
    /// The host whose ssh carries the stream.
    through: Option<Host>,
}

/// What TLS goes over.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Encrypted = TlsStream<Box<dyn Duplex>>;

/// Why there is no connection to the gateway.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("nobody listens on {0}")]
    Refused(String),
    #[error("{0} does not answer")]
    Silent(String),
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, io::Error),
    #[error("the gateway at {0} closed the connection before it said anything")]
    TurnedAway(String),
    #[error("ssh carries no stream to {0}")]
    NotCarried(String),
    #[error("the gateway at {0} does not accept this certificate ({1:?})")]
    Denied(String, AlertDescription),
    #[error("whoever answers at {0} is not the gateway of this session: {1}")]
    Impostor(String, String),
}

impl Trouble {
    /// What can be done about it.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Refused(_) => "has the session ended? `godebugctl list` on the host shows it",
            Self::Silent(_) => {
                "a firewall drops the packets: is the address of this machine among the --from of \
                 the session? `godebugctl show ID` on the host shows them"
            }
            Self::Unreachable(..) => {
                "is the host right? `attach --detach --endpoint HOST` puts another into the ticket"
            }
            Self::TurnedAway(_) => {
                "the session has ended, or the address of this machine is not among its --from"
            }
            Self::NotCarried(_) => {
                "what ssh said stands above: \"administratively prohibited\" is an sshd_config with \
                 AllowTcpForwarding no (use --via tls), \"Connection refused\" a session that has ended"
            }
            Self::Denied(..) => {
                "the ticket is of another session or has expired; open a new session"
            }
            Self::Impostor(..) => {
                "the session has ended and its port serves another one now, or something stands \
                 between you and the host; open a new session"
            }
        }
    }

    pub(crate) fn into_refusal(self) -> Refusal {
        let remedy = self.remedy();
        let message = self.to_string();
        match self {
            Self::Denied(..) | Self::Impostor(..) => Refusal::refused(message, remedy),
            Self::Refused(_) | Self::TurnedAway(_) => crate::output::ended_early(message, remedy),
            Self::Silent(_) | Self::Unreachable(..) | Self::NotCarried(_) => {
                Refusal::host(message, remedy)
            }
        }
    }
}

impl Gateway {
    /// The gateway at `host:port`; nothing is connected yet.
    ///
    /// # Errors
    /// When the credentials are damaged.
    pub(crate) fn new(
        host: &str,
        port: u16,
        credentials: &Credentials<'_>,
    ) -> Result<Self, Refusal> {
        let damaged = |why: String| {
            Refusal::usage(
                format!("the session's certificates cannot be used: {why}"),
                "open a new session",
            )
        };
        let config = client_config(credentials).map_err(damaged)?;
        let server_name = ServerName::try_from(credentials.server_name.to_owned())
            .map_err(|error| damaged(error.to_string()))?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { host: host.to_owned(), port, connector, server_name, through: None })
    }

    /// The same, reached by the ssh to that host.
    pub(crate) fn through(self, host: &Host) -> Self {
        Self { through: Some(host.clone()), ..self }
    }

    /// `HOST:PORT`, for people.
    pub(crate) fn endpoint(&self) -> String {
        if let Some(host) = &self.through {
            return format!("port {} of {}, through ssh", self.port, host.as_str());
        }
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// A connection whose TLS handshake is done on our side. With TLS 1.3 the gateway's verdict on
    /// our certificate comes after that, with the first bytes that are read.
    async fn connect(&self) -> Result<Encrypted, Trouble> {
        let stream = timeout(PATIENCE, self.dial())
            .await
            .map_err(|_| Trouble::Silent(self.endpoint()))?
            .map_err(|error| self.explain(error))?;
        let handshake = self.connector.connect(self.server_name.clone(), stream);
        timeout(PATIENCE, handshake)
            .await
            .map_err(|_| Trouble::Silent(self.endpoint()))?
            .map_err(|error| self.explain(error))
    }

    async fn dial(&self) -> io::Result<Box<dyn Duplex>> {
        if let Some(host) = &self.through {
            let stream = host.stream_to(self.port)?;
            stream.set_nonblocking(true)?;
            return Ok(Box::new(UnixStream::from_std(stream)?));
        }
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        prepare(&stream);
        Ok(Box::new(stream))
    }

    /// `connect`, and once more when it broke off or stayed silent: the client has said nothing yet,
    /// and for it this would be a connection reset without a reason.
    async fn connect_or_again(&self) -> Result<Encrypted, Trouble> {
        match self.connect().await {
            Err(Trouble::TurnedAway(_) | Trouble::Silent(_)) => self.connect().await,
            first => first,
        }
    }

    /// Sees whether the gateway answers and lets us in, and leaves again. The gateway calls the
    /// debugger only after a first byte, so this disturbs nobody.
    pub(crate) async fn probe(&self) -> Result<(), Trouble> {
        let start = Instant::now();
        let mut stream = self.connect().await?;
        // A refusal of our certificate is on its way for one round trip, of which the connection
        // and the handshake took two.
        let verdict = (start.elapsed() * 2).clamp(Duration::from_millis(200), PATIENCE);
        match timeout(verdict, stream.read(&mut [0])).await {
            // Silence is consent. A debugger that speaks first would be news, but no trouble.
            Err(_) | Ok(Ok(1..)) => {
                // With a goodbye, or the record would say that a client was lost.
                let _ = timeout(verdict, stream.shutdown()).await;
                Ok(())
            }
            Ok(Ok(0)) => Err(Trouble::TurnedAway(self.endpoint())),
            Ok(Err(error)) => Err(self.explain(error)),
        }
    }

    /// How the program was built; `None` when the gateway does not tell.
    pub(crate) async fn build_info(&self) -> Option<BuildInfo> {
        let asked = async {
            let mut stream = self.connect().await.ok()?;
            stream.write_all(BUILD_INFO_CALL.as_bytes()).await.ok()?;
            // One that knows nothing of this call says so, and waits for the next.
            let (mut answer, stream) = (String::new(), stream.take(LONGEST_ANSWER));
            BufReader::new(stream).read_line(&mut answer).await.ok()?;
            serde_json::from_str::<BuildInfoAnswer>(&answer).ok()?.result
        };
        timeout(PATIENCE, asked).await.ok()?
    }

    /// What an error of the connection means.
    fn explain(&self, error: io::Error) -> Trouble {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let impostor = |why: &str| Trouble::Impostor(self.endpoint(), why.to_owned());
        match tls {
            Some(rustls::Error::AlertReceived(alert)) => Trouble::Denied(self.endpoint(), *alert),
            Some(rustls::Error::InvalidCertificate(error)) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    impostor("its certificate has expired (or the clock of this machine is wrong)")
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    impostor(
                        "its certificate is not valid yet; is the clock of this machine right?",
                    )
                }
                _ => impostor("its certificate is not from this session's authority"),
            },
            Some(error) => impostor(&error.to_string()),
            None => match error.kind() {
                io::ErrorKind::ConnectionRefused => Trouble::Refused(self.endpoint()),
                io::ErrorKind::TimedOut => Trouble::Silent(self.endpoint()),
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe => match self.through {
                    None => Trouble::TurnedAway(self.endpoint()),
                    Some(_) => Trouble::NotCarried(self.endpoint()),
                },
                _ => Trouble::Unreachable(self.endpoint(), error),
            },
        }
    }
}

fn client_config(credentials: &Credentials<'_>) -> Result<ClientConfig, String> {
    let text = |error: rustls::pki_types::pem::Error| error.to_string();
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(credentials.ca.as_bytes()).map_err(text)?;
    roots.add(ca).map_err(|error| error.to_string())?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(text)?;
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).map_err(text)?;
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // The fastest first, as clients in Go and browsers have it; the gateway follows its client.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Debug protocols are many small messages, and a peer that vanished must be noticed. Where the
/// kernel refuses one of these, the connection still works.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE);
    let _ = rustix::net::sockopt::set_tcp_keepintvl(stream, KEEPALIVE / 3);
}

/// What happens on the local port.
#[derive(Debug)]
pub(crate) enum Event {
    Connected(SocketAddr),
    Left(SocketAddr),
    /// Somebody else's program on this host.
    Stranger(SocketAddr),
    Failed(Trouble),
}

/// The local port in service.
pub(crate) struct Tunnel {
    gateway: Arc<Gateway>,
    clients: Arc<AtomicUsize>,
    events: mpsc::UnboundedSender<Event>,
    allowed: Allowed,
}

impl Tunnel {
    pub(crate) fn new(gateway: Gateway) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let tunnel = Self {
            gateway: Arc::new(gateway),
            clients: Arc::default(),
            events,
            allowed: Allowed::here(),
        };
        (tunnel, receiver)
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// How many connections are through to the gateway now.
    pub(crate) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Relays every connection to `listener` until it is dropped, and then cuts them all.
    pub(crate) async fn serve(&self, listener: &TcpListener) {
        let mut relays = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        relays.spawn(self.relay(stream, peer));
                    }
                    // Out of descriptors, or the client was faster in leaving: both pass.
                    Err(_) => sleep(Duration::from_millis(100)).await,
                },
                Some(_) = relays.join_next() => {}
            }
        }
    }

    /// One connection from its beginning to its end.
    fn relay(
        &self,
        mut local: TcpStream,
        peer: SocketAddr,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (gateway, clients) = (self.gateway.clone(), self.clients.clone());
        let (events, allowed) = (self.events.clone(), self.allowed.clone());
        async move {
            // Nobody listening to the events is no reason to stop relaying.
            let tell = |event| drop(events.send(event));
            let own = match local.local_addr() {
                Ok(here) => allowed.owns(peer, here).await,
                Err(_) => false,
            };
            if !own {
                return tell(Event::Stranger(peer));
            }
            prepare(&local);
            let mut remote = match gateway.connect_or_again().await {
                Ok(remote) => remote,
                Err(trouble) => return tell(Event::Failed(trouble)),
            };
            clients.fetch_add(1, Ordering::Relaxed);
            tell(Event::Connected(peer));
            // Each side's end of writing is passed on to the other, which may still have something
            // to say.
            let relayed = tokio::io::copy_bidirectional(&mut local, &mut remote).await;
            clients.fetch_sub(1, Ordering::Relaxed);
            match relayed.map_err(|error| gateway.explain(error)) {
                Err(trouble @ (Trouble::Denied(..) | Trouble::Impostor(..))) => {
                    tell(Event::Failed(trouble));
                }
                // Everything else is one of the ways in which connections end.
                _ => tell(Event::Left(peer)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
