//! One client, from the accepted connection to its last byte: handshake, a place, its first byte,
//! only then dlv, and the relay between them. Any of it ends at once when the session is cut.

use crate::clients::Listed;
use crate::gateway::Shared;
use crate::guests::{Part, Standing};
use crate::keeper::milliseconds;
use crate::protocol::Protocol;
use crate::relay::{ANSWERS, BUFFER, relay};
use crate::screen::{Person, Screen};
use crate::subject;
use crate::traffic::Traffic;
use crate::transcript::Entry;
use godebug_api::control::BUILD_INFO_CALL;
use rustix::net::sockopt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// A client that has vanished is noticed after 15 + 3 × 5 s of silence, or 30 s of unanswered data.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
const UNACKNOWLEDGED_MS: u32 = 30_000;

/// Serves one connection to its end. `handshake` is the place it takes until it is verified.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    tcp: TcpStream,
    peer: SocketAddr,
    handshake: OwnedSemaphorePermit,
) {
    let admission = admit(&shared, tcp, handshake);
    let admitted = match shared.cut.run_until_cancelled(admission).await {
        None => return,
        Some(Ok(admitted)) => admitted,
        Some(Err(why)) => return shared.refuse(peer, &why),
    };
    let Admitted { mut tls, subject, mut standing, _place } = admitted;
    let listed = shared.clients.list(peer, standing.part);
    shared.totals.accepted.fetch_add(1, Relaxed);
    tracing::info!(%peer, subject, "accepted");

    let start = Instant::now();
    let traffic = Traffic::part_of(Arc::clone(&shared.totals));
    let client = format!("{subject} {peer}");
    let watches = standing.part == Part::Watches;
    shared.transcript.record(&Entry::Connected { client: &client, watches });
    let conversation = converse(&shared, &mut tls, (&client, &listed, &mut standing), &traffic);
    let ended = shared.cut.run_until_cancelled(conversation).await;
    let why = match ended {
        None => {
            // Reset instead of closed: what the kernel still holds for the client is not sent.
            let _ = tls.get_ref().0.set_zero_linger();
            "the session was cut".to_owned()
        }
        Some(Ok(SHUT_OUT)) => {
            let _ = tls.get_ref().0.set_zero_linger();
            SHUT_OUT.to_owned()
        }
        Some(Ok(why)) => why.to_owned(),
        Some(Err(error)) => broken_off(&error),
    };
    let bytes_in = traffic.own.inward.load(Relaxed);
    let bytes_out = traffic.own.outward.load(Relaxed);
    let ms = milliseconds(start.elapsed());
    tracing::info!(%peer, subject, bytes_in, bytes_out, ms, why, "closed");
    shared.transcript.record(&Entry::Disconnected { client: &client, ms, why: &why });
}

