//! The core dumps that systemd-coredump has kept of a unit's processes.
//!
//! What it says of each is in the journal. Anybody can write such fields there, so only what was written
//! from systemd-coredump's own slice counts, which journald itself notes (systemd.journal-fields(7)), and a
//! file is opened only in the folder of dumps, and only if it is root's.

use crate::child::ends_within;
use godebug_api::documents::KeptDump;
use godebug_api::{Dump, Pid, Refusal, UnitName, clock};
use rustix::fs::{FileType, Mode, OFlags};
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const FOLDER: &str = "/var/lib/systemd/coredump";
/// systemd.journal-fields(7), "A core dump".
const MESSAGE: &str = "MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1";
const SLICE: &str = r"_SYSTEMD_SLICE=system-systemd\x2dcoredump.slice";
const FIELDS: &str = "--output-fields=_SYSTEMD_SLICE,COREDUMP_UNIT,COREDUMP_PID,COREDUMP_UID,COREDUMP_TIMESTAMP,\
                      COREDUMP_SIGNAL_NAME,COREDUMP_EXE,COREDUMP_FILENAME";
/// The latest.
const MOST: usize = 50;
const LONGEST: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// Which dumps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    OfUnit(UnitName),
    /// Of the process that had this number.
    Of(Pid),
}

/// One dump, with its file if it is there.
#[derive(Debug)]
pub struct Found {
    pub unit: UnitName,
    pub dump: Dump,
    pub uid: u32,
    /// Or why there is none.
    pub file: Result<File, String>,
}

impl Found {
    pub fn document(&self) -> KeptDump {
        KeptDump {
            unit: self.unit.clone(),
            dump: self.dump.clone(),
            uid: self.uid,
            missing: self.file.as_ref().err().cloned(),
            kept_until: None,
        }
    }
}

/// The dumps, the latest first.
///
/// Where systemd-coredump ends before a busy journald has looked where it came from, nothing vouches for what it
/// said. Only root, who may read every dump, is shown such ones, and only where there are no others.
///
/// # Errors
/// When the journal cannot be read.
pub fn find(which: &Which, asker: u32) -> Result<Vec<Found>, Refusal> {
    let matching = match which {
        Which::OfUnit(unit) => format!("COREDUMP_UNIT={unit}"),
        Which::Of(pid) => format!("COREDUMP_PID={pid}"),
    };
    let failed = |why: String| {
        Refusal::host(
            format!("the journal cannot be asked for core dumps: {why}"),
            "see `coredumpctl list`; is systemd-coredump installed?",
        )
    };
    let vouched_for = journal(&[MESSAGE, SLICE, &matching]).map_err(failed)?;
    let found: Vec<Found> = vouched_for.lines().filter_map(found_in).collect();
    if !found.is_empty() || asker != 0 {
        return Ok(found);
    }
    let all = journal(&[MESSAGE, &matching]).map_err(failed)?;
    Ok(all.lines().filter(|line| is_of_nowhere(line)).filter_map(found_in).collect())
}

/// Whether journald does not know where a line came from. One that came from elsewhere is somebody's invention.
fn is_of_nowhere(line: &str) -> bool {
    let line: Option<serde_json::Value> = serde_json::from_str(line).ok();
    line.is_some_and(|line| line.get("_SYSTEMD_SLICE").is_none())
}

fn journal(matching: &[&str]) -> Result<String, String> {
    let most = format!("--lines={MOST}");
    let mut child = Command::new("journalctl")
        .args(["--output=json", "--no-pager", "--quiet", "--reverse", FIELDS, &most])
        .args(matching)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("journalctl: {error}"))?;
    let output = child.stdout.take().ok_or("journalctl has no output")?;
    // Read beside the waiting: it may be more than a pipe holds.
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        output.take(LONGEST).read_to_end(&mut text).map(|_| text)
    });
    let status = ends_within(&mut child, PATIENCE).map_err(|error| error.to_string())?;
    let text = reading.join().map_err(|_| "its output is lost")?;
    let text = text.map_err(|error| error.to_string())?;
    match status {
        // journalctl ends with 1 when there is nothing.
        Some(status) if status.success() || text.is_empty() => {
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        Some(status) => Err(format!("journalctl: {status}")),
        None => Err(format!("journalctl took longer than {} s", PATIENCE.as_secs())),
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "COREDUMP_UNIT")]
    unit: String,
    #[serde(rename = "COREDUMP_PID")]
    pid: String,
    #[serde(rename = "COREDUMP_UID")]
    uid: String,
    /// Microseconds since 1970.
    #[serde(rename = "COREDUMP_TIMESTAMP")]
    timestamp: String,
    #[serde(rename = "COREDUMP_SIGNAL_NAME", default)]
    signal: Option<String>,
    #[serde(rename = "COREDUMP_EXE", default)]
    executable: Option<String>,
    #[serde(rename = "COREDUMP_FILENAME", default)]
    file: Option<String>,
}

