//! Who gets through the gateway, and how a connection lives and ends.

use crate::support::{
    Answers, Authority, FakeDlv, Host, PING, Setting, build, config, given, until, within,
};
use godebug_api::control::{BUILD_INFO_CALL, BuildInfoAnswer, Reply, Request};
use godebug_gateway::{End, Gateway, OpenError};
use rustls::ClientConfig;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SHORT: Duration = Duration::from_millis(100);
const SECONDS: Duration = Duration::from_secs(20);

fn with_handshake(handshake: Duration) -> Setting {
    let mut setting = Setting::default();
    setting.limits.handshake = handshake;
    setting
}

#[tokio::test]
async fn the_right_certificate_relays_and_each_half_closes_by_itself() {
    let host = Host::start(Setting::default()).await;
    let mut client = host.talking_client().await;
    let connection = client.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = connection.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(connection.tls13_tickets_received(), 0);

    let text = "7".repeat(1_000_000);
    let long = format!(
        "{{\"method\":\"RPCServer.GetVersion\",\"params\":[{{\"x\":\"{text}\"}}],\"id\":1}}\n"
    );
    let long = long.into_bytes();
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let mut answer = vec![0; long.len()];
    let (read, written) = tokio::join!(reader.read_exact(&mut answer), async {
        writer.write_all(&long).await?;
        writer.flush().await
    });
    read.unwrap();
    written.unwrap();
    assert_eq!(answer, long);

    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    // Ok and not an error about truncation: the gateway sent close_notify.
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"{\"bye\":1}\n");
    until(|| host.dlv.open() == 0).await;
    assert_eq!(host.stop().await, End::Stopped);
}

#[tokio::test]
async fn both_families_are_served_each_by_its_own_listener() {
    let sources = &["127.0.0.1", "::1"];
    let host = Host::start(Setting { sources, ..Setting::default() }).await;
    drop(host.talking_client().await);
    let tcp = TcpStream::connect(("::1", host.port)).await.unwrap();
    let mut client = host.over(tcp, host.authority.client()).await.unwrap();
    client.write_all(PING).await.unwrap();
    client.read_exact(&mut [0; PING.len()]).await.unwrap();

    let host = Host::start(Setting { sources: &["::1"], ..Setting::default() }).await;
    assert!(TcpStream::connect(("127.0.0.1", host.port)).await.is_err());
}

/// Whatever `client` is, it must not get through: no byte to it, no connection to dlv.
async fn is_kept_out(host: &Host, client: ClientConfig) {
    let before = host.refused().await;
    let outcome = async {
        let mut stream = host.connect(client).await?;
        // In TLS 1.3 a client learns of its refusal only after it thinks it is connected.
        stream.write_all(PING).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        assert!(answer.is_empty());
        std::io::Result::<()>::Err(std::io::Error::other("it got through"))
    };
    let error = within(SECONDS, outcome).await.unwrap_err().to_string();
    assert_ne!(error, "it got through");
    let counted = async { while host.refused().await == before {} };
    within(SECONDS, counted).await;
    assert_eq!(host.refused().await, before + 1, "{error}");
    assert_eq!((host.dlv.connections(), host.dlv.bytes()), (0, 0));
}

#[tokio::test]
async fn nobody_else_gets_a_byte_through() {
    let host = Host::start(Setting::default()).await;
    let authority = &host.authority;
    is_kept_out(&host, authority.without_certificate()).await;
    is_kept_out(&host, authority.with_certificate_of(&Authority::new())).await;
    is_kept_out(&host, authority.expired()).await;
    is_kept_out(&host, authority.with_a_servers_certificate()).await;
    is_kept_out(&host, authority.older_tls()).await;
    // The right client still gets in.
    drop(host.talking_client().await);
    assert_eq!(host.dlv.connections(), 1);
}

#[tokio::test]
async fn plain_bytes_get_no_further() {
    let host = Host::start(Setting::default()).await;
    let texts: [&[u8]; 3] = [
        b"{\"method\":\"RPCServer.State\",\"params\":[{}],\"id\":1}\n",
        b"Content-Length: 2\r\n\r\n{}",
        &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0],
    ];
    for text in texts {
        let mut tcp = host.tcp().await;
        tcp.write_all(text).await.unwrap();
        let mut answer = Vec::new();
        let _ = within(SECONDS, tcp.read_to_end(&mut answer)).await;
        assert!(answer.len() <= 7, "more than a TLS alert: {answer:?}");
    }
    assert_eq!((host.dlv.connections(), host.dlv.bytes()), (0, 0));
}

