//! Reads a type where only a type can stand. Of Go's types it takes those that a debugger prints:
//! parameters without names, array lengths in digits, interfaces without unions.
//!
//! Source: `tryIdentOrType` and what it calls in go/parser.

use super::error::Fault;
use super::lexer::{Keyword, Token};
use super::parser::Parser;

const A_TYPE: &str = "a type";

impl Parser<'_> {
    /// A type and nothing else.
    pub(super) fn types_only(&mut self) -> Result<(), Fault> {
        self.deeper(Self::any_type)
    }

    fn any_type(&mut self) -> Result<(), Fault> {
        // Go nests `**T`, so each star would count as a level; a loop costs no stack.
        while self.take("*")? {}
        match self.piece.token {
            Token::Name => self.named_type(),
            Token::Sign("(") => {
                self.advance()?;
                self.types_only()?;
                self.expect(")")
            }
            Token::Sign("[") => self.array_type(),
            Token::Sign("<-") => {
                self.advance()?;
                match self.piece.token {
                    Token::Keyword(Keyword::Chan) => self.advance()?,
                    _ => return Err(self.unexpected("'chan'")),
                }
                self.types_only()
            }
            Token::Keyword(keyword) => self.spelled_type(keyword),
            _ => Err(self.unexpected(A_TYPE)),
        }
    }

    /// `T`, `pkg.T`, `pkg.T[int, string]`.
    fn named_type(&mut self) -> Result<(), Fault> {
        self.advance()?;
        if self.take(".")? {
            self.expect_name()?;
        }
        if self.take("[")? {
            self.types_only()?;
            while self.take(",")? {
                self.types_only()?;
            }
            self.expect("]")?;
        }
        Ok(())
    }

    fn expect_name(&mut self) -> Result<(), Fault> {
        match self.piece.token {
            Token::Name => self.advance(),
            _ => Err(self.unexpected("a name")),
        }
    }

    /// `[]T` and `[4]T`.
    fn array_type(&mut self) -> Result<(), Fault> {
        self.advance()?;
        if self.piece.token == Token::Integer {
            self.advance()?;
        }
        self.expect("]")?;
        self.types_only()
    }

    fn spelled_type(&mut self, keyword: Keyword) -> Result<(), Fault> {
        match keyword {
            Keyword::Map => {
                self.advance()?;
                self.expect("[")?;
                self.types_only()?;
                self.expect("]")?;
                self.types_only()
            }
            Keyword::Chan => {
                self.advance()?;
                self.take("<-")?;
                self.types_only()
            }
            Keyword::Func => {
                self.advance()?;
                self.signature()
            }
            Keyword::Struct => {
                self.advance()?;
                self.members(Self::field)
            }
            Keyword::Interface => {
                self.advance()?;
                self.members(Self::method)
            }
            Keyword::Other => Err(self.unexpected(A_TYPE)),
        }
    }

    /// Parameters and results, all without names.
    fn signature(&mut self) -> Result<(), Fault> {
        self.parameters(true)?;
        match self.piece.token {
            Token::Sign("(") => self.parameters(false),
            Token::Name | Token::Sign("*" | "[" | "<-") => self.types_only(),
            Token::Keyword(keyword) if keyword != Keyword::Other => self.types_only(),
            _ => Ok(()),
        }
    }

    fn parameters(&mut self, variadic: bool) -> Result<(), Fault> {
        self.expect("(")?;
        while !self.is(")") {
            let last = variadic && self.take("...")?;
            self.types_only()?;
            if last || !self.take(",")? {
                break;
            }
        }
        self.expect(")")
    }

    /// `{member; member}`, where a newline is as good as a semicolon.
    fn members(&mut self, member: impl Fn(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.expect("{")?;
        while !self.is("}") {
            member(self)?;
            if self.piece.token == Token::Newline {
                self.advance()?;
            } else if !self.take(";")? {
                break;
            }
        }
        self.expect("}")
    }

    /// `a, b T "tag"`, or an embedded `T`, `pkg.T`, `*T`.
    fn field(&mut self) -> Result<(), Fault> {
        if self.take("*")? {
            self.expect_name()?;
            if self.take(".")? {
                self.expect_name()?;
            }
        } else {
            self.expect_name()?;
            match self.piece.token {
                Token::Sign(".") => {
                    self.advance()?;
                    self.expect_name()?;
                }
                Token::Sign(";" | "}") | Token::Newline | Token::Text => {}
                _ => {
                    while self.take(",")? {
                        self.expect_name()?;
                    }
                    self.types_only()?;
                }
            }
        }
        if self.piece.token == Token::Text {
            self.advance()?;
        }
        Ok(())
    }

    /// `Name(T) T`, or an embedded `T` or `pkg.T`.
    fn method(&mut self) -> Result<(), Fault> {
        self.expect_name()?;
        if self.take(".")? {
            return self.expect_name();
        }
        if self.is("(") { self.signature() } else { Ok(()) }
    }
}
