//! The tunnel against a gateway of its own session, of another one, and against others.

use super::*;
use pki::{Authority, Leaf, SERVER_NAME};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[path = "../../tests/pki/mod.rs"]
mod pki;

const GOOD: i32 = 2100;
const EXPIRED: i32 = 2021;

fn gateway_at(address: SocketAddr, ca: &str, leaf: &Leaf) -> Gateway {
    let credentials = Credentials {
        ca,
        certificate: &leaf.certificate,
        key: &leaf.key,
        server_name: SERVER_NAME,
    };
    Gateway::new("127.0.0.1", address.port(), &credentials).unwrap()
}

/// Says `words` on the local port and gives what comes back.
async fn ask(local: SocketAddr, words: &str) -> String {
    let mut stream = TcpStream::connect(local).await.unwrap();
    stream.write_all(words.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn bytes_pass_both_ways_after_half_a_close_and_for_several_clients() {
    let session = Authority::new();
    let address = session.gateway(&session.leaf(GOOD)).await;
    let gateway = gateway_at(address, &session.ca, &session.leaf(GOOD));
    gateway.probe().await.unwrap();
    let (tunnel, mut events) = Tunnel::new(gateway);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let long = "x".repeat(1 << 20);
    tokio::select! {
        () = tunnel.serve(&listener) => panic!("serving ended"),
        (one, two) = async { tokio::join!(ask(local, "hello"), ask(local, &long)) } => {
            assert_eq!(one, "HELLO");
            assert_eq!(two, long.to_uppercase());
        }
    }
    assert!(matches!(events.recv().await, Some(Event::Connected(_))));
}

#[tokio::test]
async fn the_gateway_of_another_session_gets_nothing() {
    let (ours, other) = (Authority::new(), Authority::new());
    let address = other.gateway(&other.leaf(GOOD)).await;
    let trouble = gateway_at(address, &ours.ca, &ours.leaf(GOOD)).probe().await.unwrap_err();
    assert!(matches!(trouble, Trouble::Impostor(..)), "{trouble}");
}

#[tokio::test]
async fn a_gateway_whose_certificate_has_expired_is_not_trusted() {
    let session = Authority::new();
    let address = session.gateway(&session.leaf(EXPIRED)).await;
    let trouble = gateway_at(address, &session.ca, &session.leaf(GOOD)).probe().await.unwrap_err();
    assert!(trouble.to_string().contains("expired"), "{trouble}");
}

#[tokio::test]
async fn a_certificate_of_another_session_or_from_the_past_is_denied_in_words() {
    let (session, other) = (Authority::new(), Authority::new());
    let address = session.gateway(&session.leaf(GOOD)).await;
    for leaf in [other.leaf(GOOD), session.leaf(EXPIRED)] {
        let trouble = gateway_at(address, &session.ca, &leaf).probe().await.unwrap_err();
        assert!(matches!(trouble, Trouble::Denied(..)), "{trouble}");
        assert_eq!(trouble.into_refusal().code.exit_status(), 3);
    }
}

#[tokio::test]
async fn a_denied_client_on_the_local_port_is_told_to_the_person() {
    let (session, other) = (Authority::new(), Authority::new());
    let address = session.gateway(&session.leaf(GOOD)).await;
    let (tunnel, mut events) = Tunnel::new(gateway_at(address, &session.ca, &other.leaf(GOOD)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let told = async {
        let _client = TcpStream::connect(local).await.unwrap();
        loop {
            if let Some(Event::Failed(trouble)) = events.recv().await {
                return trouble;
            }
        }
    };
    tokio::select! {
        () = tunnel.serve(&listener) => panic!("serving ended"),
        trouble = told => assert!(matches!(trouble, Trouble::Denied(..)), "{trouble}"),
    }
}

#[tokio::test]
async fn a_closed_port_and_a_program_without_tls_are_told_apart() {
    let session = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gateway = gateway_at(address, &session.ca, &session.leaf(GOOD));
    let plain = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    };
    let (trouble, ()) = tokio::join!(gateway.probe(), plain);
    assert!(matches!(trouble, Err(Trouble::Impostor(..))), "{trouble:?}");
    drop(listener);
    assert!(matches!(gateway.probe().await, Err(Trouble::Refused(_))));
}

#[test]
fn credentials_that_are_no_certificates_are_refused() {
    let session = Authority::new();
    let leaf = session.leaf(GOOD);
    let whole = |ca, certificate, key| {
        let credentials = Credentials { ca, certificate, key, server_name: SERVER_NAME };
        Gateway::new("127.0.0.1", 1, &credentials)
    };
    assert!(whole(&session.ca, &leaf.certificate, &leaf.key).is_ok());
    assert!(whole("", &leaf.certificate, &leaf.key).is_err());
    assert!(whole(&session.ca, "", &leaf.key).is_err());
    assert!(whole(&session.ca, &leaf.certificate, "").is_err());
    assert!(whole(&session.ca, &session.leaf(GOOD).certificate, &leaf.key).is_err());
}