#[tokio::test]
async fn a_peer_from_elsewhere_is_reset_before_anything_is_read() {
    // 127.0.0.2 makes it listen on loopback; the test's clients come from 127.0.0.1.
    let host = Host::start(Setting { sources: &["127.0.0.2", "10.0.0.0/8"], ..Setting::default() });
    let host = host.await;
    let mut tcp = host.tcp().await;
    let mut answer = Vec::new();
    let outcome = within(SECONDS, tcp.read_to_end(&mut answer)).await;
    assert!(outcome.is_err() && answer.is_empty(), "{outcome:?} {answer:?}");
    assert_eq!(host.refused().await, 1);
    assert_eq!(host.dlv.connections(), 0);
}

#[tokio::test]
async fn dlv_is_not_dialed_before_the_client_speaks() {
    let host = Host::start(Setting::default()).await;
    let mut client = host.client().await;
    tokio::time::sleep(SHORT).await;
    assert_eq!(host.dlv.connections(), 0);
    client.write_all(PING).await.unwrap();
    until(|| host.dlv.bytes() == PING.len() as u64).await;

    let mut silent = host.client().await;
    silent.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within(SECONDS, silent.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(host.dlv.connections(), 1);
}

#[tokio::test]
async fn a_step_session_is_told_no_in_its_own_protocol_and_goes_on() {
    let host = Host::start(Setting::default()).await;
    let mut client = host.talking_client().await;
    let before = host.dlv.bytes();
    client
        .write_all(b"{\"method\":\"RPCServer.Set\",\"params\":[{\"Symbol\":\"x\"}],\"id\":7}")
        .await
        .unwrap();
    let mut answer = vec![0; 4096];
    let count = within(SECONDS, client.read(&mut answer)).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer[..count]).unwrap();
    assert_eq!((&answer["id"], &answer["result"]), (&7.into(), &serde_json::Value::Null));
    assert!(answer["error"].as_str().unwrap().contains("--mode modify"), "{answer}");
    client.write_all(PING).await.unwrap();
    client.read_exact(&mut [0; PING.len()]).await.unwrap();
    assert_eq!(host.dlv.bytes(), before + PING.len() as u64);
}

#[tokio::test]
async fn a_client_that_cannot_be_understood_is_closed_and_dlv_hears_nothing_of_it() {
    let host = Host::start(Setting::default()).await;
    let texts: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"Content-Length: 9999999999\r\n\r\n",
        b"{\"method\":\"RPCServer.State\",\"Method\":\"RPCServer.Set\",\"params\":[],\"id\":1}",
        b"[]",
    ];
    for text in texts {
        let mut client = host.client().await;
        client.write_all(text).await.unwrap();
        let mut answer = Vec::new();
        let _ = within(SECONDS, client.read_to_end(&mut answer)).await;
    }
    assert_eq!(host.dlv.bytes(), 0);
    drop(host.talking_client().await);
}

/// Halts the target and goes.
async fn leaves_it_standing(host: &Host) {
    let halt = b"{\"method\":\"RPCServer.Command\",\"params\":[{\"name\":\"halt\"}],\"id\":1}";
    let mut client = host.client().await;
    client.write_all(halt).await.unwrap();
    until(|| host.dlv.connections() > 0).await;
    drop(client.into_inner().0);
}

