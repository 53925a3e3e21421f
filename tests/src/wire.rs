//! What the protocol clients speak over: a TCP or Unix connection, bare or inside TLS.

use std::{
    io::{Read, Result, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use rustls::{ClientConnection, StreamOwned};

/// A connection whose reads can be given a time limit.
pub trait Wire: Read + Write {
    fn limit_reads(&mut self, limit: Duration) -> Result<()>;
}

impl Wire for TcpStream {
    fn limit_reads(&mut self, limit: Duration) -> Result<()> {
        self.set_read_timeout(Some(limit.max(Duration::from_millis(1))))
    }
}

impl Wire for UnixStream {
    fn limit_reads(&mut self, limit: Duration) -> Result<()> {
        self.set_read_timeout(Some(limit.max(Duration::from_millis(1))))
    }
}

impl Wire for StreamOwned<ClientConnection, TcpStream> {
    fn limit_reads(&mut self, limit: Duration) -> Result<()> {
        self.sock.limit_reads(limit)
    }
}
