//! `audit verify`: reads the chain of the audit log without the daemon, and names the first line that
//! is not as it was written. `audit key`: what the checkpoints' signatures are checked with.

use crate::cli::ExportFormat;
use crate::export::{self, BundleVerdict};
use crate::output::Output;
use crate::terminal::{GREEN, RED, YELLOW, painted, safe};
use godebug_api::Refusal;
use godebug_api::audit_files::{self, LOG, LOGS};
use godebug_api::chain::{Bundle, Checked, Checkpoint, Fault, Head, PublicKey, Verifier};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

const STATE: &str = "/var/lib/godebug";

/// What is verified against what.
#[derive(Debug, Default)]
struct Evidence {
    /// In the order of their records.
    files: Vec<PathBuf>,
    checkpoints: Vec<Checkpoint>,
    /// Where the writer says that the log ends.
    head: Option<Head>,
}

/// What `audit verify` answers.
#[derive(Debug, Serialize)]
struct Verdict {
    intact: bool,
    files: Vec<String>,
    /// Those that there were to compare with.
    checkpoints_known: usize,
    /// The keys that they were signed with.
    keys: Vec<PublicKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<Checked>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Found>,
}

/// The first bad line, and the file that it is in.
#[derive(Debug, Serialize)]
struct Found {
    file: String,
    #[serde(flatten)]
    fault: Fault,
    message: String,
}

pub(crate) fn verify(
    output: &Output,
    files: &[PathBuf],
    checkpoints: &[PathBuf],
    key: Option<PublicKey>,
) -> Result<(), Refusal> {
    let exported = exported(files)?;
    if !exported.is_empty() {
        return verify_exported(output, exported, checkpoints, key);
    }
    let evidence = Evidence::gather(files, checkpoints, key)?;
    let mut verifier = Verifier::new(&evidence.checkpoints);
    let read = evidence.read(&mut verifier)?;
    let verdict = evidence.verdict(match read {
        Ok(()) => verifier.end(evidence.head).map_err(|fault| (evidence.last_file(), fault)),
        Err(found) => Err(found),
    });
    output.result(&verdict, &in_words(&verdict))?;
    match verdict.fault {
        None => Ok(()),
        Some(found) => Err(Refusal::failed(
            format!("the audit log was changed: {}, {}", found.file, found.message),
            "keep a copy of it as it is; the journal has every record and checkpoint too \
             (`journalctl -u godebugd`), and where it is shipped, so has another host",
        )),
    }
}

/// A file that was exported, with its text and what is in it.
type Exported<'a> = (&'a Path, String, (ExportFormat, Result<Bundle, String>));

/// Those that `audit export` has made; all of them or none are.
fn exported(files: &[PathBuf]) -> Result<Vec<Exported<'_>>, Refusal> {
    // The longest bundle, as a page that holds it and shows it.
    const LONGEST: u64 = 512 << 20;
    const BEGINNING: u64 = 512;
    let mut found = Vec::new();
    for path in files {
        let read = |most| read_at_most(path, most).map_err(|error| unreadable(path, &error));
        if !export::begins_like_one(&read(BEGINNING)?) {
            continue;
        }
        let text = read(LONGEST)?;
        if let Some(inside) = export::bundle_in(&text) {
            found.push((path.as_path(), text, inside));
        }
    }
    if found.is_empty() || found.len() == files.len() {
        return Ok(found);
    }
    Err(Refusal::usage(
        "some of these files are logs and some were exported",
        "verify them one after the other",
    ))
}

fn read_at_most(path: &Path, most: u64) -> io::Result<String> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path)?, most), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn verify_exported(
    output: &Output,
    files: Vec<Exported<'_>>,
    checkpoints: &[PathBuf],
    key: Option<PublicKey>,
) -> Result<(), Refusal> {
    let known = Evidence::gather(&[PathBuf::from("/dev/null")], checkpoints, None)?.checkpoints;
    let verdicts: Vec<BundleVerdict> = files
        .into_iter()
        .map(|(path, text, inside)| export::verdict(path, &text, inside, &known, key))
        .collect();
    let human: String = verdicts.iter().map(export::in_words).collect();
    output.result(&verdicts, &human)?;
    match verdicts.iter().find(|verdict| !verdict.intact) {
        None => Ok(()),
        Some(changed) => Err(Refusal::failed(
            format!("{} is not as a host has handed it out", changed.file),
            "keep it as it is, and have the host export the sessions anew",
        )),
    }
}

