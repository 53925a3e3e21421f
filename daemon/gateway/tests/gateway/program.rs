//! The program itself: what it takes on standard input, what it tells systemd, how it ends.

use crate::support::{Answers, Authority, FakeDlv, Setting, config, free_port, transcript};
use godebug_api::handover::Handover;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_godebug-gateway");

/// What godebugd hands over, with this configuration.
fn handed(text: &[u8], control: &Path) -> Stdio {
    let handover = Handover {
        configuration: sealed(text),
        target_status: File::open("/proc/self/status").unwrap().into(),
        transcript: transcript(control).into(),
    };
    handover.into_socket().unwrap().into()
}

fn sealed(text: &[u8]) -> OwnedFd {
    let fd = memfd_create("config", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    let mut file = std::fs::File::from(fd);
    file.write_all(text).unwrap();
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, all).unwrap();
    file.into()
}

fn end(mut child: Child) -> (Option<i32>, String) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

fn start(stdin: Stdio, notify: Option<&std::path::Path>) -> Child {
    let mut command = Command::new(PROGRAM);
    command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped()).env_remove("GODEBUG_LOG");
    match notify {
        Some(path) => command.env("NOTIFY_SOCKET", path),
        None => command.env_remove("NOTIFY_SOCKET"),
    };
    command.spawn().unwrap()
}

fn message(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn it_refuses_what_is_not_handed_over() {
    let (status, said) = end(start(Stdio::null(), None));
    assert_eq!(status, Some(2));
    assert!(said.contains("started by godebugd"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let (status, said) = end(start(handed(b"{\"key\":\"SECRET\"}", &control), None));
    assert_eq!(status, Some(2));
    assert!(!said.contains("SECRET"), "{said}");
}

#[tokio::test]
async fn it_tells_systemd_and_ends_at_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let notify_path = folder.path().join("notify");
    let notify = UnixDatagram::bind(&notify_path).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let authority = Authority::new();
    let dlv = FakeDlv::start(folder.path(), Answers::Echo);
    let control = folder.path().join("control.sock");
    let setting = Setting { ttl: Duration::from_secs(4), ..Setting::default() };
    let config = config(&authority, &dlv, &control, &setting, free_port());
    let text = serde_json::to_vec(&config).unwrap();

    let child = start(handed(&text, &control), Some(&notify_path));
    let ready = message(&notify);
    assert!(ready.contains("READY=1") && ready.contains("STATUS="), "{ready}");
    assert!(control.exists());

    // The same port again: it must say so, to systemd and on standard error.
    let mut second = config.clone();
    second.control_socket.push('2');
    let text = serde_json::to_vec(&second).unwrap();
    let (status, said) = end(start(handed(&text, &control), Some(&notify_path)));
    assert_eq!(status, Some(1));
    assert!(said.contains("is in use"), "{said}");
    let failed = message(&notify);
    assert!(failed.contains("is in use") && failed.contains("ERRNO=98"), "{failed}");

    let (status, said) = end(child);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("deadline has passed"), "{said}");
    assert!(godebug_api::clock::now().boot_ms >= config.deadline.boot_ms, "it ended before");
    assert!(!said.contains("PRIVATE KEY"), "{said}");
    assert!(!control.exists());
}

#[tokio::test]
async fn sigterm_ends_it_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let notify_path = folder.path().join("notify");
    let notify = UnixDatagram::bind(&notify_path).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let authority = Authority::new();
    let dlv = FakeDlv::start(folder.path(), Answers::Echo);
    let control = folder.path().join("control.sock");
    let config = config(&authority, &dlv, &control, &Setting::default(), free_port());
    let child = start(handed(&serde_json::to_vec(&config).unwrap(), &control), Some(&notify_path));
    assert!(message(&notify).contains("READY=1"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let (status, said) = end(child);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("stopped"), "{said}");
}
