//! Cuts an expression into Go's tokens, newlines that end a statement included.
//!
//! Source: go/scanner of Go's library, which dlv calls through `parser.ParseExpr`. The longest
//! operator wins, even where no expression can have it, so that `a--b` is refused here as there.

use super::error::Fault;
use super::letters::is_letter;
use super::literal;

/// What a piece of the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Name,
    Keyword(Keyword),
    /// A whole number without `i`.
    Integer,
    /// Any other number.
    Number,
    Character,
    Text,
    /// An operator or a bracket.
    Sign(&'static str),
    /// A newline where Go puts a semicolon: after a name, a literal or a closing bracket. The end
    /// of the text counts as one, and that one is not told apart from [`Token::End`].
    Newline,
    End,
}

/// Go's keywords: those that a type starts with, and all the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    Chan,
    Func,
    Interface,
    Map,
    Struct,
    Other,
}

impl Token {
    /// For a person: the kind of thing, not its words.
    pub(super) fn described(self) -> &'static str {
        match self {
            Self::Name => "a name",
            Self::Keyword(_) => "a word that is Go's own",
            Self::Integer | Self::Number => "a number",
            Self::Character => "a character",
            Self::Text => "a string",
            Self::Sign(sign) => sign,
            Self::Newline => "a new line",
            Self::End => "the end",
        }
    }

    /// Whether a newline after it ends the statement.
    fn ends_statement(self) -> bool {
        match self {
            Self::Name | Self::Integer | Self::Number | Self::Character | Self::Text => true,
            Self::Sign(sign) => matches!(sign, ")" | "]" | "}" | "++" | "--"),
            _ => false,
        }
    }
}

/// A token and its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) token: Token,
    pub(super) start: usize,
    pub(super) end: usize,
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    newline_counts: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, newline_counts: false }
    }

    pub(super) fn next(&mut self) -> Result<Piece, Fault> {
        let newline = self.skip_blanks()?;
        let start = self.at;
        if newline && self.newline_counts {
            self.newline_counts = false;
            return Ok(Piece { token: Token::Newline, start, end: start });
        }
        let (token, end) = self.token_at(start)?;
        self.at = end;
        self.newline_counts = token.ends_statement();
        Ok(Piece { token, start, end })
    }

    fn token_at(&self, start: usize) -> Result<(Token, usize), Fault> {
        let Some(first) = self.rest().chars().next() else {
            return Ok((Token::End, start));
        };
        let bytes = self.text.as_bytes();
        let next = bytes.get(start + 1).copied().unwrap_or(0);
        if is_letter(first) {
            let end = self.end_of_name();
            let name = self.text.get(start..end).unwrap_or_default();
            return Ok((keyword(name).map_or(Token::Name, Token::Keyword), end));
        }
        match first {
            '0'..='9' => literal::number(bytes, start),
            '.' if next.is_ascii_digit() => literal::number(bytes, start),
            '"' => Ok((Token::Text, literal::string(bytes, start)?)),
            '`' => Ok((Token::Text, literal::raw_string(bytes, start)?)),
            '\'' => Ok((Token::Character, literal::character(self.text, start)?)),
            _ => self.sign().map(|sign| (Token::Sign(sign), start + sign.len())),
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn end_of_name(&self) -> usize {
        let rest = self.rest();
        let length = rest.find(|c: char| !is_letter(c) && !c.is_ascii_digit());
        self.at + length.unwrap_or(rest.len())
    }

    fn sign(&self) -> Result<&'static str, Fault> {
        let rest = self.rest();
        SIGNS
            .iter()
            .copied()
            .find(|sign| rest.starts_with(sign))
            .ok_or_else(|| Fault::malformed(self.at, "this character has no meaning in Go"))
    }

    /// Skips spaces and comments, and says whether a line ended among them.
    fn skip_blanks(&mut self) -> Result<bool, Fault> {
        let mut newline = false;
        loop {
            let rest = self.rest();
            match rest.as_bytes() {
                [b'\n', ..] => {
                    newline = true;
                    self.at += 1;
                }
                [b' ' | b'\t' | b'\r', ..] => self.at += 1,
                [b'/', b'/', ..] => {
                    self.refuse_directive()?;
                    newline = true;
                    self.at += rest.find('\n').unwrap_or(rest.len());
                }
                [b'/', b'*', ..] => {
                    self.refuse_directive()?;
                    newline |= self.skip_comment()?;
                }
                _ => return Ok(newline),
            }
        }
    }

    /// A `line` comment changes what Go says about places, and Go refuses some of them.
    fn refuse_directive(&self) -> Result<(), Fault> {
        match self.rest().get(2..).is_some_and(|comment| comment.starts_with("line ")) {
            true => Err(Fault::refused(self.at, "a comment that starts with 'line'")),
            false => Ok(()),
        }
    }

    fn skip_comment(&mut self) -> Result<bool, Fault> {
        let inner = self.rest().get(2..).unwrap_or_default();
        let length = inner
            .find("*/")
            .ok_or_else(|| Fault::malformed(self.at, "a comment without its end"))?;
        self.at += 2 + length + 2;
        Ok(inner.as_bytes().get(..length).is_some_and(|comment| comment.contains(&b'\n')))
    }
}

/// Go's operators and brackets, the longer before its own start.
const SIGNS: &[&str] = &[
    "<<=", ">>=", "&^=", "...", "&&", "||", "<-", "++", "--", "==", "!=", "<=", ">=", ":=", "+=",
    "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<", ">>", "&^", "+", "-", "*", "/", "%", "&", "|",
    "^", "<", ">", "=", "!", "~", "(", ")", "[", "]", "{", "}", ",", ".", ";", ":",
];

fn keyword(name: &str) -> Option<Keyword> {
    Some(match name {
        "chan" => Keyword::Chan,
        "func" => Keyword::Func,
        "interface" => Keyword::Interface,
        "map" => Keyword::Map,
        "struct" => Keyword::Struct,
        "break" | "case" | "const" | "continue" | "default" | "defer" | "else" | "fallthrough"
        | "for" | "go" | "goto" | "if" | "import" | "package" | "range" | "return" | "select"
        | "switch" | "type" | "var" => Keyword::Other,
        _ => return None,
    })
}
