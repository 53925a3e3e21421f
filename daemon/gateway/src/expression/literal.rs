//! Finds the end of a literal and refuses what Go refuses in one: a digit too many, an escape it
//! does not know, an underscore in the wrong place.
//!
//! Source: `scanNumber`, `scanString`, `scanRawString`, `scanRune` and `scanEscape` of go/scanner.

use super::error::Fault;
use super::lexer::Token;

const UNFINISHED: &str = "a string or character without its closing quote";

/// A number and its end: every form that Go has, hexadecimal floats and `i` included.
pub(super) fn number(bytes: &[u8], start: usize) -> Result<(Token, usize), Fault> {
    let base = Base::of(bytes, start);
    let mut at = start + base.prefix();
    let whole = digits(bytes, &mut at, base);
    let mut fraction = 0;
    let point = bytes.get(at) == Some(&b'.');
    if point {
        at += 1;
        fraction = digits(bytes, &mut at, base);
    }
    if whole + fraction == 0 {
        return Err(Fault::malformed(start, "a number without digits"));
    }
    let exponent = exponent(bytes, &mut at, base).map_err(|why| Fault::malformed(start, why))?;
    let float = point || exponent;
    if float && matches!(base, Base::Binary | Base::Octal) {
        return Err(Fault::malformed(start, "a fraction that is neither decimal nor hexadecimal"));
    }
    if point && !exponent && matches!(base, Base::Hexadecimal) {
        return Err(Fault::malformed(start, "a hexadecimal fraction without its 'p'"));
    }
    let imaginary = bytes.get(at) == Some(&b'i');
    let written = bytes.get(start..at).unwrap_or_default();
    check_digits(written, base, float || imaginary).map_err(|why| Fault::malformed(start, why))?;
    match imaginary {
        true => Ok((Token::Number, at + 1)),
        false => Ok((if float { Token::Number } else { Token::Integer }, at)),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Base {
    Binary,
    Octal,
    Decimal,
    Hexadecimal,
}

impl Base {
    fn of(bytes: &[u8], start: usize) -> Self {
        match (bytes.get(start), bytes.get(start + 1)) {
            (Some(b'0'), Some(b'x' | b'X')) => Self::Hexadecimal,
            (Some(b'0'), Some(b'o' | b'O')) => Self::Octal,
            (Some(b'0'), Some(b'b' | b'B')) => Self::Binary,
            _ => Self::Decimal,
        }
    }

    fn prefix(self) -> usize {
        if self == Self::Decimal { 0 } else { 2 }
    }
}

/// Passes digits and underscores; the number of digits.
fn digits(bytes: &[u8], at: &mut usize, base: Base) -> usize {
    let mut count = 0;
    while let Some(byte) = bytes.get(*at) {
        match byte {
            b'_' => {}
            b'0'..=b'9' => count += 1,
            _ if base == Base::Hexadecimal && byte.is_ascii_hexdigit() => count += 1,
            _ => break,
        }
        *at += 1;
    }
    count
}

/// Passes an exponent, if there is one.
fn exponent(bytes: &[u8], at: &mut usize, base: Base) -> Result<bool, &'static str> {
    match (bytes.get(*at), base) {
        (Some(b'e' | b'E'), Base::Decimal) | (Some(b'p' | b'P'), Base::Hexadecimal) => {}
        (Some(b'e' | b'E' | b'p' | b'P'), _) => {
            return Err("an exponent that does not go with the number's base");
        }
        _ => return Ok(false),
    }
    *at += 1;
    if matches!(bytes.get(*at), Some(b'+' | b'-')) {
        *at += 1;
    }
    match digits(bytes, at, Base::Decimal) {
        0 => Err("an exponent without digits"),
        _ => Ok(true),
    }
}

/// The digits fit the base, and each underscore stands between two of them.
fn check_digits(written: &[u8], base: Base, float: bool) -> Result<(), &'static str> {
    let old_octal = base == Base::Decimal && !float && written.first() == Some(&b'0');
    let highest = match base {
        Base::Binary => b'1',
        Base::Octal => b'7',
        Base::Decimal if old_octal => b'7',
        Base::Decimal | Base::Hexadecimal => b'9',
    };
    if written.iter().any(|byte| byte.is_ascii_digit() && *byte > highest) {
        return Err("a digit that the number's base does not have");
    }
    // The prefix counts as a digit: 0x_1 is a number.
    let mut before = b'_';
    for (place, byte) in written.iter().copied().enumerate() {
        let kind = match byte {
            b'_' => b'_',
            _ if place < base.prefix() || byte.is_ascii_digit() => b'0',
            _ if base == Base::Hexadecimal && byte.is_ascii_hexdigit() => b'0',
            _ => b'.',
        };
        if (kind == b'_' && before != b'0') || (kind == b'.' && before == b'_' && place > 0) {
            return Err("an underscore that is not between digits");
        }
        before = kind;
    }
    if before == b'_' { Err("an underscore that is not between digits") } else { Ok(()) }
}

/// The end of a string in double quotes.
pub(super) fn string(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at = escape(bytes, at, b'"')?,
            None | Some(b'\n') => return Err(Fault::malformed(start, UNFINISHED)),
            Some(_) => at += 1,
        }
    }
}

/// The end of a string in backquotes.
pub(super) fn raw_string(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    let rest = bytes.get(start + 1..).unwrap_or_default();
    match rest.iter().position(|byte| *byte == b'`') {
        Some(length) => Ok(start + 1 + length + 1),
        None => Err(Fault::malformed(start, UNFINISHED)),
    }
}

/// The end of a character in single quotes: exactly one, or one escape.
pub(super) fn character(text: &str, start: usize) -> Result<usize, Fault> {
    let bytes = text.as_bytes();
    let first = text.get(start + 1..).and_then(|rest| rest.chars().next());
    let end = match first {
        Some('\'') => return Err(Fault::malformed(start, "a character literal without character")),
        Some('\\') => escape(bytes, start + 1, b'\'')?,
        None | Some('\n') => return Err(Fault::malformed(start, UNFINISHED)),
        Some(character) => start + 1 + character.len_utf8(),
    };
    match bytes.get(end) {
        Some(b'\'') => Ok(end + 1),
        _ => Err(Fault::malformed(start, "a character literal with more than one character")),
    }
}

/// The end of the escape that starts at `at`.
fn escape(bytes: &[u8], at: usize, quote: u8) -> Result<usize, Fault> {
    let (radix, length, from, limit) = match bytes.get(at + 1) {
        Some(b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'\\') => return Ok(at + 2),
        Some(byte) if *byte == quote => return Ok(at + 2),
        Some(b'0'..=b'7') => (8, 3, at + 1, 255),
        Some(b'x') => (16, 2, at + 2, 255),
        Some(b'u') => (16, 4, at + 2, 0x0010_FFFF),
        Some(b'U') => (16, 8, at + 2, 0x0010_FFFF),
        _ => return Err(Fault::malformed(at, "an escape that Go does not know")),
    };
    let mut value: u32 = 0;
    for offset in 0..length {
        let digit = bytes.get(from + offset).and_then(|byte| char::from(*byte).to_digit(radix));
        let digit = digit.ok_or_else(|| Fault::malformed(at, "an escape with too few digits"))?;
        value = value.saturating_mul(radix).saturating_add(digit);
    }
    if value > limit || (0xD800..0xE000).contains(&value) {
        return Err(Fault::malformed(at, "an escape for a character that does not exist"));
    }
    Ok(from + length)
}