impl Evidence {
    fn gather(
        files: &[PathBuf],
        checkpoints: &[PathBuf],
        key: Option<PublicKey>,
    ) -> Result<Self, Refusal> {
        let mut evidence = Self::default();
        if files.is_empty() {
            evidence.files = own_logs(Path::new(LOGS))?;
            let head = Path::new(STATE).join("audit.head");
            evidence.head = if_there(&head)?.and_then(|text| serde_json::from_slice(&text).ok());
        } else {
            evidence.files = files.to_vec();
        }
        if checkpoints.is_empty() && files.is_empty() {
            let own = Path::new(STATE).join("checkpoints.jsonl");
            evidence.checkpoints = if_there(&own)?.map_or(Ok(Vec::new()), |t| parse(&own, &t))?;
        }
        for path in checkpoints {
            let text = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
            evidence.checkpoints.extend(parse(path, &text)?);
        }
        for checkpoint in &evidence.checkpoints {
            signed(checkpoint, key)?;
        }
        Ok(evidence)
    }

    /// Reads all files. The inner error is a fault with its file.
    fn read(&self, verifier: &mut Verifier) -> Result<Result<(), (&Path, Fault)>, Refusal> {
        for (number, path) in self.files.iter().enumerate() {
            let begun = if number == 0 { Ok(()) } else { verifier.next_file() };
            if let Err(fault) = begun {
                return Ok(Err((&self.files[number - 1], fault)));
            }
            let lines = read_lines(path, |line| verifier.line(line));
            match lines.map_err(|error| unreadable(path, &error))? {
                Ok(()) => {}
                Err(fault) => return Ok(Err((path, fault))),
            }
        }
        Ok(Ok(()))
    }

    fn last_file(&self) -> &Path {
        self.files.last().map_or(Path::new(LOG), PathBuf::as_path)
    }

    fn verdict(&self, result: Result<Checked, (&Path, Fault)>) -> Verdict {
        let mut keys: Vec<PublicKey> = Vec::new();
        for checkpoint in &self.checkpoints {
            if !keys.contains(&checkpoint.key) {
                keys.push(checkpoint.key);
            }
        }
        let shown = |path: &Path| path.to_string_lossy().into_owned();
        let (checked, fault) = match result {
            Ok(checked) => (Some(checked), None),
            Err((file, fault)) => {
                let message = fault.to_string();
                (None, Some(Found { file: shown(file), fault, message }))
            }
        };
        Verdict {
            intact: fault.is_none(),
            files: self.files.iter().map(|file| shown(file)).collect(),
            checkpoints_known: self.checkpoints.len(),
            keys,
            checked,
            fault,
        }
    }
}

/// Shows every line of a file to `seen`, until it has found something.
fn read_lines(
    path: &Path,
    mut seen: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> io::Result<Result<(), Fault>> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(Ok(()));
        }
        if let Err(fault) = seen(line.strip_suffix(b"\n").unwrap_or(&line)) {
            return Ok(Err(fault));
        }
    }
}

/// The audit log and what was rotated away, in the order of their records.
fn own_logs(folder: &Path) -> Result<Vec<PathBuf>, Refusal> {
    let found = audit_files::in_order(folder);
    let found = found.map_err(|wrong| unreadable(&wrong.path, &wrong.error))?;
    if found.is_empty() {
        return Err(Refusal::host(
            format!("there is no audit log in {LOGS}"),
            "nothing was ever recorded here, or somebody took all of it away",
        ));
    }
    Ok(found)
}

/// Checkpoints one a line, as they stand beside the log, or as `journalctl -o json` prints them.
fn parse(path: &Path, text: &[u8]) -> Result<Vec<Checkpoint>, Refusal> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "GODEBUG_CHECKPOINT")]
        checkpoint: String,
    }
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let mut found = Vec::new();
    for (number, line) in lines.enumerate() {
        let entry = serde_json::from_slice::<Entry>(line).map(|entry| entry.checkpoint);
        let checkpoint = match &entry {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(line),
        };
        found.push(checkpoint.map_err(|error| {
            Refusal::usage(
                format!("{}, line {}: no checkpoint: {error}", path.display(), number + 1),
                "give checkpoints.jsonl, or what `journalctl -o json \
                 MESSAGE_ID=5d9d1a52b7f94c1a9b3e1f0a6c3e5b09` prints",
            )
        })?);
    }
    found.retain(|checkpoint: &Checkpoint| checkpoint.log == "audit");
    Ok(found)
}

