//! Where the checkpoints' key is kept: encrypted with the host's own key by systemd-creds, where the host has
//! one (`systemd-creds setup`, which the package runs); else as a file of root's alone.
//!
//! Encrypted, a copy of the disk's files or of a backup of /var/lib/godebug signs nothing. Who has root on the
//! running host has the key either way.

use super::checkpoints::open;
use crate::child;
use rustix::fs::OFlags;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// It takes milliseconds. Checkpoints are written when a session ends, and must not hold its end up.
const PATIENCE: Duration = Duration::from_secs(5);
const CREDENTIAL: &str = "godebug-audit-key";
/// What systemd-creds encrypts with; without it nothing is tried, since it could not be made here.
const HOST_KEY: &str = "/var/lib/systemd/credential.secret";

/// The last that was decrypted, and the file that it came from: a program is not started for each
/// checkpoint.
static DECRYPTED: Mutex<Option<(PathBuf, Vec<u8>)>> = Mutex::new(None);

/// The key; nothing where none was ever made.
///
/// # Errors
/// When it is there and cannot be read.
pub(super) fn kept(state: &Path) -> io::Result<Option<Vec<u8>>> {
    let encrypted = encrypted(state);
    if encrypted.exists() {
        return decrypted(&encrypted).map(Some);
    }
    match std::fs::read(plain(state)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps a new key, whole or not at all: half a key would stop all checkpoints for ever.
///
/// # Errors
/// When it cannot be written.
pub(super) fn keep(state: &Path, key: &[u8]) -> io::Result<()> {
    let credential = match Path::new(HOST_KEY).exists() {
        true => systemd_creds(&["encrypt", "--with-key=host", "-", "-"], key),
        false => Err(io::Error::other("this host has no key of its own")),
    };
    match credential {
        Ok(credential) => write(&encrypted(state), &credential),
        Err(why) => {
            tracing::info!("the key of the checkpoints is kept without encryption: {why}");
            write(&plain(state), key)
        }
    }
}

fn encrypted(state: &Path) -> PathBuf {
    state.join("audit.key.cred")
}

fn plain(state: &Path) -> PathBuf {
    state.join("audit.key")
}

fn decrypted(path: &Path) -> io::Result<Vec<u8>> {
    let mut last = DECRYPTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, key)) = &*last
        && of == path
    {
        return Ok(key.clone());
    }
    let key = systemd_creds(&["decrypt", "-", "-"], &std::fs::read(path)?)?;
    *last = Some((path.to_owned(), key.clone()));
    Ok(key)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = open(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

/// The key goes through pipes: no argument and no file has it.
fn systemd_creds(words: &[&str], input: &[u8]) -> io::Result<Vec<u8>> {
    let mut child = Command::new("systemd-creds")
        .arg(format!("--name={CREDENTIAL}"))
        .args(words)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A failure to write shows in its own answer.
        let _ = stdin.write_all(input);
    }
    let Some(status) = child::ends_within(&mut child, PATIENCE)? else {
        let late = format!("systemd-creds took longer than {} s", PATIENCE.as_secs());
        return Err(io::Error::new(ErrorKind::TimedOut, late));
    };
    // Its pipes hold all of what it has said.
    let output = child.wait_with_output()?;
    if status.success() && !output.stdout.is_empty() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("no reason given");
    Err(io::Error::other(format!("systemd-creds: {first}")))
}
