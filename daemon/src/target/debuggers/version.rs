//! Asks a dlv for its version by running it, with nothing of ours in its hands and a limit on its
//! time and its words.

use godebug_core::delve::DelveVersion;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

const LONGEST_TIME: Duration = Duration::from_secs(20);
const LONGEST_ANSWER: usize = 16 * 1024;

/// What `dlv version` says, or why that is not known.
pub(crate) async fn ask(dlv: &Path) -> Result<DelveVersion, String> {
    let mut child = Command::new(dlv)
        .arg("version")
        .env_clear()
        .env("PATH", "/usr/bin")
        .env("HOME", "/nonexistent")
        // Root could make /nonexistent for dlv's telemetry, but nothing below a device.
        .env("XDG_CONFIG_HOME", "/dev/null")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("it cannot be run: {error}"))?;
    let stdout = child.stdout.take().ok_or("its output cannot be read")?;
    let asked = async {
        let version = read_version(stdout).await;
        // So that it is no zombie; when it does not end by itself it is killed on drop.
        let _ = child.wait().await;
        version
    };
    match timeout(LONGEST_TIME, asked).await {
        Ok(version) => version.ok_or_else(|| "`dlv version` does not tell a version".to_owned()),
        Err(_) => Err(format!("`dlv version` took longer than {} s", LONGEST_TIME.as_secs())),
    }
}

/// Reads until the version's line is complete, and not to the end: since 1.24 dlv forks a child
/// for telemetry, and what keeps the pipe open is none of our business.
async fn read_version(mut from: impl AsyncRead + Unpin) -> Option<DelveVersion> {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    while text.len() < LONGEST_ANSWER {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        text.extend_from_slice(&buffer[..count]);
        let version = parse(&String::from_utf8_lossy(&text), count == 0);
        if version.is_some() || count == 0 {
            return version;
        }
    }
    None
}

/// The version in dlv's answer; the last line counts only when it is complete.
fn parse(text: &str, complete: bool) -> Option<DelveVersion> {
    let lines = text.split_inclusive('\n').filter(|line| complete || line.ends_with('\n'));
    lines.filter_map(|line| line.strip_prefix("Version:")).next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_version_is_read_from_its_line_once_that_is_complete() {
        let text = "Delve Debugger\nVersion: 1.24.0\nBuild: $Id: 3b2 $\n";
        assert_eq!(parse(text, false), Some(DelveVersion::new(1, 24, 0)));
        assert_eq!(parse("Version: 1.2", false), None);
        assert_eq!(parse("Version: 1.27.1", true), Some(DelveVersion::new(1, 27, 1)));
        assert_eq!(parse("usage: dlv\n", true), None);
    }

    async fn answer(script: &str) -> Result<DelveVersion, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dlv");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        ask(&path).await
    }

    #[tokio::test]
    async fn it_is_run_with_nothing_of_ours() {
        let script = "test \"$1\" = version && test -z \"$CARGO\" && test \"$(pwd)\" = / \
            && test \"$HOME\" = /nonexistent && echo Version: 1.27.1";
        assert_eq!(answer(script).await, Ok(DelveVersion::new(1, 27, 1)));
    }

    #[tokio::test]
    async fn a_child_that_keeps_the_pipe_does_not_hold_us_up() {
        let start = std::time::Instant::now();
        let script = "echo Version: 1.24.0; (sleep 30) & exit 0";
        assert_eq!(answer(script).await, Ok(DelveVersion::new(1, 24, 0)));
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn words_without_end_or_without_a_version_are_an_error() {
        assert!(answer("exec yes").await.is_err());
        assert!(answer("exit 1").await.is_err());
        assert!(answer("echo Version: soon").await.is_err());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(text: String, complete: bool) {
            parse(&text, complete);
            parse(&format!("Version:{text}\n"), complete);
        }
    }
}
