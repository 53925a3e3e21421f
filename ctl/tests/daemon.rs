//! `godebugctl` as a person and a script see it, with a daemon that opens sessions on nothing.
#![allow(clippy::unwrap_used)]

mod fake;
mod pki;

use fake::{Host, ID};
use godebug_api::CloseReason;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout};
use tokio::time::{sleep, timeout};

/// A `godebugctl` in the foreground, with the document that it printed when it was ready.
struct Foreground {
    child: Child,
    rest: BufReader<ChildStdout>,
    document: Value,
}

impl Foreground {
    async fn start(host: &Host, arguments: &[&str]) -> Self {
        let mut child = host.godebugctl(arguments).spawn().unwrap();
        let mut rest = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        timeout(Duration::from_secs(20), rest.read_line(&mut line)).await.unwrap().unwrap();
        let document = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        Self { child, rest, document }
    }

    fn local(&self) -> SocketAddr {
        self.document["listen"].as_str().unwrap().parse().unwrap()
    }

    /// What the other end of the tunnel answers to `words`.
    async fn ask(&self, words: &str) -> String {
        let mut stream = TcpStream::connect(self.local()).await.unwrap();
        stream.write_all(words.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The exit status, what else was printed on standard output, and standard error.
    async fn end(mut self) -> (i32, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        let all = async {
            self.rest.read_to_string(&mut out).await.unwrap();
            self.child.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = timeout(Duration::from_secs(30), all).await.unwrap();
        (status.code().unwrap(), out, err)
    }
}

const ATTACH: [&str; 5] = ["--json", "attach", "shop", "--listen", "127.0.0.1:0"];

#[tokio::test]
async fn in_the_foreground_an_ide_gets_through_and_each_way_to_leave_ends_the_session() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let host = Host::start().await;
        let attach = Foreground::start(&host, &ATTACH).await;
        assert_eq!(attach.document["id"], ID);
        assert_eq!(attach.document["state"], "active");
        assert_eq!(attach.document["ticket"], Value::Null);
        assert_eq!(attach.ask("hello").await, "HELLO");
        {
            let book = host.book.lock().unwrap();
            let request = book.request.as_ref().unwrap();
            assert!(request.hold);
            assert_eq!(request.from[0].to_string(), "127.0.0.1/32");
        }
        attach.signal(signal);
        let (status, out, err) = attach.end().await;
        assert_eq!(status, 0, "{err}");
        assert_eq!(out, "", "one document and nothing else");
        assert!(err.contains("✓ no tracer on the process") && err.contains("12 ms"), "{err}");
        assert_eq!(host.book.lock().unwrap().stops, 1);
    }
}

#[tokio::test]
async fn without_json_the_first_line_tells_of_the_session_and_the_ide_block_follows() {
    let host = Host::start().await;
    let arguments = ["attach", "shop", "--listen", "127.0.0.1:0", "--ide", "dlv"];
    let mut child = host.godebugctl(&arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    assert!(first.starts_with(&format!("session {ID} active: shop.service")), "{first}");
    while !lines.next_line().await.unwrap().unwrap().contains("exit -c") {}
}

#[tokio::test]
async fn the_end_of_the_time_is_a_success_and_every_other_end_is_early() {
    for (reason, expected) in [
        (CloseReason::Expired, 0),
        (CloseReason::Stopped, 6),
        (CloseReason::TargetExited, 6),
        (CloseReason::DebuggerExited, 6),
    ] {
        let host = Host::start().await;
        let attach = Foreground::start(&host, &ATTACH).await;
        sleep(Duration::from_millis(300)).await;
        host.end(reason).await;
        let (status, out, err) = attach.end().await;
        assert_eq!((status, out.as_str()), (expected, ""), "{reason}: {err}");
        assert!(err.contains(&reason.to_string()), "{err}");
        assert_eq!(host.book.lock().unwrap().stops, 0);
    }
}

#[tokio::test]
async fn an_end_before_anybody_listened_is_not_missed() {
    let host = Host::start().await;
    let attach = Foreground::start(&host, &ATTACH).await;
    host.book.lock().unwrap().end(CloseReason::Expired);
    // No signal: whoever subscribed too late never saw it. A look at the start has to.
    let (status, _, err) = attach.end().await;
    assert_eq!(status, 0, "{err}");
}

#[tokio::test]
async fn a_session_goes_on_while_godebugd_is_away() {
    let host = Host::start().await;
    let attach = Foreground::start(&host, &ATTACH).await;
    sleep(Duration::from_millis(300)).await;
    host.daemon_leaves().await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(attach.ask("still here").await, "STILL HERE");
    host.book.lock().unwrap().end(CloseReason::Expired);
    host.daemon_returns().await;
    let (status, _, err) = attach.end().await;
    assert_eq!(status, 0, "{err}");
    assert!(err.contains("godebugd is away") && err.contains("godebugd is back"), "{err}");
}

#[tokio::test]
async fn without_a_bus_the_session_goes_on_and_leaving_says_how_it_ends() {
    let mut host = Host::start().await;
    let attach = Foreground::start(&host, &ATTACH).await;
    sleep(Duration::from_millis(300)).await;
    host.bus.kill().await.unwrap();
    sleep(Duration::from_millis(300)).await;
    assert_eq!(attach.ask("still here").await, "STILL HERE");
    attach.signal(Signal::INT);
    let (status, _, err) = attach.end().await;
    assert_eq!(status, 5, "{err}");
    assert!(err.contains(&format!("godebugctl stop {ID}")), "{err}");
}

#[tokio::test]
async fn leaving_while_the_session_is_being_opened_takes_it_back() {
    let host = Host::start().await;
    let arguments = ["--json", "attach", "slow", "--listen", "127.0.0.1:0"];
    let mut child = host.godebugctl(&arguments).spawn().unwrap();
    let asked = async {
        while host.book.lock().unwrap().wishes == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), asked).await.unwrap();
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let status = timeout(Duration::from_secs(20), child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_refusal_comes_through_with_its_status_and_its_remedy() {
    let host = Host::start().await;
    let (status, out, err) = host.run(&["--json", "attach", "refused"]).await;
    assert_eq!(status, 3);
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["error"]["code"], "refused");
    assert_eq!(err, "error: you may not\n  → ask somebody\n");
}

#[tokio::test]
async fn a_long_freeze_is_refused_where_nobody_can_be_asked_and_accepted_with_yes() {
    let host = Host::start().await;
    let attach = ["--json", "attach", "large", "--detach"];
    let (status, out, err) = host.run(&attach).await;
    assert_eq!(status, 4, "{err}");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["error"]["code"], "freeze");
    assert!(err.contains("about 6.5 s") && err.contains("→ accept it with --yes"), "{err}");
    assert_eq!(host.run(&["attach", "large", "--detach"]).await.0, 4);
    assert_eq!(host.book.lock().unwrap().wishes, 2, "asked once each time");

    let accepted = [&attach[..], &["--yes", "--max-freeze", "1500ms"]].concat();
    let (status, out, err) = host.run(&accepted).await;
    assert_eq!(status, 0, "{err}");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["freeze_ms"], 212);
    assert_eq!(document["freeze_forecast_ms"], 480);
    let request = host.book.lock().unwrap().request.clone().unwrap();
    assert_eq!((u64::from(request.max_freeze), request.accept_freeze), (1500, true));
}

