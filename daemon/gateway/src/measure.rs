//! How many requests a second one core decides on and writes down, without network and dlv: decoding, mode,
//! expressions, transcript. `make bench` prints it.

use crate::protocol::{Protocol, dap};
use crate::screen::{Person, Screen};
use crate::transcript::Transcript;
use godebug_api::Mode;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// At least so many; `make bench` says whether that was met.
const AIM: f64 = 100_000.0;
const LONG: Duration = Duration::from_secs(3);

/// What an IDE asks at a stop, and when it sets a breakpoint.
const DAP: [&str; 5] = [
    r#"{"seq":1,"type":"request","command":"stackTrace","arguments":{"threadId":1,"startFrame":0,"levels":20}}"#,
    r#"{"seq":2,"type":"request","command":"scopes","arguments":{"frameId":1000}}"#,
    r#"{"seq":3,"type":"request","command":"variables","arguments":{"variablesReference":1001}}"#,
    r#"{"seq":4,"type":"request","command":"evaluate","arguments":{"expression":"o.Items[1].Name","frameId":1000,"context":"hover"}}"#,
    r#"{"seq":5,"type":"request","command":"setBreakpoints","arguments":{"source":{"path":"/srv/main.go"},"breakpoints":[{"line":7,"condition":"o.ID == 3"}]}}"#,
];
const RPC: [&str; 3] = [
    r#"{"method":"RPCServer.State","params":[{"NonBlocking":true}],"id":1}"#,
    r#"{"method":"RPCServer.Eval","params":[{"Scope":{"GoroutineID":-1,"Frame":0},"Expr":"o.Items[1].Name","Cfg":{"FollowPointers":true,"MaxStringLen":64}}],"id":2}"#,
    r#"{"method":"RPCServer.Stacktrace","params":[{"Id":-1,"Depth":50,"Full":true}],"id":3}"#,
];

fn rate(protocol: Protocol, requests: &[&str]) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let file = File::create(folder.path().join("transcript")).unwrap();
    let (mut person, _notices) = Person::for_tests(protocol);
    person.transcript = Arc::new(Transcript::new(file, "host".to_owned(), "boot".to_owned()));
    let mut screen = Screen::new(protocol, Mode::Step, person);
    let stream: Vec<u8> = requests
        .iter()
        .flat_map(|request| match protocol {
            Protocol::Dap => dap::with_header(request.as_bytes()),
            Protocol::JsonRpc => request.as_bytes().to_vec(),
        })
        .collect();
    let (begun, mut count) = (Instant::now(), 0);
    // As much as a transcript may hold ends it as well.
    while begun.elapsed() < LONG && count < 500_000 {
        let screened = screen.inward.screen(&stream);
        assert!(screened.broken.is_none() && screened.to_client.is_empty());
        count += requests.len();
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

#[test]
#[ignore = "measures; make bench runs it"]
fn decisions() {
    for (protocol, requests) in [(Protocol::Dap, &DAP[..]), (Protocol::JsonRpc, &RPC[..])] {
        let rate = rate(protocol, requests);
        let verdict = if rate >= AIM { "met" } else { "missed" };
        println!(
            "* {}: {rate:.0} requests a second decided on and written down, on one core (at least {AIM}: {verdict})",
            protocol.name()
        );
    }
}
