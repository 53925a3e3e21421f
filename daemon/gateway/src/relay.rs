//! Carries messages between one client and dlv, both ways, through the `Screen` that understands
//! them.
//!
//! Whoever calls this cuts a connection by dropping the future: it owns dlv's socket, and holds no
//! byte back except the few in its buffers and the message that is not whole yet.

use crate::line::Notice;
use crate::screen::{Inward, Outward, Screen};
use crate::traffic::Traffic;
use std::io;
use std::pin::pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc};

/// Bytes from the client that are held at most, beside a message that is not whole.
pub(crate) const BUFFER: usize = 16 * 1024;
/// Bytes from dlv, likewise, and then again encrypted: sixteen of TLS's records, which go out in one
/// system call and wake the client once.
pub(crate) const ANSWERS: usize = 256 * 1024;

/// For how long the next message is looked for. dlv answers much of what an IDE asks at a stop sooner, and its own client
/// asks on sooner.
const LOOK: Duration = Duration::from_micros(100);

/// Relays until both sides have finished, or one has broken off, or one has finished and the other
/// stays silent for `grace`. `opening` is what the client has already said, `notices` what others in the
/// gateway say to either side.
pub(crate) async fn relay(
    client: impl AsyncRead + AsyncWrite + Unpin,
    mut debugger: UnixStream,
    (opening, notices): (Vec<u8>, &mut mpsc::Receiver<Notice>),
    screen: &mut Screen,
    (traffic, grace): (&Traffic, Duration),
) -> io::Result<()> {
    let (client_reader, client_writer) = tokio::io::split(client);
    // The one's messages and our own: a message of one never stands within one of the other.
    let client_writer = Mutex::new(client_writer);
    let (debugger_reader, debugger_writer) = debugger.split();
    let debugger_writer = Mutex::new(debugger_writer);
    let Screen { inward: ask, outward: answer } = screen;
    let client = (client_reader, &client_writer);
    let mut inward = pin!(inward(client, &debugger_writer, opening, ask, traffic));
    let mut outward = pin!(outward(debugger_reader, &client_writer, answer, traffic));
    tokio::select! {
        ended = &mut inward => {
            ended?;
            unless_silent(outward, traffic, grace).await
        }
        ended = &mut outward => {
            ended?;
            unless_silent(inward, traffic, grace).await
        }
        ended = pass_on(notices, &client_writer, &debugger_writer) => ended,
    }
}

/// Passes on what others in the gateway say, for as long as the connection lives.
async fn pass_on<C: AsyncWrite + Unpin, D: AsyncWrite + Unpin>(
    notices: &mut mpsc::Receiver<Notice>,
    client: &Mutex<C>,
    debugger: &Mutex<D>,
) -> io::Result<()> {
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::ToClient(bytes) => forward(&mut *client.lock().await, &bytes).await?,
            Notice::ToDebugger(bytes) => forward(&mut *debugger.lock().await, &bytes).await?,
        }
    }
    // Whoever says something has a part in the connection, so it cannot end before.
    std::future::pending().await
}

