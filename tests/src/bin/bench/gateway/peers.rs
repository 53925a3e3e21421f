//! Who stands before dlv: nobody, the gateway, and programs that only copy bytes through TLS.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use godebug_api::{
    Deadline, HotLimit, PauseBudget, Port, clock,
    control::GatewayConfig,
    handover::Handover,
    rules::engine::{RedactRules, TranscriptValues},
};
use godebug_tests::tls::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with},
};

const NAME: &str = "bench.godebug";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Direct,
    Gateway,
    Ghostunnel,
    Stunnel,
    Socat,
}

impl Kind {
    /// Those that only copy what passes.
    pub(crate) const COPIERS: [Self; 3] = [Self::Ghostunnel, Self::Stunnel, Self::Socat];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "dlv's socket, direct",
            Self::Gateway => "godebug-gateway",
            Self::Ghostunnel => "ghostunnel",
            Self::Stunnel => "stunnel",
            Self::Socat => "socat with OpenSSL",
        }
    }
}

pub(crate) struct Peer {
    pub(crate) kind: Kind,
    /// `None`: dlv's own socket.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) socket: PathBuf,
    pub(crate) identity: Identity,
    child: Option<Child>,
    _folder: Option<tempfile::TempDir>,
}

impl Peer {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts all that this machine has; and says what it has not.
pub(crate) fn start(socket: PathBuf) -> Result<(Vec<Peer>, Vec<String>)> {
    let certificates = Certificates::make()?;
    let mut peers = vec![Peer {
        kind: Kind::Direct,
        address: None,
        socket: socket.clone(),
        identity: certificates.identity(),
        child: None,
        _folder: None,
    }];
    let mut missing = Vec::new();
    for kind in [Kind::Gateway].into_iter().chain(Kind::COPIERS) {
        match start_one(kind, &socket, &certificates) {
            Ok(peer) => peers.push(peer),
            Err(error) if kind == Kind::Gateway => return Err(error),
            Err(error) => missing.push(format!("{}: {error:#}", kind.name())),
        }
    }
    Ok((peers, missing))
}

fn start_one(kind: Kind, socket: &Path, certificates: &Certificates) -> Result<Peer> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let port = free_port()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    certificates.write(folder.path())?;
    let mut command = match kind {
        Kind::Gateway => gateway(folder.path(), socket, port, certificates)?,
        Kind::Ghostunnel => ghostunnel(folder.path(), socket, address),
        Kind::Stunnel => stunnel(folder.path(), socket, address)?,
        Kind::Socat => socat(folder.path(), socket, port),
        Kind::Direct => bail!("nothing is started for a direct connection"),
    };
    let log = File::create(folder.path().join("log")).context("making its log")?;
    let child = command
        .stdout(log.try_clone().context("its log")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", kind.name()))?;
    let peer = Peer {
        kind,
        address: Some(address),
        socket: socket.to_owned(),
        identity: certificates.identity(),
        child: Some(child),
        _folder: Some(folder),
    };
    let until = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > until {
            bail!("it does not listen");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(peer)
}

fn gateway(
    folder: &Path,
    socket: &Path,
    port: u16,
    certificates: &Certificates,
) -> Result<Command> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let config = GatewayConfig {
        awaits_client: false,
        of_core: false,
        id: "0123abcd".parse()?,
        mode: "step".parse()?,
        port: Port::try_from(port)?,
        sources: vec!["127.0.0.1".parse()?],
        deadline: Deadline::after(clock::now(), Duration::from_secs(3600)),
        pause: PauseBudget::new(Duration::from_secs(30), Duration::from_secs(600)),
        hot: HotLimit::default(),
        redact: RedactRules::default(),
        transcript_values: TranscriptValues::None,
        server_name: NAME.to_owned(),
        ca: certificates.ca.clone(),
        certificate: certificates.server.0.clone(),
        key: certificates.server.1.clone(),
        debugger_socket: text(socket),
        build: None,
        control_socket: text(&folder.join("control")),
        max_connections: 8,
        max_handshakes: 16,
        host: "bench".to_owned(),
        boot: String::new(),
    };
    let mut configuration =
        File::from(memfd_create("configuration", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    serde_json::to_writer(&mut configuration, &config)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&configuration, seals)?;
    let transcript = File::options().append(true).create(true).open(folder.join("transcript"))?;
    let handover = Handover {
        configuration: configuration.into(),
        target_status: File::open("/proc/self/status")?.into(),
        transcript: transcript.into(),
    };
    let program = std::env::current_exe()?.with_file_name("godebug-gateway");
    let mut command = Command::new(&program);
    command.stdin(Stdio::from(handover.into_socket()?));
    if !program.exists() {
        bail!("{} is not there: cargo build --release -p godebug-gateway", program.display());
    }
    Ok(command)
}

/// Debian has no package of it: whoever wants it measured puts it into PATH.
fn ghostunnel(folder: &Path, socket: &Path, address: SocketAddr) -> Command {
    let mut command = Command::new("ghostunnel");
    command
        .args(["server", "--allow-all", "--quiet=all", "--connect-timeout=5s"])
        .arg(format!("--listen={address}"))
        .arg(format!("--target=unix:{}", socket.display()))
        .arg(format!("--keystore={}", folder.join("server.pem").display()))
        .arg(format!("--cacert={}", folder.join("ca.pem").display()))
        .stdin(Stdio::null());
    command
}

fn stunnel(folder: &Path, socket: &Path, address: SocketAddr) -> Result<Command> {
    let path = folder.join("stunnel.conf");
    let text = format!(
        "foreground = yes\npid =\ndebug = warning\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
         [dlv]\naccept = {address}\nconnect = {}\ncert = {folder}/server.pem\n\
         CAfile = {folder}/ca.pem\nverifyChain = yes\nsslVersionMin = TLSv1.3\n",
        socket.display(),
        folder = folder.display(),
    );
    std::fs::write(&path, text).context("writing stunnel's configuration")?;
    let mut command = Command::new("stunnel");
    command.arg(path).stdin(Stdio::null());
    Ok(command)
}

fn socat(folder: &Path, socket: &Path, port: u16) -> Command {
    let folder = folder.display();
    let mut command = Command::new("socat");
    command
        .arg(format!(
            "OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,nodelay,verify=1,\
             cert={folder}/server.pem,cafile={folder}/ca.pem"
        ))
        .arg(format!("UNIX-CONNECT:{}", socket.display()))
        .stdin(Stdio::null());
    command
}

/// A connection that is on its way; whether it gets there is the other side's business.
pub(crate) fn begin_to_connect(address: SocketAddr) -> Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error).context("beginning to connect"),
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a port")?;
    Ok(listener.local_addr().context("its address")?.port())
}

