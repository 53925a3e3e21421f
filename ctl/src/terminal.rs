//! Text as a terminal may show it: made harmless, and measured in columns.

use std::fmt::Write;

/// The colours that our own text uses. [`filtered`] lets these sequences through and no other.
pub(crate) const BOLD: &str = "\u{1b}[1m";
pub(crate) const DIM: &str = "\u{1b}[2m";
pub(crate) const RED: &str = "\u{1b}[31m";
pub(crate) const GREEN: &str = "\u{1b}[32m";
pub(crate) const YELLOW: &str = "\u{1b}[33m";
pub(crate) const PLAIN: &str = "\u{1b}[0m";
const OURS: [&str; 6] = [BOLD, DIM, RED, GREEN, YELLOW, PLAIN];

/// `text` in one of the colours above.
pub(crate) fn painted(colour: &str, text: &str) -> String {
    format!("{colour}{text}{PLAIN}")
}

/// A value that somebody else chose, as one line without anything that acts on a terminal or
/// could make the line read as something else.
pub(crate) fn safe(value: impl std::fmt::Display) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        if acts(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// A whole text on its way to a terminal: line breaks stay, our colours stay if `colours`, and
/// every other control character is shown instead of sent.
///
/// This is the last gate, whatever the renderers forgot.
pub(crate) fn filtered(text: &str, colours: bool) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(sequence) = OURS.iter().find(|sequence| rest.starts_with(**sequence)) {
            if colours {
                result.push_str(sequence);
            }
            rest = &rest[sequence.len()..];
            continue;
        }
        if c == '\n' || !acts(c) {
            result.push(c)
        } else {
            result.extend(c.escape_default())
        }
        rest = &rest[c.len_utf8()..];
    }
    result
}

/// JSON text with the characters escaped that JSON allows and terminals act on. They can stand only
/// inside strings, where the escape means the same.
pub(crate) fn safe_json(json: &str) -> String {
    let mut result = String::with_capacity(json.len());
    for c in json.chars() {
        if acts(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a String cannot fail.
                let _ = write!(result, "\\u{unit:04x}");
            }
        } else {
            result.push(c);
        }
    }
    result
}

/// Whether a terminal acts on `c`, or shows nothing, or shows what follows in another order.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// How many columns `text` takes, which must be free of control characters.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// The columns of one character: the ranges that all terminals agree on (Unicode's East Asian Width
/// W and F, combining marks), which is enough to keep a table straight.
fn columns(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{fe20}'..='\u{fe2f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f900}'..='\u{1f9ff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// `text` cut to `most` columns, with an ellipsis where something was cut.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut result = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += columns(c);
        if used >= most {
            break;
        }
        result.push(c);
    }
    result.push('…');
    result
}

/// `text` filled with blanks to `columns`.
pub(crate) fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Rows in columns, the first row a heading; two blanks between columns, none at the end of a line.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(widest).collect();
    let mut result = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| padded(cell, *width)).collect();
        result.push_str(cells.join("  ").trim_end());
        result.push('\n');
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_gets_through() {
        let hostile = "a\u{1b}[2J\u{9b}31m\r\u{7}\u{202e}b\nc\u{7f}\u{200b}";
        let line = safe(hostile);
        assert!(line.is_ascii() && !line.chars().any(char::is_control), "{line}");
        let text = filtered(hostile, true);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.chars().any(|c| c != '\n' && acts(c)), "{text}");
    }

    #[test]
    fn colours_are_ours_alone_and_only_when_wanted() {
        let text = format!("{} \u{1b}[5mblink", painted(GREEN, "✓"));
        assert_eq!(filtered(&text, true), "\u{1b}[32m✓\u{1b}[0m \\u{1b}[5mblink");
        assert_eq!(filtered(&text, false), "✓ \\u{1b}[5mblink");
    }

    #[test]
    fn json_stays_the_same_document_and_becomes_harmless() {
        let value = serde_json::json!({"a": "x\u{9b}y\u{202e}z\u{e0041}\u{7f} ä"});
        let text = safe_json(&value.to_string());
        assert!(!text.chars().any(acts), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn tables_are_straight_with_wide_and_combining_characters() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let text = table(&[row(&["A", "B"]), row(&["日本", "x"]), row(&["e\u{301}", "y"])]);
        assert_eq!(text, "A     B\n日本  x\ne\u{301}     y\n");
    }

    #[test]
    fn shortening_counts_columns() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "ab…");
        assert_eq!(width(&shortened("日本語", 4)), 3);
    }
}
