//! `.vscode/launch.json`: our entry is put in, or in the place of the one of before, and nothing else of the file is
//! touched, its comments least of all.

use serde_json::{Value, json};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// People's own are a few kilobytes.
const LONGEST: u64 = 1 << 20;

/// Why it is not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotWritten {
    #[error("{0} cannot be read: {1}")]
    Unreadable(PathBuf, io::Error),
    #[error("{0} cannot be written: {1}")]
    Unwritable(PathBuf, io::Error),
    #[error("{0} has no list of \"configurations\" that could be understood")]
    Unclear(PathBuf),
    #[error("{0} is a link, or something else that is not written to")]
    Link(PathBuf),
}

/// Puts the entry into the file of this workspace; gives the file's path.
///
/// # Errors
/// Why not. The file is as it was then.
pub(crate) fn update(workspace: &Path, entry: &Value) -> Result<PathBuf, NotWritten> {
    let folder = workspace.join(".vscode");
    let path = folder.join("launch.json");
    for (place, is_folder) in [(&folder, true), (&path, false)] {
        // What is written shall be where it seems to be, and a pipe would be waited at.
        let Ok(there) = place.symlink_metadata() else { continue };
        if there.is_dir() != is_folder || there.is_file() == is_folder {
            return Err(NotWritten::Link(place.clone()));
        }
    }
    let unwritable = |error| NotWritten::Unwritable(path.clone(), error);
    let before = match read(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(NotWritten::Unreadable(path, error)),
    };
    let text = match before.as_deref().map(str::trim) {
        None | Some("") => {
            format!("{:#}\n", json!({ "version": "0.2.0", "configurations": [entry] }))
        }
        Some(_) => {
            let before = before.unwrap_or_default();
            merged(&before, entry).ok_or_else(|| NotWritten::Unclear(path.clone()))?
        }
    };
    std::fs::create_dir_all(&folder).map_err(unwritable)?;
    // Whole or not at all.
    let mut new = tempfile(&folder).map_err(unwritable)?;
    let written = new.1.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&new.0, &path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&new.0);
        return Err(unwritable(error));
    }
    Ok(path)
}

fn read(path: &Path) -> io::Result<String> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.len() > LONGEST {
        return Err(io::Error::other("it is too large"));
    }
    io::read_to_string(io::Read::take(file, LONGEST))
}

fn tempfile(folder: &Path) -> io::Result<(PathBuf, std::fs::File)> {
    let path = folder.join(format!(".launch.json.{}", std::process::id()));
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    Ok((path, file))
}

/// The text with the entry in it; `None` when it is not understood.
fn merged(text: &str, entry: &Value) -> Option<String> {
    let tokens = tokens(text)?;
    let list = list(text, &tokens)?;
    let name = entry["name"].as_str()?;
    let new = indented(entry, "        ");
    let objects = objects(text, &tokens, list.clone())?;
    let is_empty =
        !tokens.iter().any(|token| list.start < token.at.start && token.at.start < list.end);
    let same = objects.iter().find(|object| {
        // Comments and trailing commas are no JSON; without them it is.
        let plain = plain(text, &tokens, (*object).clone());
        serde_json::from_str::<Value>(&plain).is_ok_and(|object| object["name"] == name)
    });
    Some(match same {
        Some(object) => format!("{}{new}{}", &text[..object.start], &text[object.end..]),
        None => {
            let after = &text[list.start + 1..];
            let comma = if is_empty { "" } else { "," };
            format!("{}\n        {new}{comma}{after}", &text[..=list.start])
        }
    })
}

fn indented(entry: &Value, by: &str) -> String {
    format!("{entry:#}").replace('\n', &format!("\n{by}"))
}

/// A piece of the text that matters: a string, or a letter of the structure. Comments are left out.
struct Token {
    at: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    String,
    Structure(u8),
    /// Part of a number or a word.
    Other,
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let bytes = text.as_bytes();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        let rest = &bytes[at..];
        let (length, kind) = match byte {
            b'"' => (string(rest)?, Some(Kind::String)),
            b'/' if rest.starts_with(b"//") => {
                (rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()), None)
            }
            b'/' if rest.starts_with(b"/*") => {
                (2 + rest[2..].windows(2).position(|two| two == b"*/")? + 2, None)
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' => (1, Some(Kind::Structure(*byte))),
            byte if byte.is_ascii_whitespace() => (1, None),
            // A letter whole: what is pasted has blanks of several bytes.
            _ => (text.get(at..)?.chars().next()?.len_utf8(), Some(Kind::Other)),
        };
        if let Some(kind) = kind {
            tokens.push(Token { at: at..at + length, kind });
        }
        at += length;
    }
    Some(tokens)
}

