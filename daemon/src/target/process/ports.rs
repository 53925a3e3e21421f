//! Which TCP ports of this network namespace somebody listens on, so that a free one can be offered
//! and a gateway be seen to be gone.
//!
//! This chooses a candidate only: what counts is the gateway's own bind, later.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

/// Remote peers decide how many connections there are; a line has 150 to 200 bytes. Behind this
/// bound, ports may be missed, which the bind then finds out.
const LONGEST_TABLE: u64 = 64 * 1024 * 1024;

/// TCP_LISTEN in the kernel's table (include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// Every port that somebody listens on. What remains of connections that are over (TIME_WAIT) does
/// not count: it keeps nobody from listening, and clients could make as much of it as they like.
pub fn tcp_listening_ports() -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match File::open(table) {
            Ok(file) => add_ports(BufReader::new(file.take(LONGEST_TABLE)), &mut ports)?,
            // A kernel without IPv6 has no tcp6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ports)
}

fn add_ports(table: impl BufRead, ports: &mut BTreeSet<u16>) -> io::Result<()> {
    for line in table.lines() {
        ports.extend(parse_listening_port(&line?));
    }
    Ok(())
}

/// The local port of one line, such as `  0: 0100007F:0929 00000000:0000 0A …`, if it listens.
fn parse_listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace();
    fields.next()?.strip_suffix(':')?.parse::<u64>().ok()?;
    let (_, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    u16::from_str_radix(port, 16).ok().filter(|port| *port != 0 && state == LISTEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn local_ports_of_both_tables_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr\n   \
            0: 0100007F:0929 00000000:0000 0A 00000000:00000000 00:00000000\n   \
            1: 00000000000000000000000001000000:1F90 00000000:0000 0A 0:0 0:0\n\
            1000: 0100007F:9C40 0100007F:0016 01 00000000:00000000 00:00000000\n";
        let mut ports = BTreeSet::new();
        add_ports(table.as_bytes(), &mut ports).unwrap();
        assert_eq!(ports.into_iter().collect::<Vec<_>>(), [2345, 8080]);
    }

    #[test]
    fn a_listening_socket_is_seen() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(tcp_listening_ports().unwrap().contains(&port));
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line: String) {
            parse_listening_port(&line);
        }
    }
}
