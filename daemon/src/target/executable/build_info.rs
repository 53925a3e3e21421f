//! The build information that Go's linker puts into every program: where it begins, and its text.
//!
//! The format is that of Go's debug/buildinfo: since 1.18 two strings follow the header, before
//! that the header points to them.

use godebug_api::documents::SourceModule;

/// The header's beginning; it lies at a multiple of 16.
pub(super) const MAGIC: &[u8] = b"\xff Go buildinf:";
pub(super) const ALIGNMENT: usize = 16;
pub(super) const HEADER: usize = 32;
/// The linker frames the modules' text with marks of this length.
const MARK: usize = 16;
/// Go itself records about twenty settings.
const MOST_SETTINGS: usize = 256;
/// The largest programs have some hundreds.
const MOST_DEPENDENCIES: usize = 2000;
const LONGEST_VALUE: usize = 16 * 1024;

/// How the header leads to the two strings, the Go version and the modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// They follow the header, each after its length.
    Inline,
    /// The header has two pointers to string headers, each of this many bytes.
    Pointers { size: usize, little_endian: bool },
}

/// Where the build information begins in `data`, which begins at a multiple of 16.
pub(super) fn find(data: &[u8]) -> Option<usize> {
    let mut blocks = data.chunks(ALIGNMENT);
    blocks.position(|block| block.starts_with(MAGIC)).map(|index| index * ALIGNMENT)
}

/// Reads the header's two bytes that say how to go on.
pub(super) fn layout(header: &[u8]) -> Option<Layout> {
    let (size, flags) = (usize::from(*header.get(14)?), *header.get(15)?);
    if flags & 2 != 0 {
        return Some(Layout::Inline);
    }
    matches!(size, 4 | 8).then_some(Layout::Pointers { size, little_endian: flags & 1 == 0 })
}

/// The two strings behind the header.
pub(super) fn inline_strings(after_header: &[u8]) -> Option<(&[u8], &[u8])> {
    let (version, rest) = take_string(after_header)?;
    let (modules, _) = take_string(rest)?;
    Some((version, modules))
}

fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = take_varint(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        let part = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit only.
        if index == 9 && part > 1 {
            return None;
        }
        value |= part << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

/// What the modules' text says about the program and what it was built from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Modules {
    pub(super) package: Option<String>,
    pub(super) module: Option<String>,
    pub(super) version: Option<String>,
    pub(super) dependencies: Vec<SourceModule>,
    pub(super) settings: Vec<(String, String)>,
}

/// Reads the modules' text with its marks. A program built without modules has none.
pub(super) fn modules(framed: &[u8]) -> Modules {
    let mut found = Modules::default();
    let inner = framed.len().checked_sub(MARK).and_then(|end| framed.get(MARK..end));
    let Some(text) = inner.filter(|text| text.ends_with(b"\n")) else { return found };
    for line in String::from_utf8_lossy(text).lines() {
        let mut fields = line.split('\t');
        match fields.next() {
            Some("path") => found.package = fields.next().and_then(word),
            Some("mod") => {
                found.module = fields.next().and_then(word);
                found.version = fields.next().and_then(word);
            }
            Some("dep") if found.dependencies.len() < MOST_DEPENDENCIES => {
                let name = named(&mut fields);
                found
                    .dependencies
                    .extend(name.map(|name| SourceModule { name, replaced_by: None }));
            }
            // Of the line before.
            Some("=>") => {
                if let Some(last) = found.dependencies.last_mut() {
                    last.replaced_by = named(&mut fields);
                }
            }
            Some("build") if found.settings.len() < MOST_SETTINGS => {
                let setting = line.split_once('\t').and_then(|(_, text)| parse_setting(text));
                found.settings.extend(setting);
            }
            _ => {}
        }
    }
    found
}

/// `PATH@VERSION`; a folder has no version.
fn named<'a>(fields: &mut impl Iterator<Item = &'a str>) -> Option<String> {
    let path = fields.next().and_then(word)?;
    let version = fields.next().and_then(word);
    Some(version.map_or_else(|| path.clone(), |version| format!("{path}@{version}")))
}

/// A value as it may be kept and shown; `None` for an empty one.
fn word(text: &str) -> Option<String> {
    let text: String = text.chars().take(LONGEST_VALUE).collect();
    (!text.is_empty()).then(|| crate::target::process::printable(&text))
}

/// Reads `KEY=VALUE`, each of which Go quotes when it contains blanks, quotes or an equals sign.
fn parse_setting(text: &str) -> Option<(String, String)> {
    let (key, value) = if text.starts_with(['"', '`']) {
        let (key, rest) = take_quoted(text)?;
        (key, rest.strip_prefix('=')?)
    } else {
        let (key, value) = text.split_once('=')?;
        (key.to_owned(), value)
    };
    let value = match value.starts_with(['"', '`']) {
        true => take_quoted(value)?.0,
        false => value.to_owned(),
    };
    Some((word(&key)?, word(&value).unwrap_or_default()))
}

