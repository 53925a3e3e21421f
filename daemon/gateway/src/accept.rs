//! Takes connections off the listening sockets, turns away those from elsewhere before a byte of
//! them is read, and hands on the others, no more at once than may be in a handshake.

use crate::connection;
use crate::gateway::Shared;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts until the session is cut; the listeners are closed when this returns.
pub(crate) async fn accept_until_cut(shared: Arc<Shared>, listeners: Vec<TcpListener>) {
    shared.cut.run_until_cancelled(accept(&shared, &listeners)).await;
}

async fn accept(shared: &Arc<Shared>, listeners: &[TcpListener]) {
    let mut pause = SHORTEST_PAUSE;
    // The place comes before the connection: what finds none waits in the kernel and costs nothing.
    while let Ok(place) = Arc::clone(&shared.handshakes).acquire_owned().await {
        match std::future::poll_fn(|context| poll_any(listeners, context)).await {
            Ok((tcp, peer)) => {
                pause = SHORTEST_PAUSE;
                hand_on(shared, tcp, peer, place);
            }
            Err(error) => {
                // Out of descriptors, mostly; trying at once again would only burn the processor.
                tracing::warn!(%error, ?pause, "cannot accept; trying again after a pause");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn hand_on(shared: &Arc<Shared>, tcp: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
    if !shared.sources.iter().any(|source| source.contains(peer.ip())) {
        // Reset: a stranger gets no byte and leaves no state behind in the kernel.
        let _ = tcp.set_zero_linger();
        return shared.refuse(peer, &"its address is not among the session's sources");
    }
    shared.tasks.spawn(connection::serve(Arc::clone(shared), tcp, peer, place));
}

/// At most two listeners, one of each family; which is asked first does not matter, since one
/// connection is taken at a time and the kernel queues the others.
fn poll_any(
    listeners: &[TcpListener],
    context: &mut Context<'_>,
) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    for listener in listeners {
        if let Poll::Ready(accepted) = listener.poll_accept(context) {
            return Poll::Ready(accepted);
        }
    }
    Poll::Pending
}