#[tokio::test]
async fn on_a_terminal_a_long_freeze_is_asked_about_and_only_yes_goes_on() {
    for (answer, expected, wishes) in [
        ("y\n", 0, 2),
        ("YES\n", 0, 2),
        ("n\n", 4, 1),
        ("\n", 4, 1),
        ("\u{4}", 4, 1),
        ("\u{3}", 1, 1),
    ] {
        let host = Host::start().await;
        let ticket = host.directory.path().join("ticket");
        let ticket = ticket.to_str().unwrap();
        let (status, shown) = host
            .on_a_terminal(&["attach", "large", "--detach", "--ticket", ticket], "[y/N]", answer)
            .await;
        assert_eq!(status, expected, "{answer:?}: {shown}");
        assert!(shown.contains("Attaching will freeze large.service for about 6.5 s"), "{shown}");
        assert!(shown.contains("Go on? [y/N] "), "{shown}");
        let book = host.book.lock().unwrap();
        assert_eq!((book.wishes, book.request.is_some()), (wishes, expected == 0), "{answer:?}");
    }
}

#[tokio::test]
async fn with_json_nobody_is_asked_even_on_a_terminal() {
    let host = Host::start().await;
    let arguments = ["--json", "attach", "large", "--detach"];
    let (status, shown) = host.on_a_terminal(&arguments, "\"error\"", "y\n").await;
    assert_eq!(status, 4, "{shown}");
    assert!(!shown.contains("[y/N]"), "{shown}");
    assert_eq!(host.book.lock().unwrap().wishes, 1);
}