/// A Go string literal at the beginning of `text`, and what follows it.
fn take_quoted(text: &str) -> Option<(String, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        return raw.split_once('`').map(|(value, rest)| (value.to_owned(), rest));
    }
    let mut rest = text.strip_prefix('"')?.chars();
    // Bytes, since an escape may stand for a part of a character.
    let mut value = Vec::new();
    loop {
        match rest.next()? {
            '"' => return Some((String::from_utf8_lossy(&value).into_owned(), rest.as_str())),
            '\\' => take_escape(&mut rest, &mut value)?,
            c => push(&mut value, c),
        }
    }
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// The escapes that Go's strconv.Quote writes: one letter, or `\x`, `\u` and `\U` with digits.
fn take_escape(rest: &mut std::str::Chars<'_>, value: &mut Vec<u8>) -> Option<()> {
    let letter = rest.next()?;
    let digits = match letter {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => 0,
    };
    let number = (0..digits)
        .try_fold(0u32, |number, _| Some(number.checked_mul(16)? + rest.next()?.to_digit(16)?))?;
    match letter {
        'a' => value.push(7),
        'b' => value.push(8),
        't' => value.push(b'\t'),
        'n' => value.push(b'\n'),
        'v' => value.push(11),
        'f' => value.push(12),
        'r' => value.push(b'\r'),
        '\\' | '"' | '\'' => value.push(u8::try_from(letter).ok()?),
        'x' => value.push(u8::try_from(number).ok()?),
        'u' | 'U' => push(value, char::from_u32(number)?),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(text: &str) -> Vec<u8> {
        [&[b'<'; MARK][..], text.as_bytes(), &[b'>'; MARK]].concat()
    }

    #[test]
    fn the_header_is_found_only_where_it_is_aligned() {
        let mut data = vec![0; 64];
        data[8..8 + MAGIC.len()].copy_from_slice(MAGIC);
        assert_eq!(find(&data), None);
        data[32..32 + MAGIC.len()].copy_from_slice(MAGIC);
        assert_eq!(find(&data), Some(32));
    }

    #[test]
    fn both_layouts_are_told_apart() {
        let header = |size, flags| [&[0; 14][..], &[size, flags]].concat();
        assert_eq!(layout(&header(8, 2)), Some(Layout::Inline));
        let pointers = |size, little_endian| Some(Layout::Pointers { size, little_endian });
        assert_eq!(layout(&header(8, 0)), pointers(8, true));
        assert_eq!(layout(&header(4, 1)), pointers(4, false));
        assert_eq!(layout(&header(200, 0)), None);
    }

    #[test]
    fn inline_strings_have_their_lengths_before_them() {
        let long = "x".repeat(300);
        let data = [b"\x08go1.24.4\xac\x02", long.as_bytes(), b"rest"].concat();
        assert_eq!(inline_strings(&data), Some((&b"go1.24.4"[..], long.as_bytes())));
        assert_eq!(inline_strings(&data[..100]), None);
        assert_eq!(inline_strings(&[0xff; 40]), None);
    }

    #[test]
    fn the_main_module_and_the_settings_are_read() {
        let text = "path\texample.com/shop/cmd\nmod\texample.com/shop\t(devel)\t\n\
            dep\tgolang.org/x/net\tv0.1.0\n=>\t./net\t\n\
            dep\tgithub.com/Old/x\tv1.2.0\n=>\tgithub.com/new/x\tv1.2.1\th1:abc=\n\
            dep\tgo.uber.org/zap\tv1.27.0\th1:abc=\n\
            build\t-ldflags=\"-s -w -X \\\"main.v=\\u00e91\\\"\"\nbuild\tCGO_ENABLED=0\n\
            build\t\"odd key\"=`raw`\nbuild\tvcs.time=2024-01-02T03:04:05Z\nbuild\tempty=\n";
        let found = modules(&framed(text));
        assert_eq!(found.package.as_deref(), Some("example.com/shop/cmd"));
        assert_eq!(found.module.as_deref(), Some("example.com/shop"));
        assert_eq!(found.version.as_deref(), Some("(devel)"));
        let module = |name: &str, replaced_by: Option<&str>| SourceModule {
            name: name.to_owned(),
            replaced_by: replaced_by.map(str::to_owned),
        };
        assert_eq!(
            found.dependencies,
            [
                module("golang.org/x/net@v0.1.0", Some("./net")),
                module("github.com/Old/x@v1.2.0", Some("github.com/new/x@v1.2.1")),
                module("go.uber.org/zap@v1.27.0", None),
            ]
        );
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            found.settings,
            [
                pair("-ldflags", "-s -w -X \"main.v=é1\""),
                pair("CGO_ENABLED", "0"),
                pair("odd key", "raw"),
                pair("vcs.time", "2024-01-02T03:04:05Z"),
                pair("empty", ""),
            ]
        );
    }

    #[test]
    fn text_without_its_frame_is_no_modules() {
        assert_eq!(modules(b""), Modules::default());
        assert_eq!(modules(&framed("path\tx")), Modules::default());
    }

    #[test]
    fn what_a_terminal_would_obey_is_replaced() {
        let found = modules(&framed("path\tx\x1b[2J\nbuild\tk=\"\\x1b]0;\\a\"\n"));
        assert_eq!(found.package.as_deref(), Some("x\u{fffd}[2J"));
        assert_eq!(found.settings[0].1, "\u{fffd}]0;\u{fffd}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, text: String) {
            find(&bytes);
            layout(&bytes);
            inline_strings(&bytes);
            modules(&bytes);
            modules(&framed(&format!("path\t{text}\nbuild\t{text}\nbuild\t\"{text}\n")));
            take_quoted(&format!("\"\\{text}"));
        }

        #[test]
        fn quoted_values_come_back(value in "[^\\p{Cc}]{0,40}") {
            let quoted = format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(take_quoted(&quoted), Some((value, "")));
        }
    }
}
