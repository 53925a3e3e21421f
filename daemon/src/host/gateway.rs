//! The gateway as godebugd sees it: what it is handed, and its control socket.

use godebug_api::control::{GatewayConfig, LONGEST_LINE, Reply, Request};
use godebug_api::handover::Handover;
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The configuration in memory that nobody can change any more, and that has no name.
///
/// # Errors
/// When the kernel has no memory for it.
pub fn sealed_configuration(configuration: &impl serde::Serialize) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("godebug-configuration", flags)?);
    file.write_all(&serde_json::to_vec(configuration)?)?;
    file.seek(SeekFrom::Start(0))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// A socket that holds what a gateway is given: its configuration, the target's status, and its
/// transcript.
///
/// # Errors
/// When the kernel has no memory for it.
pub fn handover(
    configuration: &GatewayConfig,
    target_status: &File,
    transcript: File,
) -> std::io::Result<OwnedFd> {
    let handover = Handover {
        configuration: sealed_configuration(configuration)?,
        target_status: target_status.try_clone()?.into(),
        transcript: transcript.into(),
    };
    handover.into_socket()
}

/// One question to a gateway.
///
/// # Errors
/// When the gateway is not there, does not answer within `patience`, or answers something else than
/// a reply.
pub async fn ask(control: &Path, request: &Request, patience: Duration) -> std::io::Result<Reply> {
    tokio::time::timeout(patience, asked(control, request))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

async fn asked(control: &Path, request: &Request) -> std::io::Result<Reply> {
    let mut stream = UnixStream::connect(control).await?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    // Bounded: the gateway parses the network's bytes and is not to be trusted with our memory.
    let mut answer = Vec::new();
    BufReader::new(stream.take(LONGEST_LINE as u64)).read_until(b'\n', &mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}
