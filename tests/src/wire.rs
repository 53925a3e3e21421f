//! What the protocol clients speak over: a TCP or Unix connection, bare or inside TLS, read up to a
//! deadline without losing what came before it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustls::{ClientConnection, StreamOwned};

/// A connection whose reads can be given a time limit.
pub trait Wire: Read + Write {
    fn limit_reads(&mut self, limit: Duration) -> io::Result<()>;
}

impl Wire for TcpStream {
    fn limit_reads(&mut self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

impl Wire for UnixStream {
    fn limit_reads(&mut self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

impl Wire for StreamOwned<ClientConnection, TcpStream> {
    fn limit_reads(&mut self, limit: Duration) -> io::Result<()> {
        self.sock.limit_reads(limit)
    }
}

/// A connection and what has been read from it but not yet used.
pub(crate) struct Buffered<W> {
    wire: W,
    unused: Vec<u8>,
}

impl<W: Wire> Buffered<W> {
    pub(crate) fn new(wire: W) -> Self {
        Self { wire, unused: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.wire.write_all(bytes).context("sending to the debugger")?;
        self.wire.flush().context("sending to the debugger")
    }

    /// Takes everything up to and including `end`.
    pub(crate) fn take_until(&mut self, end: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.unused.windows(end.len()).position(|window| window == end) {
                return Ok(self.unused.drain(..at + end.len()).collect());
            }
            self.read_more(deadline)?;
        }
    }

    pub(crate) fn take(&mut self, count: usize, deadline: Instant) -> Result<Vec<u8>> {
        while self.unused.len() < count {
            self.read_more(deadline)?;
        }
        Ok(self.unused.drain(..count).collect())
    }

    fn read_more(&mut self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("no answer in time; unfinished: {:?}", String::from_utf8_lossy(&self.unused));
        }
        self.wire.limit_reads(left).context("setting a time limit")?;
        let mut chunk = [0; 16 * 1024];
        match self.wire.read(&mut chunk) {
            Ok(0) => bail!("the connection was closed"),
            Ok(count) => self.unused.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading from the debugger"),
        }
        Ok(())
    }
}
