//! The pin beside a dlv: the hash of what was added. godebugd runs no dlv that is something else by now.

use crate::kept;
use godebug_api::toolchain::Pin;
use godebug_core::chain::Hasher;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What a pin says of its dlv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pinned {
    /// There is no pin.
    Not,
    /// It is what was added.
    As(Pin),
}

/// The pin's file for a dlv.
fn file_of(dlv: &Path) -> PathBuf {
    dlv.with_file_name("pin.json")
}

/// Whether a dlv is what its pin says.
///
/// # Errors
/// Why it must not be used, for a person.
pub fn check(dlv: &Path) -> Result<Pinned, String> {
    let Some(pin) = read(dlv)? else { return Ok(Pinned::Not) };
    let now = sha256(dlv).map_err(|error| format!("it cannot be read: {error}"))?;
    if now == pin.sha256 {
        return Ok(Pinned::As(pin));
    }
    Err(format!(
        "it is not what was added on {}: its SHA-256 is {now}, not {} (pin.json beside it)",
        pin.added_at, pin.sha256
    ))
}

/// # Errors
/// When there is a pin that cannot be understood, or that others can write.
pub(super) fn read(dlv: &Path) -> Result<Option<Pin>, String> {
    let path = file_of(dlv);
    if std::fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    let owner = rustix::process::geteuid().as_raw();
    let text = kept::read(&path, owner).ok_or("its pin (pin.json beside it) cannot be trusted")?;
    let pin = serde_json::from_slice(&text);
    pin.map(Some).map_err(|error| format!("its pin (pin.json beside it) is damaged: {error}"))
}

/// Writes the pin of a dlv that is just being added.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(dlv: &Path, pin: &Pin) -> io::Result<()> {
    kept::write(&file_of(dlv), &serde_json::to_vec(pin)?)
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub(super) fn sha256(path: &Path) -> io::Result<String> {
    let (mut file, mut hasher) = (File::open(path)?, Hasher::default());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish().to_string()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dlv_is_what_was_pinned_or_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let dlv = folder.path().join("dlv");
        std::fs::write(&dlv, "one").unwrap();
        assert_eq!(check(&dlv), Ok(Pinned::Not));
        let pin = Pin {
            version: "1.24.0".parse().unwrap(),
            sha256: sha256(&dlv).unwrap(),
            source: "a test".to_owned(),
            added_at: "2026-01-01T00:00:00Z".to_owned(),
        };
        write(&dlv, &pin).unwrap();
        assert_eq!(check(&dlv), Ok(Pinned::As(pin)));
        std::fs::write(&dlv, "two").unwrap();
        assert!(check(&dlv).unwrap_err().contains("it is not what was added on 2026-01-01"));
        std::fs::write(folder.path().join("pin.json"), "{").unwrap();
        assert!(check(&dlv).unwrap_err().contains("is damaged"));
    }
}
