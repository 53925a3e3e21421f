//! A test host's wires: a network namespace for the host, one for the laptop, a veth pair between
//! them, and TCP connections made from inside either.

use std::{
    fs::File,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::{
    net::{
        AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::command::tool;

/// What a port looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Something accepted the connection.
    Open,
    /// The host answered that nothing listens: no firewall in the way.
    Closed,
    /// No answer, or one that a firewall gives.
    Filtered,
}

/// The two namespaces of one test host, and the addresses in them.
#[derive(Debug, Clone)]
pub struct Network {
    name: String,
    slot: u8,
}

impl Network {
    pub(crate) fn new(name: &str, slot: u8) -> Self {
        Self { name: name.to_owned(), slot }
    }

    pub(crate) fn create(&self) -> Result<()> {
        for namespace in [self.host_namespace(), self.laptop_namespace()] {
            tool("ip", &["netns", "add", &namespace])?;
        }
        self.connect()
    }

    /// The laptop's namespace alone: its wire ends in a virtual machine.
    pub(crate) fn create_for_vm(&self) -> Result<()> {
        let laptop = self.laptop_namespace();
        tool("ip", &["netns", "add", &laptop])?;
        let mut lines = vec!["tuntap add dev eth0 mode tap".to_owned()];
        lines.extend(self.laptop_lines());
        batch(&laptop, &lines)
    }

    /// A reboot takes the host's namespace, with its firewall, and leaves the laptop's.
    pub(crate) fn recreate_host(&self) -> Result<()> {
        // First, because the kernel takes a deleted namespace's links down in its own time.
        tool("ip", &["-netns", &self.laptop_namespace(), "link", "del", "eth0"])?;
        tool("ip", &["netns", "del", &self.host_namespace()])?;
        tool("ip", &["netns", "add", &self.host_namespace()])?;
        self.connect()
    }

    fn connect(&self) -> Result<()> {
        let laptop = self.laptop_namespace();
        batch(
            &self.host_namespace(),
            &[
                "link set lo up".to_owned(),
                format!("link add eth0 type veth peer name eth0 netns {laptop}"),
                format!("address add {}/24 dev eth0", self.host()),
                format!("address add {}/64 dev eth0 nodad", self.host_v6()),
                "link set eth0 up".to_owned(),
            ],
        )?;
        batch(&laptop, &self.laptop_lines())
    }

    fn laptop_lines(&self) -> Vec<String> {
        vec![
            "link set lo up".to_owned(),
            format!("address add {}/24 dev eth0", self.laptop()),
            format!("address add {}/24 dev eth0", self.stranger()),
            format!("address add {}/64 dev eth0 nodad", self.laptop_v6()),
            "link set eth0 up".to_owned(),
        ]
    }

    pub(crate) fn host_namespace(&self) -> String {
        format!("{}-host", self.name)
    }

    pub(crate) fn laptop_namespace(&self) -> String {
        format!("{}-laptop", self.name)
    }

    pub fn host(&self) -> IpAddr {
        self.v4(1)
    }

    pub fn laptop(&self) -> IpAddr {
        self.v4(2)
    }

    /// A second address in the laptop's namespace, for somebody who was not let in.
    pub fn stranger(&self) -> IpAddr {
        self.v4(3)
    }

    pub fn host_v6(&self) -> IpAddr {
        self.v6(1)
    }

    pub fn laptop_v6(&self) -> IpAddr {
        self.v6(2)
    }

    fn v4(&self, last: u8) -> IpAddr {
        Ipv4Addr::new(10, 77, self.slot, last).into()
    }

    fn v6(&self, last: u16) -> IpAddr {
        Ipv6Addr::new(0xfd77, u16::from(self.slot), 0, 0, 0, 0, 0, last).into()
    }
}

fn batch(namespace: &str, lines: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-netns", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip")?;
    let mut stdin = child.stdin.take().context("ip has no standard input")?;
    io::Write::write_all(&mut stdin, lines.join("\n").as_bytes()).context("writing to ip")?;
    drop(stdin);
    let output = child.wait_with_output().context("waiting for ip")?;
    ensure!(
        output.status.success(),
        "ip: {}\nin: {lines:#?}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Runs `action` on a thread that has moved into the named network namespace.
pub(crate) fn inside<T: Send>(namespace: &str, action: impl FnOnce() -> T + Send) -> Result<T> {
    let path = PathBuf::from("/run/netns").join(namespace);
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .context("entering a network namespace")?;
            Ok(action())
        });
        thread.join().map_err(|_| anyhow!("a thread in a network namespace panicked"))?
    })
}

/// Connects from inside a namespace, from one of its addresses if `source` is given.
pub(crate) fn connect_from(
    namespace: &str,
    source: Option<IpAddr>,
    target: SocketAddr,
    limit: Duration,
) -> Result<io::Result<TcpStream>> {
    inside(namespace, || tcp_connect(source, target, limit))
}

fn tcp_connect(
    source: Option<IpAddr>,
    target: SocketAddr,
    limit: Duration,
) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect_timeout(&target, limit) };
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    bind(&socket, &SocketAddr::new(source, 0))?;
    // The time to send is also the time to connect in.
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    connect(&socket, &target).map_err(|error| match error {
        rustix::io::Errno::INPROGRESS => io::Error::from(ErrorKind::TimedOut),
        other => other.into(),
    })?;
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket.into())
}

/// Whether a port is open, as one connection attempt shows it.
pub(crate) fn scan(namespace: &str, source: Option<IpAddr>, target: SocketAddr) -> Result<Port> {
    match connect_from(namespace, source, target, Duration::from_millis(700))? {
        Ok(_) => Ok(Port::Open),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ok(Port::Closed),
            ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied => Ok(Port::Filtered),
            _ => Err(error).with_context(|| format!("scanning {target}")),
        },
    }
}
