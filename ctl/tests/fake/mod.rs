//! A private bus with a godebugd on it that opens sessions on nothing, so that everything that
//! `godebugctl` does with a daemon can be seen without one. Needs `dbus-daemon`.
#![allow(clippy::unwrap_used, dead_code)]

use crate::pki::{Authority, SERVER_NAME};
use godebug_api::audit::{
    AuditFilter, AuditList, AuditRecord, AuditTrail, AuditedSession, Outcome,
};
use godebug_api::bus::BusError;
use godebug_api::documents::{
    Check, ClaimRequest, Diagnosis, OpenRequest, Opened, PlanDocument, Proof, SessionInfo,
    TranscriptPage, Verdict, WaitsFor,
};
use godebug_api::image::ImageRequest;
use godebug_api::plan::Plan;
use godebug_api::{
    Approval, BUS_NAME, CloseReason, Code, Forecast, Login, MANAGER_PATH, Refusal, SESSION_PATH,
    State, clock,
};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedFd, interface};

pub(crate) const ID: &str = "0000000a";
const HOSTILE: &str = "mallory\u{1b}[2J\u{9b}31m\nroot";

/// What the fake knows, and what it was asked.
pub(crate) struct Book {
    authority: Authority,
    gateway: SocketAddr,
    pub(crate) session: Option<SessionInfo>,
    pub(crate) request: Option<OpenRequest>,
    /// What an image was asked for last, and what it answers.
    pub(crate) image: Option<ImageRequest>,
    pub(crate) lines: String,
    pub(crate) stops: usize,
    /// How often a session was wanted.
    pub(crate) wishes: usize,
    /// What the audit log was asked for last.
    pub(crate) filter: Option<AuditFilter>,
    /// Removed while a session is opened, to see what happens when the ticket has no place.
    pub(crate) spoils: Option<PathBuf>,
}

type Shared = Arc<Mutex<Book>>;

struct Manager(Shared);
struct Session;

#[interface(name = "org.godebug1.Session")]
impl Session {
    #[zbus(signal)]
    async fn transition(
        emitter: &SignalEmitter<'_>,
        old: &str,
        new: &str,
        close_reason: &str,
    ) -> zbus::Result<()>;
    #[zbus(signal)]
    async fn extended(emitter: &SignalEmitter<'_>, expires_at: &str) -> zbus::Result<()>;
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap()
}

fn in_seconds(seconds: u64) -> String {
    clock::rfc3339(clock::now().wall_ms + seconds * 1000)
}

impl Book {
    fn info(&self) -> Result<String, BusError> {
        let unknown = || Refusal::usage("there is no such session", "see `godebugctl list`");
        self.session.as_ref().map(json).ok_or_else(|| BusError::from(unknown()))
    }

    /// Puts a session on the bus that answers this request.
    fn opened(&mut self, unit: &str, request: OpenRequest) -> String {
        let session = info(unit, &request, self.gateway);
        let opened = Opened {
            session: session.clone(),
            ca: self.authority.ca.clone(),
            certificate: self.authority.sign(&request.csr),
            server_name: SERVER_NAME.to_owned(),
            host: request.endpoint_host.clone().unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: self.gateway.port(),
        };
        self.session = Some(session);
        self.request = Some(request);
        json(&opened)
    }

    /// Somebody consents to the request.
    pub(crate) fn approve(&mut self) {
        let (login, at) = (Login::default(), in_seconds(0));
        let approval = Approval { uid: 7, user: HOSTILE.to_owned(), login, at };
        self.session.as_mut().unwrap().approvals.push(approval);
    }

    /// Somebody refuses it.
    pub(crate) fn refuse(&mut self, why: &str) {
        let session = self.session.as_mut().unwrap();
        session.state = State::Closed;
        session.close_reason = Some(CloseReason::Denied);
        session.close_detail = Some(format!("by lea: {why}"));
    }

