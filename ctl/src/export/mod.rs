//! `audit export`: what a host says of some sessions, signed, as a file that can be read elsewhere; and the
//! same file verified.
//!
//! Each form is made from the bundle alone and holds it, so that whoever has the file can make it again and
//! see that it says what the bundle says.

mod csv;
mod html;
mod story;

use crate::cli::ExportFormat;
use crate::manager::manager;
use crate::output::Output;
use crate::terminal::safe_json;
use godebug_api::chain::{BadBundle, Bundle, Checkpoint, PublicKey};
use godebug_api::{Refusal, SessionId};
use serde::Serialize;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Whoever made a file with another version made it differently.
pub(crate) const MAKER: &str = concat!("godebugctl ", env!("CARGO_PKG_VERSION"));

pub(crate) async fn export(
    output: &Output,
    ids: &[SessionId],
    format: ExportFormat,
    into: Option<&Path>,
) -> Result<(), Refusal> {
    let ids: Vec<&str> = ids.iter().map(SessionId::as_str).collect();
    let file = manager().await?.audit_export(&ids).await?;
    let bundle = read(File::from(OwnedFd::from(file)))?;
    let text = made(&bundle, format)?;
    match into {
        None => output.raw(&text),
        Some(path) => {
            write(path, &text)?;
            output.note(&format!(
                "{} written; `godebugctl audit verify {}` looks whether it is as it was handed out",
                path.display(),
                path.display()
            ));
            Ok(())
        }
    }
}

fn read(file: File) -> Result<Bundle, Refusal> {
    let not_read = |why: String| {
        Refusal::failed(
            format!("godebugd's answer cannot be read: {why}"),
            "are godebugctl and godebugd of the same version?",
        )
    };
    let mut text = String::new();
    let mut file = file;
    file.read_to_string(&mut text).map_err(|error| not_read(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| not_read(error.to_string()))
}

fn made(bundle: &Bundle, format: ExportFormat) -> Result<String, Refusal> {
    let made = match format {
        ExportFormat::Json => {
            // Line by line: the breaks between them are the document's own.
            let harmless = |text: String| text.lines().map(|line| safe_json(line) + "\n").collect();
            serde_json::to_string_pretty(bundle).map(harmless)
        }
        ExportFormat::Csv => csv::made(bundle),
        ExportFormat::Html => html::made(bundle),
    };
    made.map_err(|error| Refusal::failed(format!("the file cannot be made: {error}"), ""))
}

/// Readable by whoever exports it alone: it says what was debugged, and why.
fn write(path: &Path, text: &str) -> Result<(), Refusal> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        Refusal::usage(
            format!("{} cannot be written: {error}", path.display()),
            "name a file that is not there yet with --output",
        )
    })
}

/// Whether a file that begins like this was exported. A log of a million lines is none, and is not to be read
/// to know that.
pub(crate) fn begins_like_one(text: &str) -> bool {
    html::is_one(text) || csv::is_one(text) || is_json(text)
}

/// Whatever spaces it is written with: the version comes first.
fn is_json(text: &str) -> bool {
    let inside = text.trim_start().strip_prefix('{');
    inside.is_some_and(|inside| inside.trim_start().starts_with("\"godebug_export\""))
}

/// What a file holds that was exported; `None` when it is none.
pub(crate) fn bundle_in(text: &str) -> Option<(ExportFormat, Result<Bundle, String>)> {
    let parse = |text: &str| serde_json::from_str(text).map_err(|error| error.to_string());
    let missing = || Err("it does not hold what it was made from".to_owned());
    if html::is_one(text) {
        let bundle = html::bundle_in(text).map_or_else(missing, |text| parse(&text));
        return Some((ExportFormat::Html, bundle));
    }
    if csv::is_one(text) {
        let bundle = csv::bundle_in(text).map_or_else(missing, |text| parse(&text));
        return Some((ExportFormat::Csv, bundle));
    }
    is_json(text).then(|| (ExportFormat::Json, parse(text)))
}