/// What one line of the journal says; `None` for one that does not say enough.
fn found_in(line: &str) -> Option<Found> {
    let line: Line = serde_json::from_str(line).ok()?;
    let file = open(line.file.as_deref());
    let stored = file.as_ref().ok().and_then(|file| file.metadata().ok()).map_or(0, |it| it.len());
    Some(Found {
        unit: line.unit.parse().ok()?,
        uid: line.uid.parse().ok()?,
        dump: Dump {
            image: None,
            pid: line.pid.parse().ok()?,
            time: clock::rfc3339(line.timestamp.parse::<u64>().ok()? / 1000),
            signal: crate::target::process::printable(&line.signal.unwrap_or_default()),
            executable: crate::target::process::printable(&line.executable.unwrap_or_default()),
            stored_bytes: stored,
        },
        file,
    })
}

fn open(path: Option<&str>) -> Result<File, String> {
    let Some(path) = path else {
        return Err(
            "systemd-coredump did not keep it as a file (Storage=, or it was too large)".to_owned()
        );
    };
    let name = Path::new(path).strip_prefix(FOLDER).ok().and_then(|name| name.to_str());
    let name = name.filter(|name| !name.is_empty() && !name.contains('/') && *name != "..");
    let name = name.ok_or_else(|| format!("its file is not in {FOLDER}"))?;
    let gone = |error: rustix::io::Errno| match error {
        rustix::io::Errno::NOENT => "its file has been removed meanwhile".to_owned(),
        error => format!("its file cannot be opened: {error}"),
    };
    let folder =
        rustix::fs::open(FOLDER, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file =
        rustix::fs::openat(folder.map_err(gone)?, name, flags, Mode::empty()).map_err(gone)?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let is_file = FileType::from_raw_mode(metadata.mode()) == FileType::RegularFile;
    if !is_file || metadata.uid() != 0 {
        return Err("its file is not root's".to_owned());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_in_the_folder_of_dumps_is_opened() {
        for path in [
            "/etc/shadow",
            "/var/lib/systemd/coredump/../../../../etc/shadow",
            "/var/lib/systemd/coredump/",
            "/var/lib/systemd/coredump/..",
            "/var/lib/systemd/coredump/a/b",
            "core",
            "",
        ] {
            let refused = open(Some(path)).unwrap_err();
            assert!(refused.contains("is not in"), "{path}: {refused}");
        }
        assert!(open(Some("/var/lib/systemd/coredump/core.nosuch")).is_err());
    }

    #[test]
    fn only_what_comes_from_nowhere_is_of_nowhere() {
        assert!(is_of_nowhere(r#"{"COREDUMP_PID":"7"}"#));
        assert!(!is_of_nowhere(r#"{"COREDUMP_PID":"7","_SYSTEMD_SLICE":"user-1000.slice"}"#));
        assert!(!is_of_nowhere("{"));
    }

    #[test]
    fn a_line_of_the_journal_is_a_dump_or_nothing() {
        let line = r#"{"COREDUMP_UNIT":"shop.service","COREDUMP_PID":"77","COREDUMP_UID":"998",
            "COREDUMP_TIMESTAMP":"1700000000000000","COREDUMP_SIGNAL_NAME":"SIGABRT",
            "COREDUMP_EXE":"/opt/shop","COREDUMP_FILENAME":"/etc/shadow","MORE":1}"#;
        let found = found_in(line).unwrap();
        assert_eq!((found.unit.as_str(), found.dump.pid.get()), ("shop.service", 77));
        assert_eq!(found.dump.time, "2023-11-14T22:13:20Z");
        assert!(found.file.is_err());
        for line in [
            "",
            "{}",
            r#"{"COREDUMP_UNIT":"../x","COREDUMP_PID":"7","COREDUMP_UID":"1","COREDUMP_TIMESTAMP":"1"}"#,
        ] {
            assert!(found_in(line).is_none(), "{line}");
        }
    }
}