    pub(crate) fn end(&mut self, reason: CloseReason) {
        let session = self.session.as_mut().unwrap();
        session.state = State::Closed;
        session.close_reason = Some(reason);
        session.proof = vec![Proof {
            what: "no tracer on the process".to_owned(),
            gone: true,
            found: None,
            after_ms: 12,
        }];
    }
}

#[interface(name = "org.godebug1.Manager")]
impl Manager {
    async fn open(
        &self,
        unit: &str,
        request: &str,
        files: Vec<OwnedFd>,
    ) -> Result<String, BusError> {
        let request: OpenRequest = serde_json::from_str(request).unwrap();
        if unit == "refused.service" {
            return Err(Refusal::refused("you may not", "ask somebody").into());
        }
        self.0.lock().unwrap().wishes += 1;
        if unit == "large.service" && !request.accept_freeze {
            let message = "attaching will freeze large.service for about 6.5 s (300 MB of debug \
                           information), more than the 5s of --max-freeze";
            return Err(Refusal::new(Code::Freeze, message, "accept it with --yes").into());
        }
        if unit == "slow.service" {
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        }
        assert_eq!(files.len(), usize::from(request.symbols));
        let mut book = self.0.lock().unwrap();
        if unit == "guarded.service" {
            assert!(!request.break_glass);
            let waits_for =
                WaitsFor { approvals: 1, by: HOSTILE.to_owned(), claim_by: in_seconds(3600) };
            let session = SessionInfo {
                state: State::PendingApproval,
                endpoint: String::new(),
                expires_at: None,
                waits_for: Some(waits_for),
                ..info(unit, &request, book.gateway)
            };
            book.session = Some(session.clone());
            book.request = Some(request);
            return Ok(serde_json::json!({ "waits": session }).to_string());
        }
        if let Some(directory) = &book.spoils {
            std::fs::remove_dir_all(directory).unwrap();
        }
        Ok(book.opened(unit, request))
    }

    fn claim(&self, id: &str, request: &str, _files: Vec<OwnedFd>) -> Result<String, BusError> {
        assert_eq!(id, ID);
        let claim: ClaimRequest = serde_json::from_str(request).unwrap();
        let mut book = self.0.lock().unwrap();
        let waits = book.session.clone().unwrap();
        if waits.approvals.is_empty() {
            return Err(Refusal::refused("request has 0 of 1 approvals", "ask").into());
        }
        let request = claim.put_into(book.request.clone().unwrap());
        Ok(book.opened(waits.unit.as_str(), request))
    }

    fn approve(&self, id: &str) -> Result<String, BusError> {
        assert_eq!(id, ID);
        let mut book = self.0.lock().unwrap();
        book.approve();
        book.info()
    }

    fn deny(&self, id: &str, reason: &str) -> Result<String, BusError> {
        assert_eq!(id, ID);
        let mut book = self.0.lock().unwrap();
        book.refuse(reason);
        book.info()
    }

    fn snapshot(
        &self,
        unit: &str,
        request: &str,
        files: Vec<OwnedFd>,
    ) -> Result<(String, OwnedFd), BusError> {
        assert!(files.is_empty(), "no symbols were named");
        let request: ImageRequest = serde_json::from_str(request).unwrap();
        let mut book = self.0.lock().unwrap();
        if unit == "refused.service" {
            return Err(Refusal::refused("you may not", "ask somebody").into());
        }
        let open = serde_json::from_value(serde_json::json!({ "ttl": "60s", "mode": "observe" }));
        let session = info(unit, &open.unwrap(), book.gateway);
        book.session = Some(session.clone());
        book.image = Some(request);
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, book.lines.as_bytes()).unwrap();
        Ok((json(&session), std::os::fd::OwnedFd::from(reader).into()))
    }

    fn plan(&self, unit: &str, request: &str) -> Result<String, BusError> {
        let request: OpenRequest = serde_json::from_str(request).unwrap();
        Ok(json(&PlanDocument {
            unit: unit.parse().unwrap(),
            pid: std::process::id().try_into().unwrap(),
            user: HOSTILE.to_owned(),
            mode: request.mode,
            ttl: request.ttl,
            port: 2345,
            sources: request.from,
            go_version: "go1.24.4".to_owned(),
            debugger: "dlv 1.24.0".to_owned(),
            firewall: "nftables".to_owned(),
            freeze_forecast_ms: Some(forecast()),
            pause: None,
            rule: Some(HOSTILE.to_owned()),
            plan: Plan { steps: Vec::new() },
            warnings: vec!["it will freeze".to_owned()],
        }))
    }

    fn list(&self) -> String {
        json(&self.0.lock().unwrap().session.iter().collect::<Vec<_>>())
    }

    fn get(&self, _id: &str) -> Result<String, BusError> {
        self.0.lock().unwrap().info()
    }