/// From the client to dlv, until the client says that it has finished.
///
/// When dlv no longer takes what the client says, the rest is read and dropped: closing a TCP
/// socket with unread bytes resets it, and the client would lose dlv's last answer.
async fn inward<W: AsyncWrite + Unpin, D: AsyncWrite + Unpin>(
    (mut client, answers): (impl AsyncRead + Unpin, &Mutex<W>),
    debugger: &Mutex<D>,
    opening: Vec<u8>,
    screen: &mut Inward,
    traffic: &Traffic,
) -> io::Result<()> {
    let mut buffer = opening;
    let mut count = buffer.len();
    let mut listening = true;
    loop {
        if listening {
            let screened = screen.screen(&buffer[..count]);
            traffic.inward(count);
            listening = forward(&mut *debugger.lock().await, &screened.to_debugger).await.is_ok();
            if !screened.to_client.is_empty() {
                forward(&mut *answers.lock().await, &screened.to_client).await?;
            }
            if let Some(why) = screened.broken {
                let _ = answers.lock().await.shutdown().await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        buffer.resize(BUFFER, 0);
        // A client that leaves without TLS's close_notify is an error here, as it should be: what
        // it said may have been cut short by somebody else.
        count = read(&mut client, &mut buffer, true, &traffic.own.outward).await?;
        if count == 0 {
            // Fails only when dlv has gone, which the other direction notices.
            let _ = debugger.lock().await.shutdown().await;
            return Ok(());
        }
    }
}

/// Reads what comes next. After what has just passed somebody mostly says something soon, and to be woken for it costs the
/// client more time than all the rest of what is done here: so it is looked for first, until something has passed the
/// other way. Others have their turn in between. Not in the midst of a long answer (`looks`): whoever makes it and whoever
/// takes it in want the processor then.
async fn read(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    looks: bool,
    other_way: &AtomicU64,
) -> io::Result<usize> {
    static MAY_LOOK: LazyLock<bool> = LazyLock::new(|| {
        // On a single processor nobody could say anything meanwhile. What the standard library has for this reads files
        // of control groups, which the gateway's profile does not let it.
        rustix::thread::sched_getaffinity(None).is_ok_and(|processors| processors.count() > 1)
    });
    let mut read = pin!(from.read(buffer));
    let (before, begun) = (other_way.load(Relaxed), Instant::now());
    while looks && *MAY_LOOK && other_way.load(Relaxed) == before && begun.elapsed() < LOOK {
        tokio::select! {
            biased;
            count = &mut read => return count,
            () = tokio::task::yield_now() => {}
        }
    }
    read.await
}

/// From dlv to the client, until dlv closes; then the client gets close_notify.
async fn outward<W: AsyncWrite + Unpin>(
    mut debugger: impl AsyncRead + Unpin,
    client: &Mutex<W>,
    screen: &mut Outward,
    traffic: &Traffic,
) -> io::Result<()> {
    let mut buffer = vec![0; ANSWERS];
    // Kept within a message that is handed on in pieces: no other one may come in between.
    let mut held = None;
    let mut looks = true;
    loop {
        let count = match read(&mut debugger, &mut buffer, looks, &traffic.own.inward).await {
            // So says a Unix socket whose other end closed with bytes unread; what that end had
            // said came before, so this is an end like any other.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            read => read?,
        };
        if count == 0 {
            drop(held);
            return client.lock().await.shutdown().await;
        }
        let screened = screen.screen(&buffer[..count])?;
        let mut writer = match held.take() {
            Some(writer) => writer,
            None => client.lock().await,
        };
        forward(&mut *writer, &screened).await?;
        traffic.outward(count);
        looks = count < BUFFER;
        held = screen.is_within_a_message().then_some(writer);
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
    use crate::protocol::Protocol;
    use crate::screen::Person;
    use crate::traffic::Totals;
    use godebug_api::Mode;
    use std::sync::Arc;

    // Long enough for a machine that is busy with something else.
    const GRACE: Duration = Duration::from_millis(1000);
    const PING: &[u8] = br#"{"method":"RPCServer.GetVersion","params":[],"id":1}"#;

    /// A relay between the two ends that it returns: the client's and dlv's.
    fn running() -> (tokio::io::DuplexStream, UnixStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (client, inner) = tokio::io::duplex(1024);
        let (debugger, dlv) = UnixStream::pair().unwrap();
        let task = tokio::spawn(async move {
            let traffic = Traffic::part_of(Arc::new(Totals::default()));
            let (person, mut notices) = Person::for_tests(Protocol::JsonRpc);
            let mut screen = Screen::new(Protocol::JsonRpc, Mode::Step, person);
            let said = (PING[..9].to_vec(), &mut notices);
            relay(inner, debugger, said, &mut screen, (&traffic, GRACE)).await
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
        client.write_all(&PING[9..]).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(all(&mut dlv).await.trim_ascii(), PING);
        dlv.write_all(b"{\"answer\":1}\n").await.unwrap();
        drop(dlv);
        assert_eq!(all(&mut client).await, b"{\"answer\":1}\n");
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_dlv_said_last_arrives_although_the_client_goes_on_talking() {
        let (mut client, mut dlv, task) = running();
        dlv.write_all(b"{\"last\":\"words\"}\n").await.unwrap();
        drop(dlv);
        client.write_all(&PING[9..]).await.unwrap();
        for _ in 0..1000 {
            client.write_all(PING).await.unwrap();
        }
        client.shutdown().await.unwrap();
        assert_eq!(all(&mut client).await, b"{\"last\":\"words\"}\n");
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_others_say_stands_between_messages_also_between_the_pieces_of_a_long_one() {
        let (mut client, inner) = tokio::io::duplex(1 << 20);
        let (debugger, mut dlv) = UnixStream::pair().unwrap();
        let (person, mut notices) = Person::for_tests(Protocol::JsonRpc);
        let line = Arc::clone(&person.line);
        let task = tokio::spawn(async move {
            let traffic = Traffic::part_of(Arc::new(Totals::default()));
            let mut screen = Screen::new(Protocol::JsonRpc, Mode::Step, person);
            let said = (PING.to_vec(), &mut notices);
            relay(inner, debugger, said, &mut screen, (&traffic, GRACE)).await
        });
        let long = format!("{{\"id\":1,\"result\":\"{}\",\"error\":null}}\n", "x".repeat(200_000));
        let (beginning, rest) = long.as_bytes().split_at(100_000);
        dlv.write_all(beginning).await.unwrap();
        // Its beginning comes before its end is there.
        let mut all = vec![0; 65_536];
        client.read_exact(&mut all).await.unwrap();
        line.pass_on(b"{\"notice\":1}\n".to_vec());
        dlv.write_all(rest).await.unwrap();
        drop(dlv);
        let mut text = String::from_utf8(all).unwrap();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with(&long), "something stands within the long answer");
        drop(client);
        let _ = task.await;
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
            dlv.write_all(b"{}\n").await.unwrap();
        }
        drop(dlv);
        assert_eq!(all(&mut client).await, b"{}\n".repeat(5));
        task.await.unwrap().unwrap();
    }
}
