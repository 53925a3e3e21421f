//! Takes what godebugd hands over on standard input: the configuration, which holds the private key,
//! in a sealed memfd, so that it never was a file, and nobody can change it or read it later through
//! this process; the target's status; and the transcript.

use godebug_api::control::{GatewayConfig, LONGEST_CONFIG};
use godebug_api::handover::Handover;
use rustix::fs::{Mode, OFlags, SealFlags};
use rustix::io::Errno;
use std::fs::File;
use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};

/// Why there is no configuration. None of the texts quotes it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error(
        "standard input does not hold what godebugd hands over; the gateway is started by godebugd, \
         not by hand"
    )]
    NothingHandedOver,
    #[error("the configuration is not a sealed memfd")]
    NotSealed,
    #[error("the configuration is a memfd without all of the seals write, shrink, grow and seal")]
    SealsMissing,
    #[error("the configuration cannot be read: {0}")]
    Read(Errno),
    #[error("the configuration is longer than {LONGEST_CONFIG} bytes")]
    TooLong,
    #[error("the configuration is not what this version of the gateway takes (line {0})")]
    Malformed(usize),
    #[error("the configuration {0}")]
    Senseless(&'static str),
}

/// All that a gateway is given.
pub struct Given {
    pub config: GatewayConfig,
    /// The target's /proc/PID/status.
    pub target_status: OwnedFd,
    /// Open for appending.
    pub transcript: File,
}

/// Takes and checks what is handed over, then lets go of standard input.
pub fn from_stdin() -> Result<Given, ConfigurationError> {
    let handed = Handover::from_socket(rustix::stdio::stdin())
        .map_err(|_| ConfigurationError::NothingHandedOver)?;
    let config = from_memfd(&handed.configuration)?;
    // With `handed`, the last reference but the daemon's: what was in it is gone when the daemon's is
    // closed too.
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    if let Err(errno) = null.and_then(rustix::stdio::dup2_stdin) {
        return Err(ConfigurationError::Read(errno));
    }
    let transcript = File::from(handed.transcript);
    Ok(Given { config, target_status: handed.target_status, transcript })
}

/// The configuration in this memfd.
pub fn from_memfd(fd: impl AsFd) -> Result<GatewayConfig, ConfigurationError> {
    check_seals(&fd)?;
    // One allocation that never grows, so that no copy of the key stays behind in freed memory.
    let mut text = vec![0; LONGEST_CONFIG + 1];
    let config = read(&fd, &mut text).and_then(|length| parse(&text[..length]));
    wipe(text);
    config
}

/// Overwrites bytes that held a secret before they are freed.
pub(crate) fn wipe(mut bytes: Vec<u8>) {
    bytes.fill(0);
    // Without this the compiler may leave the fill out, since nobody reads it.
    black_box(&mut bytes);
}

fn check_seals(fd: &impl AsFd) -> Result<(), ConfigurationError> {
    let needed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    // Only memfds have seals to ask for. (Files of other memory file systems answer too, with the
    // seal SEAL alone.)
    match rustix::fs::fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(needed) => Ok(()),
        Ok(seals) if seals == SealFlags::SEAL => Err(ConfigurationError::NotSealed),
        Ok(_) => Err(ConfigurationError::SealsMissing),
        Err(_) => Err(ConfigurationError::NotSealed),
    }
}

/// Reads from the start, wherever the writer has left the position.
fn read(fd: &impl AsFd, buffer: &mut [u8]) -> Result<usize, ConfigurationError> {
    let mut length = 0;
    while length < buffer.len() {
        let at = u64::try_from(length).unwrap_or(u64::MAX);
        match rustix::io::pread(fd, &mut buffer[length..], at) {
            Ok(0) => return Ok(length),
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ConfigurationError::Read(errno)),
        }
    }
    Err(ConfigurationError::TooLong)
}

fn parse(text: &[u8]) -> Result<GatewayConfig, ConfigurationError> {
    let config: GatewayConfig = serde_json::from_slice(text)
        // Only the line: serde's own text may quote what it did not expect.
        .map_err(|error| ConfigurationError::Malformed(error.line()))?;
    if config.sources.is_empty() {
        return Err(ConfigurationError::Senseless("names no source that clients may come from"));
    }
    if config.max_connections == 0 || config.max_handshakes == 0 {
        return Err(ConfigurationError::Senseless("allows no connection at all"));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};

    const ALL: SealFlags =
        SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

    fn memfd(text: &str, seals: SealFlags) -> std::os::fd::OwnedFd {
        let fd = memfd_create("config", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(rustix::io::write(&fd, text.as_bytes()).unwrap(), text.len());
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    fn sample(sources: &str) -> String {
        format!(
            r#"{{"id":"0123abcd","mode":"step","port":2345,"sources":[{sources}],
            "deadline":{{"wall_ms":1,"boot_ms":1}},"server_name":"s","ca":"","certificate":"",
            "key":"SECRET","debugger_socket":"/d","control_socket":"/c","max_connections":4,
            "max_handshakes":4,"pause":{{"per_stop_ms":1,"per_session_ms":1}},
            "hot":{{"hits_per_second":1,"standing_percent":1}},
            "redact":{{"names":[],"types":[],"patterns":[]}},
            "transcript_values":"none","host":"h","boot":"b"}}"#
        )
    }

    #[test]
    fn a_sealed_memfd_is_read_and_nothing_else() {
        let text = sample("\"127.0.0.1\"");
        assert_eq!(from_memfd(memfd(&text, ALL)).unwrap().port.get(), 2345);
        let partly = from_memfd(memfd(&text, SealFlags::WRITE | SealFlags::SEAL)).unwrap_err();
        assert!(matches!(partly, ConfigurationError::SealsMissing), "{partly}");
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let file = from_memfd(file).unwrap_err();
        assert!(matches!(file, ConfigurationError::NotSealed), "{file}");
        let (pipe, _writer) = std::io::pipe().unwrap();
        assert!(matches!(from_memfd(pipe), Err(ConfigurationError::NotSealed)));
    }

    #[test]
    fn nonsense_is_refused_without_being_quoted() {
        let error = |text: &str| from_memfd(memfd(text, ALL)).unwrap_err().to_string();
        assert!(error(&sample("")).contains("no source"));
        let long = error(&" ".repeat(LONGEST_CONFIG + 1));
        assert!(long.contains("longer than"), "{long}");
        for text in ["", "{", &sample("\"SECRET\""), &sample("1").replace("\"key\"", "\"SECRET\"")]
        {
            assert!(!error(text).contains("SECRET"), "{}", error(text));
        }
    }
}