    fn extend(&self, _id: &str, seconds: u64) -> Result<String, BusError> {
        let mut book = self.0.lock().unwrap();
        if let Some(session) = &mut book.session {
            session.expires_at = Some(in_seconds(seconds));
        }
        book.info()
    }

    fn stop(&self, _id: &str) -> Result<String, BusError> {
        let mut book = self.0.lock().unwrap();
        book.stops += 1;
        book.end(CloseReason::Stopped);
        book.info()
    }

    fn audit_list(&self, filter: &str) -> String {
        let filter: AuditFilter = serde_json::from_str(filter).unwrap();
        let unit = filter.unit.clone().unwrap_or_else(|| "shop".parse().unwrap());
        self.0.lock().unwrap().filter = Some(filter);
        let session = AuditedSession {
            opened_at: in_seconds(0),
            id: ID.parse().unwrap(),
            unit,
            opened_by: HOSTILE.to_owned(),
            opened_by_uid: 7,
            mode: Some("modify".parse().unwrap()),
            ended_at: Some(in_seconds(9)),
            close_reason: Some(CloseReason::Expired),
            break_glass: false,
            outcome: Outcome::Stuck,
        };
        json(&AuditList {
            sessions: vec![session],
            refusals: Vec::new(),
            own_only: true,
            damaged_lines: 2,
        })
    }

    /// One line that is of no chain, then no more.
    fn transcript(&self, id: &str, from: u64) -> String {
        assert_eq!(id, ID);
        let line = serde_json::json!({"event": "operation", "operation": "evaluate",
            "subject": HOSTILE, "outcome": "allowed", "time": "2026-01-01T00:00:00Z"});
        let lines = if from == 0 { vec![line.to_string()] } else { Vec::new() };
        json(&TranscriptPage { lines, next: 7 })
    }

    fn audit_show(&self, id: &str) -> Result<String, BusError> {
        if id != ID {
            return Err(Refusal::usage("the audit log has no such session", "look again").into());
        }
        let record = |event: &str, details| AuditRecord {
            time: in_seconds(0),
            event: event.to_owned(),
            session: Some(ID.parse().unwrap()),
            unit: "shop.service".to_owned(),
            uid: 7,
            user: HOSTILE.to_owned(),
            message: HOSTILE.to_owned(),
            details,
            login: Login::default(),
            others: serde_json::Map::default(),
        };
        let proof = serde_json::json!([{"what": "no tracer", "gone": true, "after_ms": 12}]);
        let details = serde_json::json!({"proof": proof, "close_reason": "expired"});
        let opening = serde_json::json!({"reason": HOSTILE});
        Ok(json(&AuditTrail {
            session: ID.parse().unwrap(),
            entries: vec![record("opening", opening), record("closed", details)],
            left_out: None,
            damaged_lines: 2,
        }))
    }

    fn doctor(&self, _unit: &str) -> String {
        let check = Check {
            name: "dlv".to_owned(),
            verdict: Verdict::Bad,
            found: HOSTILE.to_owned(),
            remedy: "apt install delve".to_owned(),
        };
        json(&Diagnosis { good: false, checks: vec![check] })
    }
}

fn forecast() -> Forecast {
    serde_json::from_str("480").unwrap()
}

fn info(unit: &str, request: &OpenRequest, gateway: SocketAddr) -> SessionInfo {
    SessionInfo {
        id: ID.parse().unwrap(),
        target: None,
        unit: unit.parse().unwrap(),
        state: State::Active,
        mode: request.mode,
        pid: std::process::id().try_into().unwrap(),
        endpoint: gateway.to_string(),
        opened_at: in_seconds(0),
        expires_at: Some(in_seconds(request.ttl.get().as_secs())),
        opened_by: HOSTILE.to_owned(),
        opened_by_uid: 0,
        reason: request.reason.clone(),
        sources: request.from.clone(),
        debugger: "dlv 1.24.0".to_owned(),
        go_version: "go1.24.4".to_owned(),
        freeze_forecast_ms: Some(forecast()),
        freeze_ms: Some(212),
        pause: None,
        transcript: None,
        rule: Some(HOSTILE.to_owned()),
        ttl: Some(request.ttl),
        login: Login::default(),
        approvals: Vec::new(),
        waits_for: None,
        exec: None,
        dump: None,
        break_glass: request.break_glass,
        close_reason: None,
        close_detail: None,
        stuck: Vec::new(),
        proof: Vec::new(),
        ticket: None,
    }
}

