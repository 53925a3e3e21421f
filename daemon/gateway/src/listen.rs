//! Makes the listening sockets: one for each family that clients may come from, and on loopback
//! only where no source is further away.

use godebug_api::{Cidr, Port};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpListener;

/// Connections that wait in the kernel while all handshakes are taken.
const BACKLOG: i32 = 128;

/// Why the port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("port {0} is in use; close what listens there (`ss -ltnp`) or name another port")]
    InUse(Port),
    #[error("cannot listen on {address}: {error}")]
    Other { address: SocketAddr, error: std::io::Error },
}

impl ListenError {
    /// The system's error number, for systemd's StatusErrno.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::InUse(_) => Some(rustix::io::Errno::ADDRINUSE.raw_os_error()),
            Self::Other { error, .. } => error.raw_os_error(),
        }
    }
}

/// Listens on `port` for clients that may come from `sources`.
pub(crate) fn listen(sources: &[Cidr], port: Port) -> Result<Vec<TcpListener>, ListenError> {
    let sockets = addresses(sources).into_iter().map(|ip| SocketAddr::new(ip, port.get()));
    sockets
        .map(|address| {
            bind(address).map_err(|error| match error.kind() {
                std::io::ErrorKind::AddrInUse => ListenError::InUse(port),
                _ => ListenError::Other { address, error },
            })
        })
        .collect()
}

/// The addresses to listen on: for each family the widest that is needed.
fn addresses(sources: &[Cidr]) -> Vec<IpAddr> {
    let choose = |ipv4: bool, loopback: IpAddr, any: IpAddr| {
        let mut of_family = sources.iter().filter(|cidr| cidr.is_ipv4() == ipv4).peekable();
        of_family.peek()?;
        Some(if of_family.all(Cidr::is_loopback) { loopback } else { any })
    };
    let ipv4 = choose(true, Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into());
    let ipv6 = choose(false, Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
    ipv4.into_iter().chain(ipv6).collect()
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // The next session may take the port while the last one's connections are in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // Otherwise [::] would take IPv4 as well, which no source asked for.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wider_than_the_sources() {
        let chosen = |sources: &[&str]| {
            let sources: Vec<Cidr> = sources.iter().map(|text| text.parse().unwrap()).collect();
            addresses(&sources).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&["127.0.0.1"]), ["127.0.0.1"]);
        assert_eq!(chosen(&["127.0.0.1", "10.0.0.0/8"]), ["0.0.0.0"]);
        assert_eq!(chosen(&["::1"]), ["::1"]);
        assert_eq!(chosen(&["fd00::/8"]), ["::"]);
        assert_eq!(chosen(&["fd00::/8", "10.1.2.3"]), ["0.0.0.0", "::"]);
        assert_eq!(chosen(&["::1", "10.1.2.3"]), ["0.0.0.0", "::1"]);
        assert!(chosen(&[]).is_empty());
    }
}