#[tokio::test]
async fn a_dlv_that_does_not_let_go_ends_the_gateway_and_with_it_the_session() {
    for answers in [Answers::Nothing, Answers::Echo, Answers::Flood] {
        let host = Host::start(Setting { answers, ..Setting::default() }).await;
        leaves_it_standing(&host).await;
        assert_eq!(host.ended().await, End::Stuck, "{answers:?}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_is_closed_towards_dlv() {
    let host = Host::start(Setting::default()).await;
    let client = host.talking_client().await;
    assert_eq!(host.dlv.open(), 1);
    // The TCP connection ends without close_notify.
    drop(client.into_inner().0);
    until(|| host.dlv.open() == 0).await;
    until(|| host.transcript().iter().any(|line| line["event"] == "disconnected")).await;
    let lines = host.transcript();
    let left = lines.iter().find(|line| line["event"] == "disconnected").unwrap();
    assert_eq!(left["why"], "its connection ended without a goodbye");
}

#[tokio::test]
async fn a_client_is_told_when_dlv_has_gone() {
    let host = Host::start(Setting::default()).await;
    std::fs::remove_file(&host.dlv.path).unwrap();
    let mut client = host.client().await;
    client.write_all(b"x").await.unwrap();
    let mut answer = Vec::new();
    within(SECONDS, client.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty());
}

#[tokio::test]
async fn the_deadline_cuts_a_transfer() {
    let ttl = Duration::from_secs(2);
    let start = Instant::now();
    let host = Host::start(Setting { ttl, answers: Answers::Flood, ..Setting::default() }).await;
    let mut client = host.client().await;
    client.write_all(PING).await.unwrap();
    let mut buffer = vec![0; 16384];
    let mut received = 0;
    let error = loop {
        match within(SECONDS, client.read(&mut buffer)).await {
            Ok(0) => panic!("closed as if it had finished"),
            Ok(count) => received += count,
            Err(error) => break error,
        }
    };
    let took = start.elapsed();
    assert!(received > 1_000_000, "{received}");
    assert!((ttl..SECONDS).contains(&took), "{took:?} {error}");
    let dlv_open = host.dlv.open();
    assert_eq!(host.ended().await, End::Deadline);
    assert!(dlv_open <= 1);
}

#[tokio::test]
async fn the_deadline_can_come_nearer_and_go_further() {
    let ttl = Duration::from_secs(2);
    let host = Host::start(Setting { ttl, ..Setting::default() }).await;
    let mut client = host.talking_client().await;
    host.set_ttl(Duration::from_secs(600)).await;
    tokio::time::sleep(ttl + SHORT).await;
    client.write_all(PING).await.unwrap();
    client.read_exact(&mut [0; PING.len()]).await.unwrap();

    host.set_ttl(Duration::from_millis(150)).await;
    within(SECONDS, client.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(host.ended().await, End::Deadline);
}

#[tokio::test]
async fn a_deadline_in_the_past_ends_it_now() {
    let host = Host::start(Setting::default()).await;
    host.set_ttl(Duration::ZERO).await;
    assert_eq!(host.ended().await, End::Deadline);
}

#[tokio::test]
async fn cut_is_answered_when_every_connection_to_dlv_is_closed() {
    let mut setting = Setting::default();
    // Whoever is cut is not waited for.
    setting.limits.close_grace = Duration::from_secs(600);
    let host = Host::start(setting).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(host.talking_client().await);
    }
    let silent = host.client().await;
    let slow = host.tcp().await;
    assert_eq!(host.dlv.open(), 3);
    let start = Instant::now();
    assert_eq!(host.ask(&Request::Cut).await, Reply::Done);
    assert!(start.elapsed() < SECONDS, "{:?}", start.elapsed());
    until(|| host.dlv.open() == 0).await;
    for client in &mut clients {
        within(SECONDS, client.read(&mut [0; 1])).await.unwrap_err();
    }
    drop((silent, slow));
    let port = ("127.0.0.1", host.port);
    assert!(TcpStream::connect(port).await.is_err(), "it still listens");
    match host.ask(&Request::Status).await {
        Reply::Status { clients, accepted, cut, bytes_in, bytes_out, .. } => {
            assert!(clients.is_empty() && cut);
            let bytes = 3 * PING.len() as u64;
            assert_eq!((accepted, bytes_in, bytes_out), (4, bytes, bytes));
        }
        other => panic!("{other:?}"),
    }
    // Once more does no harm, and the end still comes.
    assert_eq!(host.ask(&Request::Cut).await, Reply::Done);
    assert!(!host.has_ended());
    assert_eq!(host.stop().await, End::Stopped);
}

#[tokio::test]
async fn a_slow_handshake_is_dropped() {
    let handshake = Duration::from_millis(400);
    let host = Host::start(with_handshake(handshake)).await;
    let start = Instant::now();
    let mut tcp = host.tcp().await;
    tcp.write_all(&[0x16, 3, 1]).await.unwrap();
    let _ = within(SECONDS, tcp.read(&mut [0; 1])).await;
    let took = start.elapsed();
    assert!((handshake..SECONDS).contains(&took), "{took:?}");
    assert_eq!(host.refused().await, 1);
}

#[tokio::test]
async fn no_more_handshakes_at_once_than_allowed_and_the_others_wait() {
    let handshake = Duration::from_secs(1);
    let host = Host::start(Setting { max_handshakes: 2, ..with_handshake(handshake) }).await;
    let start = Instant::now();
    let hold = [host.tcp().await, host.tcp().await];
    // It gets its turn when the two are thrown out.
    drop(within(SECONDS, host.talking_client()).await);
    assert!(start.elapsed() >= handshake, "{:?}", start.elapsed());
    drop(hold);
    assert_eq!(host.refused().await, 2);
}

#[tokio::test]
async fn no_more_connections_at_once_than_allowed() {
    let host = Host::start(Setting { max_connections: 2, ..Setting::default() }).await;
    let first = host.talking_client().await;
    let _second = host.talking_client().await;
    let mut third = host.client().await;
    let mut answer = Vec::new();
    within(SECONDS, third.read_to_end(&mut answer)).await.unwrap();
    assert_eq!((host.dlv.connections(), host.refused().await), (2, 1));
    drop(first);
    until(|| host.dlv.open() == 1).await;
    drop(host.talking_client().await);
}

#[tokio::test]
async fn whoever_asks_how_the_program_was_built_is_told_and_dlv_hears_nothing_of_it() {
    let host = Host::start(Setting::default()).await;
    let mut client = host.client().await;
    client.write_all(BUILD_INFO_CALL.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(SECONDS, client.read_to_string(&mut answer)).await.unwrap();
    let answer: BuildInfoAnswer = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer.result, Some(build()));
    assert_eq!(host.dlv.connections(), 0);
    // One without the right certificate is not.
    is_kept_out(&host, host.authority.without_certificate()).await;
    let lines = host.transcript();
    let left = lines.iter().find(|line| line["event"] == "disconnected").unwrap();
    assert_eq!(left["why"], "it asked how the program was built");
}

#[tokio::test]
async fn a_port_in_use_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let dlv = FakeDlv::start(folder.path(), Answers::Echo);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let control = folder.path().join("control.sock");
    let config = config(&authority, &dlv, &control, &Setting::default(), port);
    let Err(error) = Gateway::open(given(config), Setting::default().limits) else {
        panic!("it opened")
    };
    assert!(error.to_string().contains(&format!("port {port} is in use")), "{error}");
    assert_eq!(error.errno(), Some(98));
    assert!(matches!(error, OpenError::Listen(_)));
}

#[tokio::test]
async fn the_transcript_tells_who_came_and_what_they_asked() {
    let host = Host::start(Setting::default()).await;
    let mut client = host.talking_client().await;
    let set = b"{\"method\":\"RPCServer.Set\",\"params\":[{\"Symbol\":\"x\",\"Value\":\"SECRET\"}],\"id\":2}\n";
    client.write_all(set).await.unwrap();
    let eval = b"{\"method\":\"RPCServer.Eval\",\"params\":[{\"Expr\":\"o.Id\"}],\"id\":3}\n";
    client.write_all(eval).await.unwrap();
    client.shutdown().await.unwrap();
    client.read_to_end(&mut Vec::new()).await.unwrap();
    until(|| host.dlv.open() == 0).await;
    let told = |lines: &[serde_json::Value], event: &str| {
        lines.iter().filter(|line| line["event"] == event).cloned().collect::<Vec<_>>()
    };
    let lines = host.transcript();
    assert_eq!(told(&lines, "begun")[0]["session"], "0123abcd");
    let connected = told(&lines, "connected");
    assert!(connected[0]["client"].as_str().unwrap().starts_with("alice 127.0.0.1:"));
    let operations = told(&lines, "operation");
    let said: Vec<_> = operations
        .iter()
        .map(|one| format!("{} {} {}", one["operation"], one["subject"], one["outcome"]))
        .collect();
    assert_eq!(said, [r#""set" "x" "refused""#, r#""evaluate" "o.Id" "allowed""#]);
    assert!(operations[0]["why"].as_str().unwrap().contains("changes the process"));
    assert!(!format!("{lines:?}").contains("SECRET"), "no value is in it");
}