#[tokio::test]
async fn the_freeze_is_told_by_show_attach_and_the_plan() {
    let host = Host::start().await;
    let ticket = host.directory.path().join("ticket");
    let ticket = ticket.to_str().unwrap();
    let (_, out, err) = host.run(&["attach", "shop", "--detach", "--ticket", ticket]).await;
    assert!(out.contains("freeze   0.3 s while dlv attached"), "{out}{err}");
    let (_, out, _) = host.run(&["show", ID]).await;
    assert!(out.contains("0.3 s while dlv attached (forecast: 0.5 s)"), "{out}");
    let (_, out, _) = host.run(&["attach", "shop", "--dry-run"]).await;
    assert!(out.contains("about 0.5 s"), "{out}");
}

#[tokio::test]
async fn a_taken_local_port_is_found_before_a_session_is_opened() {
    let host = Host::start().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let (status, _, err) = host.run(&["attach", "shop", "--listen", &listen]).await;
    assert_eq!(status, 1, "{err}");
    assert!(host.book.lock().unwrap().request.is_none());
}

#[tokio::test]
async fn a_ticket_connects_and_says_when_the_gateway_is_not_there() {
    let host = Host::start().await;
    let path = host.directory.path().join("ticket");
    let name = path.to_str().unwrap();
    let detach = ["attach", "shop", "--detach", "--from", "127.0.0.0/8", "--ticket", name];
    let (status, out, err) = host.run(&detach).await;
    assert_eq!(status, 0, "{err}");
    assert!(out.contains(&format!("godebugctl connect {name}")), "{out}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!host.book.lock().unwrap().request.as_ref().unwrap().hold);

    let connect = ["--json", "connect", name, "--listen", "127.0.0.1:0"];
    let connected = Foreground::start(&host, &connect).await;
    assert_eq!(connected.ask("hello").await, "HELLO");
    connected.signal(Signal::INT);
    let (status, out, err) = connected.end().await;
    assert_eq!((status, out.as_str()), (0, ""), "{err}");
    assert_eq!(host.book.lock().unwrap().stops, 0, "the session goes on");

    // Its gateway does not tell how the program was built.
    let connect = ["connect", name, "--listen", "127.0.0.1:0", "--ide", "nvim"];
    let mut child = host.godebugctl(&connect).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().unwrap().contains("dap.adapters.godebug") {}
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let status = timeout(Duration::from_secs(20), child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));

    let (status, out, _) = host.run(&["extend", ID, "--ttl", "2h", "--ticket", name]).await;
    assert_eq!(status, 0);
    assert!(out.contains("2h"), "{out}");
    assert!(std::fs::read_to_string(&path).unwrap().contains("expires_at"));

    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (gone, port) = (free.local_addr().unwrap(), "port = ");
    drop(free);
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|line| line.starts_with(port)).unwrap();
    std::fs::write(&path, text.replace(line, &format!("{port}{}", gone.port()))).unwrap();
    let (status, _, err) = host.run(&["connect", name]).await;
    assert_eq!(status, 6, "{err}");
    assert!(err.contains("nobody listens on 127.0.0.1"), "{err}");
}

#[tokio::test]
async fn a_ticket_on_standard_output_is_the_ticket_alone() {
    let host = Host::start().await;
    let (status, out, err) = host.run(&["attach", "shop", "--detach", "--ide", "vscode"]).await;
    assert_eq!(status, 0, "{err}");
    let path = host.directory.path().join("ticket");
    std::fs::write(&path, &out).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    godebug_api::ticket::Ticket::read(&path, 0).unwrap();
    assert!(err.contains("launch.json") && err.contains("only this host"), "{err}");

    // The symbols file travels as a descriptor; the fake daemon counts them.
    let symbols = std::env::current_exe().unwrap();
    let with_symbols =
        ["--json", "attach", "shop", "--detach", "--symbols", symbols.to_str().unwrap()];
    let (_, out, _) = host.run(&with_symbols).await;
    let document: Value = serde_json::from_str(&out).unwrap();
    assert!(document["ticket"].as_str().unwrap().starts_with("# godebug ticket"));
}

