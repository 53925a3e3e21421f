//! Carries bytes between one client and dlv, both ways. Understanding comes here: what decodes
//! dlv's two protocols, holds the session to its mode and writes the transcript stands between the
//! two halves below, and the rest of the gateway need not know.
//!
//! Whoever calls this cuts a connection by dropping the future: it owns dlv's socket, and holds no
//! byte back except the few in its buffers.

use crate::traffic::Traffic;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// Bytes held for each direction, at most.
pub(crate) const BUFFER: usize = 16 * 1024;

/// Relays until both sides have finished, or one has broken off, or one has finished and the other
/// stays silent for `grace`. `opening` is what the client has already said.
pub(crate) async fn relay(
    client: impl AsyncRead + AsyncWrite + Unpin,
    mut debugger: UnixStream,
    opening: Vec<u8>,
    traffic: &Traffic,
    grace: Duration,
) -> io::Result<()> {
    let (client_reader, client_writer) = tokio::io::split(client);
    let (debugger_reader, debugger_writer) = debugger.split();
    let mut inward = pin!(inward(client_reader, debugger_writer, opening, traffic));
    let mut outward = pin!(outward(debugger_reader, client_writer, traffic));
    tokio::select! {
        ended = &mut inward => {
            ended?;
            unless_silent(outward, traffic, grace).await
        }
        ended = &mut outward => {
            ended?;
            unless_silent(inward, traffic, grace).await
        }
    }
}

/// From the client to dlv, until the client says that it has finished.
///
/// When dlv no longer takes what the client says, the rest is read and dropped: closing a TCP
/// socket with unread bytes resets it, and the client would lose dlv's last answer.
async fn inward(
    mut client: impl AsyncRead + Unpin,
    mut debugger: impl AsyncWrite + Unpin,
    opening: Vec<u8>,
    traffic: &Traffic,
) -> io::Result<()> {
    let mut listening = forward(&mut debugger, &opening).await.is_ok();
    traffic.inward(opening.len());
    drop(opening);
    let mut buffer = vec![0; BUFFER];
    loop {
        // A client that leaves without TLS's close_notify is an error here, as it should be: what
        // it said may have been cut short by somebody else.
        let count = client.read(&mut buffer).await?;
        if count == 0 {
            // Fails only when dlv has gone, which the other direction notices.
            let _ = debugger.shutdown().await;
            return Ok(());
        }
        if listening {
            listening = forward(&mut debugger, &buffer[..count]).await.is_ok();
            traffic.inward(count);
        }
    }
}

/// From dlv to the client, until dlv closes; then the client gets close_notify.
async fn outward(
    mut debugger: impl AsyncRead + Unpin,
    mut client: impl AsyncWrite + Unpin,
    traffic: &Traffic,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match debugger.read(&mut buffer).await {
            // So says a Unix socket whose other end closed with bytes unread; what that end had
            // said came before, so this is an end like any other.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            read => read?,
        };
        if count == 0 {
            return client.shutdown().await;
        }
        forward(&mut client, &buffer[..count]).await?;
        traffic.outward(count);
    }
}

async fn forward(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    // TLS may have encrypted and kept them.
    to.flush().await
}

/// Lets the direction that is still open run for as long as bytes pass.
async fn unless_silent(
    rest: impl Future<Output = io::Result<()>> + Unpin,
    traffic: &Traffic,
    grace: Duration,
) -> io::Result<()> {
    let passed = || traffic.own.inward.load(Relaxed) + traffic.own.outward.load(Relaxed);
    let mut rest = rest;
    loop {
        let before = passed();
        match tokio::time::timeout(grace, &mut rest).await {
            Ok(ended) => return ended,
            Err(_) if passed() != before => {}
            Err(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "one side had finished and the other stayed silent",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Totals;
    use std::sync::Arc;

    const GRACE: Duration = Duration::from_millis(200);

    /// A relay between the two ends that it returns: the client's and dlv's.
    fn running() -> (tokio::io::DuplexStream, UnixStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (client, inner) = tokio::io::duplex(1024);
        let (debugger, dlv) = UnixStream::pair().unwrap();
        let task = tokio::spawn(async move {
            let traffic = Traffic::part_of(Arc::new(Totals::default()));
            relay(inner, debugger, b"hello ".to_vec(), &traffic, GRACE).await
        });
        (client, dlv, task)
    }

    async fn all(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn each_side_may_finish_first_and_still_hears_the_other() {
        let (mut client, mut dlv, task) = running();
        client.write_all(b"world").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(all(&mut dlv).await, b"hello world");
        dlv.write_all(b"answer").await.unwrap();
        drop(dlv);
        assert_eq!(all(&mut client).await, b"answer");
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_dlv_said_last_arrives_although_the_client_goes_on_talking() {
        let (mut client, mut dlv, task) = running();
        dlv.write_all(b"last words").await.unwrap();
        drop(dlv);
        for _ in 0..100 {
            client.write_all(&[0; 512]).await.unwrap();
        }
        client.shutdown().await.unwrap();
        assert_eq!(all(&mut client).await, b"last words");
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_silent_side_does_not_pin_the_other() {
        let (mut client, dlv, task) = running();
        client.shutdown().await.unwrap();
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(dlv);
    }

    #[tokio::test]
    async fn a_side_that_still_talks_is_heard_beyond_the_grace() {
        let (mut client, mut dlv, task) = running();
        client.shutdown().await.unwrap();
        for _ in 0..5 {
            tokio::time::sleep(GRACE * 3 / 5).await;
            dlv.write_all(b".").await.unwrap();
        }
        drop(dlv);
        assert_eq!(all(&mut client).await, b".....");
        task.await.unwrap().unwrap();
    }
}
