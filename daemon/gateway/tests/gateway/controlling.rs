//! The control socket: its bounds and its manners. What its requests do is in `serving.rs`.

use crate::support::{Host, Setting, within};
use godebug_api::control::{LONGEST_LINE, Reply, Request};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const SECONDS: Duration = Duration::from_secs(20);

/// Everything the gateway says to `text`, until it closes.
async fn answer_to(host: &Host, text: &[u8]) -> String {
    let mut stream = UnixStream::connect(&host.control).await.unwrap();
    let _ = stream.write_all(text).await;
    let mut answer = String::new();
    let _ = within(SECONDS, stream.read_to_string(&mut answer)).await;
    answer
}

#[tokio::test]
async fn it_is_not_for_everybody() {
    let host = Host::start(Setting::default()).await;
    let mode = std::fs::metadata(&host.control).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[tokio::test]
async fn several_requests_may_share_a_connection() {
    let host = Host::start(Setting::default()).await;
    let line = serde_json::to_string(&Request::Status).unwrap();
    let answer = answer_to(&host, format!("{line}\n{line}\n").as_bytes()).await;
    let replies: Vec<Reply> =
        answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(replies.len(), 2);
    assert!(matches!(&replies[0], Reply::Status { cut: false, clients, .. } if clients.is_empty()));
}

#[tokio::test]
async fn nonsense_is_answered_and_changes_nothing() {
    let host = Host::start(Setting::default()).await;
    for text in ["\n", "{}\n", "{\"request\":\"kill\"}\n", "\u{0}\n", "[[[[[[[[\n"] {
        let answer = answer_to(&host, text.as_bytes()).await;
        assert!(answer.starts_with("{\"reply\":\"refused\""), "{text:?}: {answer}");
    }
    let long = answer_to(&host, &vec![b'x'; LONGEST_LINE * 4]).await;
    assert!(long.is_empty() || long.contains("at most"), "{long}");
    assert!(matches!(host.ask(&Request::Status).await, Reply::Status { cut: false, .. }));
}

#[tokio::test]
async fn idle_and_too_many_connections_are_closed() {
    let host = Host::start(Setting::default()).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(UnixStream::connect(&host.control).await.unwrap());
    }
    let status = b"{\"request\":\"status\"}\n";
    assert_eq!(answer_to(&host, status).await, "");
    // Each had its time; then there is room again.
    for stream in &mut idle {
        assert_eq!(within(SECONDS, stream.read(&mut [0; 1])).await.unwrap(), 0);
    }
    within(SECONDS, async { while answer_to(&host, status).await.is_empty() {} }).await;
}
