//! What the gateway's tests stand on: a session's certificates, a fake dlv that counts what reaches
//! it, a gateway with both on loopback, and clients of every kind.

use godebug_api::control::{GatewayConfig, Reply, Request};
use godebug_api::documents::{BuildInfo, Sources};
use godebug_api::rules::engine::{RedactRules, TranscriptValues};
use godebug_api::{Deadline, PauseBudget, Port, clock};
use godebug_gateway::configuration::Given;
use godebug_gateway::{End, Gateway, Limits};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A request that any client may make and that disturbs nothing; the fake dlv answers with it.
pub(crate) const PING: &[u8] = b"{\"method\":\"RPCServer.GetVersion\",\"params\":[],\"id\":1}\n";

pub(crate) const SERVER_NAME: &str = "0123abcd.godebug.invalid";

/// One session's CA and what it signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // The same name for each: another session's CA must differ by its key alone.
        params.distinguished_name.push(DnType::CommonName, "godebug session CA");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    fn sign(&self, mut params: CertificateParams) -> (rcgen::Certificate, KeyPair) {
        params.distinguished_name.push(DnType::CommonName, "alice");
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn server(&self) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// A client that trusts this authority and shows `own`.
    fn client_showing(
        &self,
        own: Option<(rcgen::Certificate, KeyPair)>,
        version: &'static SupportedProtocolVersion,
    ) -> ClientConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots());
        match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        }
    }

    fn client_params() -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let own = self.sign(Self::client_params());
        self.client_showing(Some(own), &rustls::version::TLS13)
    }

    pub(crate) fn without_certificate(&self) -> ClientConfig {
        self.client_showing(None, &rustls::version::TLS13)
    }

    pub(crate) fn with_certificate_of(&self, other: &Authority) -> ClientConfig {
        let own = other.sign(Self::client_params());
        self.client_showing(Some(own), &rustls::version::TLS13)
    }

    pub(crate) fn expired(&self) -> ClientConfig {
        let mut params = Self::client_params();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 2);
        self.client_showing(Some(self.sign(params)), &rustls::version::TLS13)
    }

    /// The gateway's own kind of certificate is no client's.
    pub(crate) fn with_a_servers_certificate(&self) -> ClientConfig {
        self.client_showing(Some(self.server()), &rustls::version::TLS13)
    }

    pub(crate) fn older_tls(&self) -> ClientConfig {
        let own = self.sign(Self::client_params());
        self.client_showing(Some(own), &rustls::version::TLS12)
    }
}

/// What a fake dlv says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answers {
    /// What it hears.
    Echo,
    /// More than anybody asked for.
    Flood,
    Nothing,
}

/// A Unix socket in dlv's place that counts both ways.
pub(crate) struct FakeDlv {
    pub(crate) path: PathBuf,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    open: AtomicU64,
    bytes: AtomicU64,
}

impl FakeDlv {
    pub(crate) fn start(folder: &Path, answers: Answers) -> Self {
        let path = folder.join("dlv.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.connections.fetch_add(1, SeqCst);
                counted.open.fetch_add(1, SeqCst);
                let counts = Arc::clone(&counted);
                tokio::spawn(async move {
                    let _ = match answers {
                        Answers::Echo => echo(stream, &counts).await,
                        Answers::Flood => flood(stream).await,
                        Answers::Nothing => listen(stream).await,
                    };
                    counts.open.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { path, counts }
    }

    pub(crate) fn connections(&self) -> u64 {
        self.counts.connections.load(SeqCst)
    }

    pub(crate) fn open(&self) -> u64 {
        self.counts.open.load(SeqCst)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.counts.bytes.load(SeqCst)
    }
}

async fn echo(mut stream: UnixStream, counts: &Counts) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            // Said after the client's end was heard: it proves that the halves close apart.
            return stream.write_all(b"{\"bye\":1}\n").await;
        }
        counts.bytes.fetch_add(count as u64, SeqCst);
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn flood(mut stream: UnixStream) -> std::io::Result<()> {
    loop {
        let line = format!("{{\"x\":\"{}\"}}\n", "x".repeat(4096));
        stream.write_all(line.as_bytes()).await?;
    }
}

async fn listen(mut stream: UnixStream) -> std::io::Result<()> {
    while stream.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}

/// A gateway that serves on loopback, with its fake dlv.
pub(crate) struct Host {
    pub(crate) authority: Authority,
    pub(crate) dlv: FakeDlv,
    pub(crate) port: u16,
    pub(crate) control: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<End>,
    _folder: tempfile::TempDir,
}

/// What a test changes about its host.
pub(crate) struct Setting {
    pub(crate) sources: &'static [&'static str],
    pub(crate) ttl: Duration,
    pub(crate) max_connections: usize,
    pub(crate) max_handshakes: usize,
    pub(crate) limits: Limits,
    pub(crate) answers: Answers,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            sources: &["127.0.0.1"],
            ttl: Duration::from_secs(600),
            max_connections: 8,
            max_handshakes: 8,
            limits: Limits {
                handshake: Duration::from_secs(20),
                close_grace: Duration::from_millis(400),
                release: Duration::from_millis(100),
                control_request: Duration::from_secs(2),
                ..Limits::default()
            },
            answers: Answers::Echo,
        }
    }
}

