//! What `godebugctl` says to wrong words and bad tickets: exit status, sentence, and nothing else.
//! No daemon is needed, since none may be asked.
#![allow(clippy::unwrap_used)]

use godebug_api::ticket::{Ticket, VERSION};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_godebugctl"))
        .args(arguments)
        // Whoever asks the bus in spite of the wrong word gets another exit status.
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
        .output()
        .unwrap()
}

/// Runs it, and gives the exit status and the first line of what it complains.
fn complaint(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty(), "{arguments:?} printed {:?}", output.stdout);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.len() < 2000, "{} bytes", text.len());
    (output.status.code().unwrap(), text.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn wrong_words_are_usage_errors() {
    let long = "x".repeat(10_000);
    let cases: &[&[&str]] = &[
        &[],
        &["nonsense"],
        &["attach"],
        &["attach", "shop", "--ttl", "0"],
        &["attach", "shop", "--ttl", "400d"],
        &["attach", "shop", "--ttl", "nonsense"],
        &["attach", "shop", "--from", "nonsense"],
        &["attach", "shop", "--max-freeze", "nonsense"],
        &["attach", "shop", "--max-freeze", "0s"],
        &["attach", "shop", "--max-freeze", "5"],
        &["attach", "shop", "--max-freeze", "2h"],
        &["attach", "shop", "--max-freeze", "-1s"],
        &["attach", "shop", "--from", "0.0.0.0/0"],
        &["attach", "shop", "--mode", "nonsense"],
        &["attach", "shop", "--reason", "a\nb"],
        &["attach", "shop", "--pid", "1"],
        &["attach", "shop", "--ide", "ed"],
        &["attach", "container:"],
        &["attach", "container:../x"],
        &["attach", "user:alice"],
        &["attach", "shop", "--reconnect", "11m"],
        &["--user", "list"],
        &["-H", "web1", "--user", "attach", "container:web"],
        &["toolchain", "add", "../../x"],
        &["toolchain", "add", "1.26.3", "--from", "a", "--package", "b"],
        &["attach", "shop", "--listen", "0.0.0.0:2345"],
        &["attach", "shop", "--endpoint", "a b"],
        &["attach", "shop", "--ticket", "x"],
        &["attach", "a/b"],
        &["attach", "../b"],
        &["attach", "a..b"],
        &["attach", "a\nb"],
        &["attach", "a\u{1b}[2Jb"],
        &["attach", &long],
        &["attach", ""],
        &["attach", "shop.socket"],
        &["attach", "app@"],
        &["attach", "shop", "--symbols", "/nonexistent"],
        &["attach", "shop", "--detach", "--ticket", "/nonexistent/ticket"],
        &["attach", "shop", "--\u{1b}[2Jx"],
        &["show", "not-an-id"],
        &["audit"],
        &["audit", "show"],
        &["audit", "show", "not-an-id"],
        &["audit", "list", "--last", "0"],
        &["audit", "list", "--last", "1001"],
        &["audit", "list", "--last", "\u{1b}[2J"],
        &["audit", "list", "--unit", "a/b"],
        &["stop"],
        &["stop", "0000000a", "--all"],
        &["extend", "0000000a"],
        &["inspect", "a b"],
        &["doctor", "a/b"],
        &[&long],
    ];
    for case in cases {
        let (status, line) = complaint(case);
        assert_eq!(status, 2, "{case:?}: {line}");
        assert!(line.starts_with("error: "), "{case:?}: {line}");
    }
}

#[test]
fn the_sentence_names_the_argument_and_the_reason() {
    let (_, line) = complaint(&["attach", "shop", "--ttl", "0"]);
    assert!(line.contains("--ttl") && line.contains("one second"), "{line}");
    let (_, line) = complaint(&["attach", "shop", "--max-freeze", "0s"]);
    assert!(line.contains("--max-freeze") && line.contains("1ms"), "{line}");
    let (_, line) = complaint(&["attach", "a/b"]);
    assert!(line.contains("<UNIT>") && line.contains("'/'"), "{line}");
    let (_, line) = complaint(&["attach", "shop", "--from", "nonsense"]);
    assert!(line.contains("--from") && line.contains("10.1.0.0/16"), "{line}");
}

#[test]
fn with_json_the_error_is_the_one_document() {
    for arguments in [&["--json", "attach", "a/b"][..], &["list", "--json"], &["--json"]] {
        let output = run(arguments);
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let error = &document["error"];
        assert!(error["message"].is_string() && error["remedy"].is_string(), "{document}");
        assert!(output.stdout.ends_with(b"}\n"));
        assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: "));
    }
}

#[test]
fn without_a_bus_the_host_cannot_do_it() {
    for arguments in
        [&["list"][..], &["doctor"], &["attach", "shop"], &["stop", "--all"], &["audit", "list"]]
    {
        assert_eq!(complaint(arguments).0, 5, "{arguments:?}");
    }
}

#[test]
fn help_and_completion_work_without_anything() {
    let help = run(&["attach", "--help"]);
    assert!(help.status.success() && help.stderr.is_empty());
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completion", shell]);
        assert!(script.status.success(), "{shell}");
        let script = String::from_utf8(script.stdout).unwrap();
        for word in ["attach", "audit", "last"] {
            assert!(script.contains(word), "{shell} does not complete {word}");
        }
    }
}

fn ticket(path: &Path, expires_at: &str) {
    let ticket = Ticket {
        version: VERSION,
        id: "0000000a".parse().unwrap(),
        unit: "shop".parse().unwrap(),
        host: "127.0.0.1".to_owned(),
        port: 2345.try_into().unwrap(),
        server_name: "0000000a.godebug".to_owned(),
        mode: "modify".parse().unwrap(),
        expires_at: expires_at.to_owned(),
        ca: "no CA".to_owned(),
        certificate: "no certificate".to_owned(),
        key: "TOP-SECRET".to_owned(),
    };
    ticket.write(path).unwrap();
}

#[test]
fn bad_tickets_are_refused_and_their_keys_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ticket");
    let name = path.to_str().unwrap();
    let status = || {
        let (status, line) = complaint(&["connect", name]);
        assert!(!line.contains("SECRET"), "{line}");
        status
    };
    assert_eq!(status(), 1, "no file");
    ticket(&path, "2020-01-01T00:00:00Z");
    assert_eq!(status(), 3, "expired");
    ticket(&path, "2100-01-01T00:00:00Z");
    assert_eq!(status(), 2, "damaged certificates");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(status(), 2, "readable by others");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert_eq!(status(), 2, "truncated");
    std::fs::write(&path, text.replace("version = 1", "version = 9")).unwrap();
    assert_eq!(status(), 2, "from the future");
    assert_eq!(complaint(&["connect", directory.path().to_str().unwrap()]).0, 2, "a directory");
}