fn signed(checkpoint: &Checkpoint, key: Option<PublicKey>) -> Result<(), Refusal> {
    const REMEDY: &str =
        "do not rely on where it came from; the journal of another host has it too";
    checkpoint.check().map_err(|error| Refusal::failed(error.to_string(), REMEDY))?;
    match key {
        Some(key) if key != checkpoint.key => Err(Refusal::failed(
            format!(
                "the checkpoint at record {} is signed with the key {}, not with {key}",
                checkpoint.seq, checkpoint.key
            ),
            REMEDY,
        )),
        _ => Ok(()),
    }
}

fn if_there(path: &Path) -> Result<Option<Vec<u8>>, Refusal> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Refusal {
    let message = format!("{} cannot be read: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied => Refusal::refused(message, "run it with sudo"),
        _ => Refusal::host(message, ""),
    }
}

fn in_words(verdict: &Verdict) -> String {
    let mut text = String::new();
    if let Some(found) = &verdict.fault {
        let (file, message) = (safe(&found.file), safe(&found.message));
        text.push_str(&format!("{} {file}, {message}\n", painted(RED, "CHANGED:")));
    }
    let Some(checked) = &verdict.checked else { return text };
    text.push_str(&format!(
        "{} {} records in {} files\n",
        painted(GREEN, "intact:"),
        checked.lines,
        verdict.files.len()
    ));
    text.push_str(&match verdict.checkpoints_known {
        0 => "no checkpoint to compare with: whoever had all of it could have written it anew\n"
            .to_owned(),
        known => format!("{} of {known} checkpoints are of records in it\n", checked.checkpoints),
    });
    if checked.before_the_chain > 0 {
        text.push_str(&format!(
            "{} lines are older than the chain: they are what they were when it began\n",
            checked.before_the_chain
        ));
    }
    let mut warn = |what: String| {
        text.push_str(&format!("{} {}\n", painted(YELLOW, "warning:"), safe(what)));
    };
    checked.warnings.iter().for_each(|warning| warn(warning.to_string()));
    if checked.more_warnings > 0 {
        warn(format!("and {} more of these", checked.more_warnings));
    }
    text
}

