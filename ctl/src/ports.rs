//! The local port that the IDE connects to.

use crate::cli::Listen;
use godebug_api::Refusal;
use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// The port that people and IDEs expect, and the last that is tried in its place.
pub(crate) const DEFAULT: u16 = 2345;
const LAST: u16 = 2399;

/// A listening local port.
pub(crate) struct LocalPort {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
    /// It is not the port that was expected, since that one is taken.
    pub(crate) moved: bool,
}

/// Binds the port that was asked for, and no other.
///
/// # Errors
/// When it is taken, or may not be bound.
pub(crate) async fn bind_this(listen: Listen) -> Result<LocalPort, Refusal> {
    let wanted = listen.address();
    local(TcpListener::bind(wanted).await, false).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => Refusal::failed(
            format!("the local port {wanted} is taken by another program"),
            "name another one with --listen, or leave --listen out to get the next free one",
        ),
        _ => Refusal::failed(format!("the local port {wanted} cannot be used: {error}"), ""),
    })
}

/// Binds the first free port from the default one up: another session's gateway may own the first.
///
/// # Errors
/// When all are taken.
pub(crate) async fn bind_free() -> Result<LocalPort, Refusal> {
    for port in DEFAULT..=LAST {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        if let Ok(bound) = local(bound, port != DEFAULT) {
            return Ok(bound);
        }
    }
    Err(Refusal::failed(
        format!("every local port from {DEFAULT} to {LAST} is taken"),
        "name a free one with --listen 127.0.0.1:PORT",
    ))
}

fn local(bound: Result<TcpListener, Error>, moved: bool) -> Result<LocalPort, Error> {
    let listener = bound?;
    let address = listener.local_addr()?;
    Ok(LocalPort { listener, address, moved })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_refused_when_named_and_passed_over_when_not() {
        let first = bind_free().await.unwrap();
        let named: Listen = first.address.to_string().parse().unwrap();
        let Err(refusal) = bind_this(named).await else { panic!("bound twice") };
        assert!(refusal.message.contains("taken"), "{refusal}");
        let second = bind_free().await.unwrap();
        assert!(second.moved && second.address != first.address);
    }
}