impl Host {
    pub(crate) async fn start(setting: Setting) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let dlv = FakeDlv::start(folder.path(), setting.answers);
        let control = folder.path().join("control.sock");
        let (gateway, port) = open(&authority, &dlv, &control, &setting);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(gateway.run(async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Self { authority, dlv, port, control, stop: Some(stop), task, _folder: folder }
    }

    pub(crate) async fn connect(
        &self,
        config: ClientConfig,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.over(self.tcp().await, config).await
    }

    pub(crate) async fn over(
        &self,
        tcp: TcpStream,
        config: ClientConfig,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    pub(crate) async fn client(&self) -> TlsStream<TcpStream> {
        self.connect(self.authority.client()).await.unwrap()
    }

    /// A client that has exchanged bytes with dlv.
    pub(crate) async fn talking_client(&self) -> TlsStream<TcpStream> {
        let mut client = self.client().await;
        client.write_all(PING).await.unwrap();
        let mut answer = [0; PING.len()];
        client.read_exact(&mut answer).await.unwrap();
        client
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    pub(crate) async fn ask(&self, request: &Request) -> Reply {
        let mut stream = UnixStream::connect(&self.control).await.unwrap();
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        stream.write_all(&line).await.unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).await.unwrap();
        serde_json::from_str(&reply).unwrap()
    }

    /// The transcript's lines, which are one unbroken chain.
    pub(crate) fn transcript(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(transcript_path(&self.control)).unwrap();
        godebug_api::chain::verify(text.lines().map(str::as_bytes), &[], None).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) async fn refused(&self) -> u64 {
        match self.ask(&Request::Status).await {
            Reply::Status { refused, .. } => refused,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn set_ttl(&self, ttl: Duration) {
        let deadline = Deadline::after(clock::now(), ttl);
        assert_eq!(self.ask(&Request::SetDeadline { deadline }).await, Reply::Done);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub(crate) async fn ended(self) -> End {
        within(Duration::from_secs(20), self.task).await.unwrap()
    }

    pub(crate) async fn stop(mut self) -> End {
        self.stop.take().unwrap().send(()).unwrap();
        self.ended().await
    }
}

/// Opens a gateway on a free port; another test may take the port first, so this tries again.
fn open(authority: &Authority, dlv: &FakeDlv, control: &Path, setting: &Setting) -> (Gateway, u16) {
    for _ in 0..50 {
        let port = free_port();
        let config = config(authority, dlv, control, setting, port);
        if let Ok(gateway) = Gateway::open(given(config), setting.limits) {
            return (gateway, port);
        }
    }
    panic!("no free port");
}

pub(crate) fn free_port() -> u16 {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().port()
}

pub(crate) fn config(
    authority: &Authority,
    dlv: &FakeDlv,
    control: &Path,
    setting: &Setting,
    port: u16,
) -> GatewayConfig {
    let (certificate, key) = authority.server();
    GatewayConfig {
        awaits_client: false,
        of_core: false,
        id: "0123abcd".parse().unwrap(),
        mode: "step".parse().unwrap(),
        port: Port::try_from(port).unwrap(),
        sources: setting.sources.iter().map(|text| text.parse().unwrap()).collect(),
        deadline: Deadline::after(clock::now(), setting.ttl),
        server_name: SERVER_NAME.to_owned(),
        ca: authority.issuer.pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        debugger_socket: dlv.path.to_str().unwrap().to_owned(),
        build: Some(build()),
        control_socket: control.to_str().unwrap().to_owned(),
        max_connections: setting.max_connections,
        max_handshakes: setting.max_handshakes,
        pause: PauseBudget::new(Duration::from_secs(30), Duration::from_secs(600)),
        hot: godebug_api::HotLimit::default(),
        redact: RedactRules::default(),
        transcript_values: TranscriptValues::None,
        host: "host".to_owned(),
        boot: "boot".to_owned(),
    }
}

pub(crate) fn build() -> BuildInfo {
    BuildInfo {
        go_version: "go1.27.1".to_owned(),
        module: Some("example.com/shop".to_owned()),
        vcs_revision: None,
        vcs_modified: None,
        trimpath: true,
        sources: Sources::default(),
    }
}

/// With this process as the target, and a transcript beside the control socket.
pub(crate) fn given(config: GatewayConfig) -> Given {
    Given {
        target_status: File::open("/proc/self/status").unwrap().into(),
        transcript: transcript(Path::new(&config.control_socket)),
        config,
    }
}

pub(crate) fn transcript(control: &Path) -> File {
    File::options().append(true).create(true).open(transcript_path(control)).unwrap()
}

fn transcript_path(control: &Path) -> PathBuf {
    control.with_file_name("transcript.jsonl")
}

/// Nothing in these tests may hang.
pub(crate) async fn within<T>(patience: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(patience, future).await.expect("it took too long")
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    within(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
