//! Who is at the other end of a local connection.
//!
//! The local port has no password, and on a shared host every user can reach it. The kernel's table
//! of connections tells which user owns the other end.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What `/proc/self/loginuid` says when nobody has logged in.
const NO_LOGIN: u32 = u32::MAX;

/// One end of a connection in the kernel's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    uid: u32,
    /// Zero when no process holds the socket any more.
    inode: u64,
}

/// The users who may use this process's local port.
#[derive(Debug, Clone)]
pub(crate) struct Allowed(BTreeSet<u32>);

impl Allowed {
    /// Whoever runs this process; when that is root, also the person who became root to run it,
    /// whose IDE or ssh forwarding is the one that connects.
    pub(crate) fn here() -> Self {
        let me = rustix::process::geteuid();
        let mut users = BTreeSet::from([me.as_raw()]);
        if me.is_root() {
            let sudo = std::env::var("SUDO_UID").ok();
            let login = std::fs::read_to_string("/proc/self/loginuid").ok();
            let uids = [sudo, login]
                .into_iter()
                .flatten()
                .filter_map(|text| text.trim().parse::<u32>().ok());
            users.extend(uids.filter(|uid| *uid != NO_LOGIN));
        }
        Self(users)
    }

    /// Whether the other end of the connection from `peer` to `here` belongs to one of them.
    pub(crate) async fn owns(&self, peer: SocketAddr, here: SocketAddr) -> bool {
        let Some(first) = look_up(peer, here).await else { return false };
        if !self.0.contains(&first.uid) {
            return false;
        }
        // A socket whose owner has closed it is shown as root's, without an inode. So root must be
        // there, the same, at a second look: it cannot have been closing at the first one then.
        first.uid != 0
            || (first.inode != 0 && look_up(peer, here).await.is_some_and(|entry| entry == first))
    }
}

async fn look_up(peer: SocketAddr, here: SocketAddr) -> Option<Entry> {
    let table = if peer.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    find(&tokio::fs::read_to_string(table).await.ok()?, peer, here)
}

/// The entry of the socket whose own address is `peer` and whose other end is `here`.
fn find(table: &str, peer: SocketAddr, here: SocketAddr) -> Option<Entry> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
        if local != (peer.ip(), peer.port()) || remote != (here.ip(), here.port()) {
            return None;
        }
        let uid = fields.nth(4)?.parse().ok()?;
        let inode = fields.nth(1)?.parse().ok()?;
        Some(Entry { uid, inode })
    })
}

/// `0100007F:0929`: each word of the address in the machine's byte order, in hexadecimal.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let digits = address.get(8 * index..8 * index + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for index in 0..4 {
                bytes[4 * index..4 * index + 4].copy_from_slice(&word(index)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0929 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 x
   1: 0100007F:C350 0100007F:0929 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 x
   2: 0100007F:0929 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 3 1 x
";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_other_end_is_found_and_not_our_own() {
        let (peer, here) = ("127.0.0.1:50000".parse().unwrap(), "127.0.0.1:2345".parse().unwrap());
        assert_eq!(find(TABLE, peer, here), Some(Entry { uid: 1000, inode: 2 }));
        assert_eq!(find(TABLE, "127.0.0.1:50001".parse().unwrap(), here), None);
        assert_eq!(find("", peer, here), None);
    }

    #[tokio::test]
    async fn the_kernel_tells_whose_connection_it_is() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(loopback).await else { continue };
            let here = listener.local_addr().unwrap();
            let client = TcpStream::connect(here).await.unwrap();
            let (_server, peer) = listener.accept().await.unwrap();
            assert!(Allowed::here().owns(peer, here).await, "{loopback}");
            let others = Allowed(BTreeSet::from([4_000_000_000]));
            assert!(!others.owns(peer, here).await, "{loopback}");
            drop(client);
            // Closed: whoever it was, it is not known any more.
            let root = Allowed(BTreeSet::from([0]));
            assert!(!root.owns(peer, here).await, "{loopback}");
        }
    }
}