/// Prints the public key of this host's checkpoints.
pub(crate) fn key(output: &Output) -> Result<(), Refusal> {
    let path = Path::new(STATE).join("audit.pub");
    let text = if_there(&path)?.ok_or_else(|| {
        Refusal::host(
            "this host has no key yet",
            "it is made with the first checkpoint, at the end of the first session",
        )
    })?;
    let key = String::from_utf8_lossy(&text)
        .trim()
        .parse::<PublicKey>()
        .map_err(|error| Refusal::host(format!("{}: {error}", path.display()), ""))?;
    output.result(&serde_json::json!({ "key": key }), &key.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::filtered;
    use godebug_api::Now;
    use godebug_api::chain::{Circumstances, SigningKey, Stamp};

    /// A log of so many records, and a checkpoint of its end.
    fn log(count: u64) -> (Vec<Vec<u8>>, Checkpoint) {
        let key = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
        let (mut head, mut lines) = (Head::START, Vec::new());
        for number in 0..count {
            let now = Now { wall_ms: 1000 * number, boot_ms: 1000 * number };
            let stamp = Stamp { host: "web1".to_owned(), boot: "b".to_owned(), now };
            let document = format!(r#"{{"event":"refused","number":{number}}}"#);
            let continues = number == 3;
            let circumstances = Circumstances { continues, ..Circumstances::default() };
            let (line, next) = head.seal(document.as_bytes(), &stamp, circumstances).unwrap();
            lines.push(line);
            head = next;
        }
        (lines, key.checkpoint("audit", "web1", head, 0))
    }

    fn write(path: &Path, lines: &[Vec<u8>]) {
        let mut text = lines.join(&b'\n');
        text.push(b'\n');
        std::fs::write(path, text).unwrap();
    }

    fn told(evidence: &Evidence) -> String {
        let mut verifier = Verifier::new(&evidence.checkpoints);
        let read = evidence.read(&mut verifier).unwrap();
        let result = read.and_then(|()| {
            verifier.end(evidence.head).map_err(|fault| (evidence.last_file(), fault))
        });
        filtered(&in_words(&evidence.verdict(result)), false)
    }

    #[test]
    fn rotated_files_are_read_in_the_order_of_their_records() {
        let folder = tempfile::tempdir().unwrap();
        let (lines, checkpoint) = log(6);
        write(&folder.path().join("audit.jsonl-20260101"), &lines[..3]);
        write(&folder.path().join("audit.jsonl"), &lines[3..]);
        std::fs::write(folder.path().join("audit.jsonl.1.gz"), "packed").unwrap();
        std::fs::write(folder.path().join("0000000a.ledger"), "no log").unwrap();
        let files = own_logs(folder.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap()).collect();
        assert_eq!(names, ["audit.jsonl-20260101", "audit.jsonl"]);
        let mut evidence = Evidence { files, checkpoints: vec![checkpoint], head: None };
        let text = told(&evidence);
        assert_eq!(text, "intact: 6 records in 2 files\n1 of 1 checkpoints are of records in it\n");
        write(&folder.path().join("audit.jsonl-20260101"), &lines[..2]);
        let text = told(&evidence);
        assert!(text.contains("audit.jsonl, line 1: the line before it was removed"), "{text}");
        evidence.files.remove(0);
        let text = told(&evidence);
        assert!(text.contains("begins with record 4"), "{text}");
    }

    #[test]
    fn checkpoints_are_read_as_they_stand_and_out_of_the_journal() {
        let (_, checkpoint) = log(2);
        let line = serde_json::to_string(&checkpoint).unwrap();
        let entry = serde_json::json!({"MESSAGE": "m", "GODEBUG_CHECKPOINT": line}).to_string();
        let both = format!("{line}\n\n{entry}\n");
        let found = parse(Path::new("c"), both.as_bytes()).unwrap();
        assert_eq!(found, [checkpoint.clone(), checkpoint.clone()]);
        let error = parse(Path::new("c"), b"{}").unwrap_err();
        assert!(error.message.contains("c, line 1"), "{error}");
        signed(&checkpoint, Some(checkpoint.key)).unwrap();
        let other = log(1).1.key;
        assert!(signed(&checkpoint, Some(other)).unwrap_err().message.contains("not with"));
        let forged = Checkpoint { seq: 9, ..checkpoint };
        assert!(signed(&forged, None).unwrap_err().message.contains("signature"));
    }

    /// `cargo test --release -p godebugctl million -- --ignored --nocapture` tells the figure.
    #[test]
    #[ignore = "a measurement: it writes 700 MB"]
    fn a_million_lines_take_less_than_ten_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut file = io::BufWriter::new(File::create(&path).unwrap());
        let details = "x".repeat(400);
        let mut head = Head::START;
        for number in 0..1_000_000u64 {
            let now = Now { wall_ms: 1000 * number, boot_ms: 1000 * number };
            let stamp = Stamp { host: "web1".to_owned(), boot: "b".repeat(32), now };
            let document = format!(r#"{{"event":"refused","number":{number},"more":"{details}"}}"#);
            let circumstances = Circumstances::default();
            let (line, next) = head.seal(document.as_bytes(), &stamp, circumstances).unwrap();
            io::Write::write_all(&mut file, &line).unwrap();
            io::Write::write_all(&mut file, b"\n").unwrap();
            head = next;
        }
        drop(file);
        let begun = std::time::Instant::now();
        let evidence = Evidence { files: vec![path], checkpoints: Vec::new(), head: Some(head) };
        let text = told(&evidence);
        let took = begun.elapsed();
        assert!(text.starts_with("intact: 1000000 records"), "{text}");
        eprintln!("1,000,000 lines verified in {:.2} s", took.as_secs_f64());
        assert!(took.as_secs() < 10, "{took:?}");
    }
}