#[tokio::test]
async fn a_readable_file_behind_standard_output_is_warned_of() {
    let host = Host::start().await;
    let path = host.directory.path().join("ticket");
    let file = std::fs::File::create(&path).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = host.godebugctl(&["attach", "shop", "--detach"]);
    let child = command.stdout(file).spawn().unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("warning: others can read"));
}

#[tokio::test]
async fn a_session_whose_ticket_has_no_place_is_ended_again() {
    let host = Host::start().await;
    let directory = host.directory.path().join("gone");
    std::fs::create_dir(&directory).unwrap();
    host.book.lock().unwrap().spoils = Some(directory.clone());
    let path = directory.join("ticket");
    let (status, _, err) =
        host.run(&["attach", "shop", "--detach", "--ticket", path.to_str().unwrap()]).await;
    assert_eq!(status, 1, "{err}");
    assert!(err.contains("the session was ended again"), "{err}");
    assert_eq!(host.book.lock().unwrap().stops, 1);
}

#[tokio::test]
async fn what_others_wrote_reaches_no_terminal_as_it_is() {
    let host = Host::start().await;
    assert_eq!(host.run(&["list"]).await.1, "no sessions\n");
    host.run(&["attach", "shop", "--detach", "--reason", "look at 日本"]).await;
    for (arguments, expected) in [
        (&["list"][..], 0),
        (&["show", ID], 0),
        (&["attach", "shop", "--dry-run"], 0),
        (&["doctor"], 5),
        (&["--json", "list"], 0),
        (&["--json", "doctor", "shop"], 5),
        (&["audit", "list"], 0),
        (&["audit", "show", ID], 0),
        (&["--json", "audit", "list"], 0),
        (&["--json", "audit", "show", ID], 0),
        (&["stop", "--all"], 0),
        (&["watch", ID], 0),
    ] {
        let (status, out, err) = host.run(arguments).await;
        assert_eq!(status, expected, "{arguments:?}: {err}");
        let acts = |c: char| c.is_control() && c != '\n';
        assert!(!out.chars().any(acts) && !err.chars().any(acts), "{arguments:?}: {out}{err}");
        assert!(out.contains("mallory") || out.contains("✓ no tracer"), "{arguments:?}: {out}");
    }
    let (_, out, _) = host.run(&["--json", "stop", ID]).await;
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document[0]["close_reason"], "stopped");
}

#[tokio::test]
async fn the_audit_log_is_asked_for_what_was_typed_and_its_damage_is_told() {
    let host = Host::start().await;
    let filter = || host.book.lock().unwrap().filter.clone().unwrap();
    let (status, out, _) = host.run(&["audit", "list"]).await;
    assert_eq!((status, filter().unit, filter().last.get()), (0, None, 20));
    assert!(out.contains("STUCK") && out.contains("Only your own sessions"), "{out}");
    assert!(out.contains("damaged lines in the log, passed over: 2"), "{out}");
    let (status, out, _) =
        host.run(&["--json", "audit", "list", "--unit", "other", "--last", "3"]).await;
    assert_eq!((status, filter().last.get()), (0, 3));
    assert_eq!(filter().unit.unwrap().as_str(), "other.service");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["damaged_lines"], 2);
    assert_eq!(document["sessions"][0]["outcome"], "stuck");

    let (status, out, _) = host.run(&["audit", "show", ID]).await;
    assert_eq!(status, 0);
    assert!(out.contains("✓ no tracer      12 ms") && out.contains("proved: all 1"), "{out}");
    let (_, out, _) = host.run(&["--json", "audit", "show", ID]).await;
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["entries"][1]["details"]["proof"][0]["after_ms"], 12);
    let (status, out, err) = host.run(&["--json", "audit", "show", "00000009"]).await;
    assert_eq!(status, 2, "{err}");
    assert!(out.contains("\"usage\""), "{out}");
}