/// What `audit verify` answers of a file that was exported.
#[derive(Debug, Serialize)]
pub(crate) struct BundleVerdict {
    pub(crate) intact: bool,
    pub(crate) file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exported_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PublicKey>,
    /// Whether that key was given, and is not just the file's own word.
    pub(crate) key_is_known: bool,
    pub(crate) sessions: usize,
    pub(crate) records: usize,
    pub(crate) transcript_lines: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<String>,
}

/// Looks whether the file is as a host has handed it out.
pub(crate) fn verdict(
    path: &Path,
    text: &str,
    (format, bundle): (ExportFormat, Result<Bundle, String>),
    checkpoints: &[Checkpoint],
    key: Option<PublicKey>,
) -> BundleVerdict {
    let file = path.display().to_string();
    let bundle = match bundle {
        Ok(bundle) => bundle,
        Err(why) => {
            return BundleVerdict {
                intact: false,
                file,
                host: None,
                exported_at: None,
                key: None,
                key_is_known: false,
                sessions: 0,
                records: 0,
                transcript_lines: 0,
                fault: Some(why),
            };
        }
    };
    let fault = fault(&bundle, text, format, checkpoints, key);
    BundleVerdict {
        intact: fault.is_none(),
        file,
        sessions: bundle.sessions.len(),
        records: bundle.sessions.iter().map(|session| session.records.len()).sum(),
        transcript_lines: bundle.sessions.iter().map(|session| session.transcript.len()).sum(),
        host: Some(bundle.host),
        exported_at: Some(bundle.exported_at),
        key: Some(bundle.key),
        key_is_known: key.is_some(),
        fault,
    }
}

fn fault(
    bundle: &Bundle,
    text: &str,
    format: ExportFormat,
    checkpoints: &[Checkpoint],
    key: Option<PublicKey>,
) -> Option<String> {
    if let Err(fault) = bundle.check(checkpoints) {
        return Some(BadBundle::to_string(&fault));
    }
    if let Some(key) = key.filter(|key| *key != bundle.key) {
        return Some(format!("it is signed with the key {}, not with {key}", bundle.key));
    }
    if let Some(why) = bundle.sessions.iter().find_map(story::cut_transcript) {
        return Some(why);
    }
    match made(bundle, format) {
        Ok(again) if again == text => None,
        Ok(_) if format == ExportFormat::Json => None,
        Ok(_) if !text.contains(MAKER) => Some(format!(
            "it was made by another version than {MAKER}, which cannot tell whether it says what the bundle in \
             it says; that bundle is as it was handed out"
        )),
        Ok(_) => {
            Some("it does not say what the bundle in it says: the page was changed".to_owned())
        }
        Err(refusal) => Some(refusal.message),
    }
}

/// The verdict for a person.
pub(crate) fn in_words(verdict: &BundleVerdict) -> String {
    use crate::terminal::{GREEN, RED, YELLOW, painted, safe};
    let file = safe(&verdict.file);
    if let Some(fault) = &verdict.fault {
        return format!("{} {file}: {}\n", painted(RED, "CHANGED:"), safe(fault));
    }
    let known = |text: &Option<String>| text.as_ref().map_or("-".to_owned(), safe);
    let mut text = format!(
        "{} {file}: {} records and {} lines of transcripts of {} sessions, handed out by {} at {}\n",
        painted(GREEN, "intact:"),
        verdict.records,
        verdict.transcript_lines,
        verdict.sessions,
        known(&verdict.host),
        known(&verdict.exported_at),
    );
    if let Some(key) = verdict.key.filter(|_| !verdict.key_is_known) {
        text.push_str(&format!(
            "{} signed with the key {key}, which is the file's own word:\n  compare it with what \
             `godebugctl audit key` prints on that host, or give that with --key\n",
            painted(YELLOW, "note:"),
        ));
    }
    text
}