/// A bus of its own with the fake daemon on it. Both end with this value.
pub(crate) struct Host {
    address: String,
    daemon: Connection,
    pub(crate) book: Shared,
    pub(crate) directory: TempDir,
    pub(crate) bus: Child,
}

impl Host {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (bus, address) = start_bus(&directory).await;
        let authority = Authority::new();
        let gateway = authority.gateway(&authority.leaf(2100)).await;
        let book = Book {
            authority,
            gateway,
            session: None,
            request: None,
            image: None,
            lines: String::new(),
            stops: 0,
            wishes: 0,
            filter: None,
            spoils: None,
        };
        let book = Arc::new(Mutex::new(book));
        let daemon = zbus::connection::Builder::address(address.as_str())
            .serve_at(MANAGER_PATH, Manager(book.clone()))
            .serve_at(format!("{SESSION_PATH}/{ID}"), Session)
            .name(BUS_NAME)
            .build()
            .await
            .unwrap();
        Self { address, daemon, book, directory, bus }
    }

    /// `godebugctl` with these arguments on this host, without an ssh connection.
    pub(crate) fn godebugctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_godebugctl"));
        command
            .args(arguments)
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.address)
            .env_remove("SSH_CONNECTION")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs it to its end: exit status, standard output, standard error.
    pub(crate) async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.godebugctl(arguments).output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// Runs it on a terminal, where somebody types `answer` once `question` is shown: exit status,
    /// and what was shown. `script` makes the terminal.
    pub(crate) async fn on_a_terminal(
        &self,
        arguments: &[&str],
        question: &str,
        answer: &str,
    ) -> (i32, String) {
        let program = env!("CARGO_BIN_EXE_godebugctl");
        let line = format!("exec {program} {}", arguments.join(" "));
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"])
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.address)
            .env("TERM", "xterm")
            .env_remove("SSH_CONNECTION")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("these tests need script(1): {error}"));
        let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (mut shown, mut chunk, mut answered) = (String::new(), [0; 1024], false);
        let all = async {
            loop {
                let count = screen.read(&mut chunk).await.unwrap();
                if count == 0 {
                    break child.wait().await.unwrap();
                }
                shown.push_str(&String::from_utf8_lossy(&chunk[..count]));
                if !answered && shown.contains(question) {
                    answered = true;
                    // Whoever is not asked may have ended by now.
                    let _ = keys.write_all(answer.as_bytes()).await;
                }
            }
        };
        let status = tokio::time::timeout(std::time::Duration::from_secs(20), all).await.unwrap();
        (status.code().unwrap(), shown)
    }

    /// Tells everybody that something has become of the session.
    pub(crate) async fn tell(&self) {
        self.announce("").await;
    }

    /// Ends the session as the daemon would, with its signal.
    pub(crate) async fn end(&self, reason: CloseReason) {
        self.book.lock().unwrap().end(reason);
        self.announce(&reason.to_string()).await;
    }

    async fn announce(&self, reason: &str) {
        let path = format!("{SESSION_PATH}/{ID}");
        let session = self.daemon.object_server().interface::<_, Session>(path).await.unwrap();
        let emitter = session.signal_emitter();
        Session::transition(emitter, "active", "closed", reason).await.unwrap();
    }

    /// godebugd leaves the bus, as when it is upgraded.
    pub(crate) async fn daemon_leaves(&self) {
        self.daemon.release_name(BUS_NAME).await.unwrap();
    }

    pub(crate) async fn daemon_returns(&self) {
        self.daemon.request_name(BUS_NAME).await.unwrap();
    }
}

async fn start_bus(directory: &TempDir) -> (Child, String) {
    let configuration = directory.path().join("bus.conf");
    let socket = directory.path().join("bus");
    let text = format!(
        "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
         <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
         <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
        socket.display()
    );
    std::fs::write(&configuration, text).unwrap();
    let mut bus = Command::new("dbus-daemon")
        .arg(format!("--config-file={}", configuration.display()))
        .args(["--nofork", "--print-address"])
        .stdout(Stdio::piped())
        // It complains about limits that it does not need here.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("these tests need dbus-daemon: {error}"));
    let mut address = String::new();
    let mut output = BufReader::new(bus.stdout.take().unwrap());
    output.read_line(&mut address).await.unwrap();
    (bus, address.trim().to_owned())
}
