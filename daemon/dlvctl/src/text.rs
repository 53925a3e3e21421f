//! Makes what others wrote safe to show on a terminal.

/// `bytes` as text: line ends and tabs stay, every other control and every mark that turns the
/// direction of writing is spelled out.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '\n' | '\t' => text.push(c),
            '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => text.extend(c.escape_unicode()),
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(printable(b"a\x1b[2J\r\tb\n\xff"), "a\\u{1b}[2J\\r\tb\n\u{fffd}");
        assert_eq!(printable("grün \u{202e}\u{9b}".as_bytes()), "grün \\u{202e}\\u{9b}");
    }
}