/// The length of a string, its quotes included.
fn string(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// From the bracket that opens the list of configurations to the one that closes it.
fn list(text: &str, tokens: &[Token]) -> Option<Range<usize>> {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Structure(b'{' | b'[') => depth += 1,
            Kind::Structure(b'}' | b']') => depth -= 1,
            Kind::String if depth == 1 && &text[token.at.clone()] == "\"configurations\"" => {
                let opens = tokens.get(index + 2)?;
                let is_list = tokens.get(index + 1)?.kind == Kind::Structure(b':')
                    && opens.kind == Kind::Structure(b'[');
                return is_list.then(|| closes(tokens, index + 2))?.map(|end| opens.at.start..end);
            }
            _ => {}
        }
    }
    None
}

/// Where what this token opens is closed.
fn closes(tokens: &[Token], from: usize) -> Option<usize> {
    let mut depth = 0;
    for token in &tokens[from..] {
        match token.kind {
            Kind::Structure(b'{' | b'[') => depth += 1,
            Kind::Structure(b'}' | b']') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(token.at.start);
        }
    }
    None
}

/// Each entry of the list.
fn objects(text: &str, tokens: &[Token], list: Range<usize>) -> Option<Vec<Range<usize>>> {
    let (mut objects, mut until) = (Vec::new(), list.start + 1);
    for (index, token) in tokens.iter().enumerate() {
        if token.at.start < until || token.at.start >= list.end {
            continue;
        }
        if token.kind == Kind::Structure(b'{') {
            let end = closes(tokens, index)? + 1;
            objects.push(token.at.start..end);
            until = end;
        }
    }
    debug_assert!(list.end < text.len());
    Some(objects)
}

/// The stretch without comments and without commas before a closing bracket.
fn plain(text: &str, tokens: &[Token], stretch: Range<usize>) -> String {
    let inside: Vec<&Token> = tokens
        .iter()
        .filter(|token| token.at.start >= stretch.start && token.at.end <= stretch.end)
        .collect();
    let mut plain = String::new();
    for (index, token) in inside.iter().enumerate() {
        let next = inside.get(index + 1).map(|next| next.kind);
        let is_last = matches!(next, Some(Kind::Structure(b'}' | b']')));
        if token.kind != Kind::Structure(b',') || !is_last {
            plain.push_str(&text[token.at.clone()]);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &str = r#"{
    // Ours: "configurations": [ ]
    "version": "0.2.0",
    "configurations": [
        { "name": "test", "args": ["[", "}"], }, // the usual
        /* before */ { "name": "godebug: shop", "port": 1 },
    ],
    "compounds": [],
}
"#;

    fn entry(port: u16) -> Value {
        json!({ "name": "godebug: shop", "port": port })
    }

    #[test]
    fn an_entry_replaces_the_one_of_before_and_leaves_the_rest_alone() {
        let new = merged(THEIRS, &entry(2345)).unwrap();
        assert!(new.contains("\"port\": 2345") && !new.contains("\"port\": 1 "), "{new}");
        for kept in ["// Ours", "// the usual", "/* before */", "\"compounds\": [],", "\"test\""] {
            assert!(new.contains(kept), "{kept} is gone: {new}");
        }
        // Once more is the same.
        assert_eq!(merged(&new, &entry(2345)), Some(new));
    }

    #[test]
    fn an_entry_that_is_new_comes_first() {
        let theirs = THEIRS.replace("godebug: shop", "other");
        let new = merged(&theirs, &entry(7)).unwrap();
        let (ours, other) = (new.find("godebug: shop"), new.find("\"test\""));
        assert!(ours < other && new.contains("},\n        { \"name\": \"test\""), "{new}");
        let empty = merged("{\"configurations\": []}", &entry(7)).unwrap();
        assert!(serde_json::from_str::<Value>(&empty).is_ok(), "{empty}");
    }

    #[test]
    fn letters_of_several_bytes_are_letters() {
        for text in [
            "{\"configurations\": [ {\u{a0}\"name\": \"test\" } ]}",
            "\u{feff}{\"configurations\": [ {\"name\": \"tést\"} ]}",
        ] {
            let new = merged(text, &entry(1)).unwrap();
            assert!(new.contains("godebug: shop") && new.contains("st\""), "{new}");
        }
        let odd = merged("{\"configurations\": [1]}", &entry(1)).unwrap();
        assert!(serde_json::from_str::<Value>(&odd).is_ok(), "{odd}");
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        for bad in [
            "[]",
            "{}",
            "{\"configurations\": 1}",
            "{\"configurations\": [",
            "\"",
            "/*",
            "{\"a\": {\"configurations\": []}}",
        ] {
            assert_eq!(merged(bad, &entry(1)), None, "{bad}");
        }
    }

    #[test]
    fn a_file_is_made_and_made_anew_and_no_link_is_followed() {
        let folder = std::env::temp_dir().join(format!("launch-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let path = update(&folder, &entry(1)).unwrap();
        update(&folder, &entry(2)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["configurations"], json!([entry(2)]));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(update(&folder, &entry(1)), Err(NotWritten::Link(_))));
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(update(&folder, &entry(1)), Err(NotWritten::Link(_))));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