/// One CA, and a certificate with its key for each side; PEM.
struct Certificates {
    ca: String,
    server: (String, String),
    client: (String, String),
}

impl Certificates {
    fn make() -> Result<Self> {
        let mut ca = CertificateParams::new(Vec::<String>::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        ca.distinguished_name.push(DnType::CommonName, "bench");
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
        let signed = |name: &str| -> Result<(String, String)> {
            let mut leaf = CertificateParams::new(Vec::<String>::new())?;
            leaf.subject_alt_names = vec![SanType::DnsName(NAME.try_into()?)];
            leaf.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate()?;
            Ok((leaf.signed_by(&key, &ca)?.pem(), key.serialize_pem()))
        };
        Ok(Self { ca: ca.pem(), server: signed("server")?, client: signed("client")? })
    }

    fn identity(&self) -> Identity {
        Identity {
            ca: self.ca.clone(),
            server_name: NAME.to_owned(),
            client: Some(self.client.clone()),
        }
    }

    fn write(&self, folder: &Path) -> Result<()> {
        std::fs::write(folder.join("ca.pem"), &self.ca).context("writing a certificate")?;
        let both = format!("{}{}", self.server.1, self.server.0);
        std::fs::write(folder.join("server.pem"), both).context("writing a certificate")
    }
}