/// How a connection ended, for whoever reads the record: not in the words of a library to its users.
fn broken_off(error: &io::Error) -> String {
    match error.kind() {
        // TLS says goodbye; without that nobody knows whether the client had said all.
        io::ErrorKind::UnexpectedEof => "its connection ended without a goodbye".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "its connection was reset".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A client that has shown its certificate and has a place.
struct Admitted {
    tls: TlsStream<TcpStream>,
    subject: String,
    standing: Standing,
    _place: OwnedSemaphorePermit,
}

/// Why one was turned away, for the log.
#[derive(Debug, thiserror::Error)]
enum NotAdmitted {
    #[error("its socket cannot be set up: {0}")]
    Socket(io::Error),
    #[error("no handshake within {0:?}")]
    Slow(Duration),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("as many connections as the session may have are open")]
    Full,
    #[error("its ticket was withdrawn")]
    Withdrawn,
}

async fn admit(
    shared: &Shared,
    tcp: TcpStream,
    handshake: OwnedSemaphorePermit,
) -> Result<Admitted, NotAdmitted> {
    tune(&tcp).map_err(|errno| NotAdmitted::Socket(errno.into()))?;
    let mut tls = timeout(shared.limits.handshake, shared.guests.acceptor().accept(tcp))
        .await
        .map_err(|_| NotAdmitted::Slow(shared.limits.handshake))?
        .map_err(NotAdmitted::Tls)?;
    drop(handshake);
    let Ok(place) = Arc::clone(&shared.connections).try_acquire_owned() else {
        // Told in a proper way: it is one of ours, and its IDE shows an end and not an error.
        let _ = timeout(shared.limits.handshake, tls.shutdown()).await;
        return Err(NotAdmitted::Full);
    };
    let connection = tls.get_mut().1;
    connection.set_buffer_limit(Some(ANSWERS));
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let subject = certificate.map_or_else(|| "-".to_owned(), subject::common_name);
    let standing = certificate
        .map_or_else(|| Some(Standing::default()), |own| shared.guests.standing_of(own))
        .ok_or(NotAdmitted::Withdrawn)?;
    Ok(Admitted { tls, subject, standing, _place: place })
}

fn tune(tcp: &TcpStream) -> Result<(), rustix::io::Errno> {
    sockopt::set_tcp_nodelay(tcp, true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(tcp, UNACKNOWLEDGED_MS)
}

/// How it ends for a guest who is not let in any more.
const SHUT_OUT: &str = "its ticket was withdrawn";

/// Speaks for the client to dlv; returns how it ended.
async fn converse(
    shared: &Shared,
    tls: &mut TlsStream<TcpStream>,
    (client, listed, standing): (&str, &Listed<'_>, &mut Standing),
    traffic: &Traffic,
) -> io::Result<&'static str> {
    let mut opening = vec![0; BUFFER];
    let leave = standing.leave.clone();
    let Some(read) = leave.run_until_cancelled(tls.read(&mut opening)).await else {
        return Ok(SHUT_OUT);
    };
    let count = read?;
    opening.truncate(count);
    let Some(first) = opening.first() else {
        tls.shutdown().await?;
        return Ok("it said nothing");
    };
    if opening == BUILD_INFO_CALL.as_bytes() {
        let told = async {
            tls.write_all(&shared.build).await?;
            tls.shutdown().await
        };
        // One that does not read keeps its place no longer than that.
        return match timeout(shared.limits.close_grace, told).await {
            Ok(told) => told.map(|()| "it asked how the program was built"),
            Err(_) => Ok("it did not hear how the program was built"),
        };
    }
    let protocol = Protocol::of_first_byte(*first);
    let (line, mut notices) = listed.speaks(protocol);
    let person = Person {
        name: client.to_owned(),
        part: listed.part(),
        hand: shared.release.hand(),
        line,
        keeper: Arc::clone(&shared.keeper),
        transcript: Arc::clone(&shared.transcript),
        values: Arc::clone(&shared.values),
    };
    if protocol == Protocol::Dap {
        shared.keeper.learn_where_it_stands(&shared.debugger_socket).await;
    }
    let mut screen = Screen::new(protocol, shared.mode, person);
    // Not before the client's first byte: dlv keeps a descriptor of every connection that says
    // nothing, and panics, with its breakpoints planted, when it has no more of them.
    match shared.release.begin(shared).await {
        Ok(debugger) => {
            let grace = shared.limits.close_grace;
            let both = (opening, &mut notices);
            let relayed = relay(&mut *tls, debugger, both, &mut screen, (traffic, grace));
            let ended = leave.run_until_cancelled(relayed).await;
            if ended.is_none() {
                // At once: to let the service go can take dlv a while.
                let _ = rustix::net::shutdown(tls.get_ref().0, rustix::net::Shutdown::Both);
                standing.has_left();
            }
            shared.release.end(shared, screen.into_hand()).await;
            match ended {
                None => Ok(SHUT_OUT),
                Some(ended) => ended.map(|()| "both sides have finished"),
            }
        }
        Err(error) => {
            tracing::warn!(%error, "dlv takes no connection");
            let _ = timeout(shared.limits.close_grace, tls.shutdown()).await;
            Ok("dlv took no connection")
        }
    }
}
