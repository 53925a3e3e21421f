//! What is asked of the daemon: the arguments, filled up with what the ssh connection tells.

use crate::cli::{Attach, Via};
use crate::far::Host;
use godebug_api::documents::{DumpRequest, OpenRequest};
use godebug_api::{Absence, Cidr, Refusal};
use rustix::fs::{FileType, Mode, OFlags};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Both ends of the ssh connection that the person came by, as sshd put them into the environment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ssh {
    /// The machine that the person sits at.
    client: Option<IpAddr>,
    /// The address of this host that they reached.
    server: Option<IpAddr>,
}

impl Ssh {
    pub(crate) fn from_environment() -> Self {
        Self::parse(&std::env::var("SSH_CONNECTION").unwrap_or_default())
    }

    /// `CLIENT PORT SERVER PORT`; whatever is not an address counts as not there. So does an
    /// address with a zone (`fe80::1%eth0`), which means nothing on another machine.
    pub(crate) fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let mut address = || words.next()?.parse::<IpAddr>().ok().map(|a| a.to_canonical());
        let client = address();
        address();
        Self { client, server: address() }
    }
}

/// The request for `arguments`, with the client's certificate signing request (empty for a plan).
pub(crate) fn open_request(
    arguments: &Attach,
    csr: String,
    (far, ssh): (Option<&Host>, Ssh),
    via: Via,
) -> OpenRequest {
    let mut from = arguments.from.clone();
    if from.is_empty() && via != Via::Ssh {
        from.extend(ssh.client.map(Cidr::host));
    }
    match via {
        Via::Tls => {}
        Via::Local if arguments.way.detach => {}
        // godebugctl itself is a client, or ssh, from that host.
        Via::Local | Via::Ssh => from.push(Cidr::LOOPBACK_4),
    }
    let endpoint = arguments
        .way
        .endpoint
        .as_ref()
        .map(|endpoint| endpoint.0.clone())
        .or_else(|| (via == Via::Ssh).then(|| "127.0.0.1".to_owned()))
        .or_else(|| far.and_then(Host::name))
        .or_else(|| ssh.server.map(|address| address.to_string()))
        .or_else(|| from.iter().filter(|_| far.is_none()).find_map(own_address_towards));
    OpenRequest {
        ttl: arguments.ttl,
        mode: arguments.mode,
        reason: arguments.reason.clone(),
        from: Cidr::without_overlaps(&from),
        csr,
        pid: arguments.pid,
        hold: !arguments.way.detach,
        absence: match far {
            Some(_) if !arguments.way.detach => arguments.way.reconnect,
            _ => Absence::default(),
        },
        endpoint_host: endpoint,
        symbols: arguments.way.symbols.is_some(),
        max_freeze: arguments.way.max_freeze,
        accept_freeze: arguments.way.yes,
        pause: arguments.pause_budget,
        break_glass: arguments.break_glass,
        max_pause: arguments.max_pause,
        exec: arguments.exec,
        part: None,
        dump: arguments.dump.as_ref().map(|dump| DumpRequest {
            pid: dump.pid,
            image: dump.image.clone(),
            executable: dump.executable.is_some(),
        }),
    }
}

/// The address of this host that a client in `source` would reach it by. Asked of the kernel's
/// routes, by connecting a UDP socket, which sends nothing.
fn own_address_towards(source: &Cidr) -> Option<String> {
    if source.is_loopback() {
        return None;
    }
    let any: IpAddr = if source.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect((source.address(), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

/// The symbols file, opened with the rights of the person who names it, so that the daemon cannot
/// be made to read what they cannot.
///
/// # Errors
/// When it cannot be opened, or is anything but a regular file.
pub(crate) fn open_symbols(path: &Path) -> Result<OwnedFd, Refusal> {
    let shown = path.display();
    // NONBLOCK: a FIFO must not hang the client.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
        Refusal::usage(format!("the symbols file {shown} cannot be opened: {error}"), "")
    })?;
    let regular = rustix::fs::fstat(&fd)
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile);
    if regular {
        Ok(fd)
    } else {
        Err(Refusal::usage(
            format!("{shown} is no regular file"),
            "--symbols takes the unstripped program, or its separate debug file",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn request(words: &str, ssh: &str) -> OpenRequest {
        let words = ["godebugctl", "attach", "shop"].into_iter().chain(words.split_whitespace());
        let Command::Attach(arguments) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not attach");
        };
        open_request(&arguments, String::new(), (None, Ssh::parse(ssh)), Via::Local)
    }

    fn sources(request: &OpenRequest) -> Vec<String> {
        request.from.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_ssh_connection_gives_source_and_endpoint() {
        let request = request("--detach", "198.51.100.7 50000 192.0.2.1 22");
        assert_eq!(sources(&request), ["198.51.100.7/32"]);
        assert_eq!(request.endpoint_host.as_deref(), Some("192.0.2.1"));
        assert!(!request.hold);
    }

    #[test]
    fn mapped_and_version_six_addresses_are_understood() {
        let ssh = "::ffff:198.51.100.7 50000 2001:db8::1 22";
        let request = request("--detach", ssh);
        assert_eq!(sources(&request), ["198.51.100.7/32"]);
        assert_eq!(request.endpoint_host.as_deref(), Some("2001:db8::1"));
    }

    #[test]
    fn nonsense_in_the_environment_counts_as_nothing() {
        for ssh in ["", "UNKNOWN", "UNKNOWN 65535 UNKNOWN 65535", "a b c d", "fe80::1%eth0 1 x 2"] {
            let request = request("--detach", ssh);
            assert!(request.from.is_empty(), "{ssh}");
            assert_eq!(request.endpoint_host, None, "{ssh}");
        }
    }

    #[test]
    fn the_arguments_win_and_the_foreground_reaches_its_own_gateway() {
        let ssh = "198.51.100.7 50000 192.0.2.1 22";
        let request = request("--from 10.0.0.0/8 --from 10.1.0.0/16 --endpoint db.example", ssh);
        assert_eq!(sources(&request), ["10.0.0.0/8", "127.0.0.1/32"]);
        assert_eq!(request.endpoint_host.as_deref(), Some("db.example"));
        assert!(request.hold);
    }

    #[test]
    fn what_is_not_asked_for_is_left_out_for_a_daemon_that_does_not_know_it() {
        let text = |words| serde_json::to_string(&request(words, "")).unwrap();
        let plain = text("--max-freeze 5s");
        assert!(!plain.contains("freeze"), "{plain}");
        let both = text("--max-freeze 1500ms --yes");
        assert!(both.contains(r#""max_freeze_ms":1500,"accept_freeze":true"#), "{both}");
    }

    #[test]
    fn only_a_regular_file_is_taken_for_symbols() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("app.debug");
        std::fs::write(&file, "x").unwrap();
        assert!(open_symbols(&file).is_ok());
        for bad in [directory.path(), Path::new("/dev/null"), Path::new("/nonexistent")] {
            assert_eq!(open_symbols(bad).unwrap_err().code, godebug_api::Code::Usage, "{bad:?}");
        }
    }
}
