//! Reads an expression the way `parser.ParseExpr` of Go does, and takes down names and calls.
//!
//! No tree is built: what follows from a node is known when its last token is read. Precedence of
//! operators does not matter for that, so an operation is a chain of operands, in a loop. Every
//! other nesting counts against [`DEEPEST`], which bounds the stack.

use super::error::{Fault, Problem};
use super::found::{Callee, Found};
use super::lexer::{Keyword, Lexer, Piece, Token};

/// How deep an expression may nest.
pub(super) const DEEPEST: usize = 200;

/// What a node is, as far as calls and types depend on it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// `x`
    Name,
    /// `x.y`, which may be a package's.
    Qualified,
    /// A field of anything else.
    Selector,
    /// `x[y]` or `x.y[z]`, which may be a generic type.
    Instance,
    /// `"text"`
    Text,
    Integer,
    OtherLiteral,
    Call,
    /// `runtime.frame(1)`, before the name of the variable.
    Frame,
    /// What can be nothing but a type, and whether a composite literal can start with it.
    Type {
        literal: bool,
    },
    /// `<-chan T` without parentheses, after which no bracket may follow.
    Receiving,
    Value,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    kind: Kind,
    /// No parentheses or stars around it.
    bare: bool,
    start: usize,
    variable: Option<usize>,
}

impl Node {
    fn is_type(self) -> bool {
        matches!(self.kind, Kind::Type { .. } | Kind::Receiving)
    }

    /// The same in parentheses or under a star, which hide nothing from dlv where it is called.
    fn wrapped(self, start: usize) -> Self {
        let kind = if self.is_type() { Kind::Type { literal: false } } else { self.kind };
        Self { kind, bare: false, start, ..self }
    }

    fn value(self) -> Self {
        Self { kind: Kind::Value, bare: true, ..self }
    }
}

pub(super) struct Parser<'a> {
    pub(super) text: &'a str,
    lexer: Lexer<'a>,
    pub(super) piece: Piece,
    /// Where the token before this one ended.
    previous_end: usize,
    depth: usize,
    composites: bool,
    pub(super) found: Found,
}

/// An expression that was read, and what stopped the reading: the end, or an assignment.
pub(super) struct Reading {
    pub(super) found: Found,
    /// The expression is nothing but a call, and it is the last of those found.
    pub(super) is_call: bool,
    /// Where the `=` after it is.
    pub(super) assigned: Option<usize>,
}

/// Reads `text` to its end, or to an `=` if `assignment`. `composites`: take composite literals.
pub(super) fn read(text: &str, composites: bool, assignment: bool) -> Result<Reading, Fault> {
    let mut parser = Parser::new(text, composites)?;
    let node = parser.value()?;
    let is_call = node.kind == Kind::Call && node.bare;
    if assignment && parser.is("=") {
        let assigned = Some(parser.piece.start);
        return Ok(Reading { found: parser.found, is_call, assigned });
    }
    if parser.piece.token == Token::Newline {
        parser.advance()?;
    }
    match parser.piece.token {
        Token::End => Ok(Reading { found: parser.found, is_call, assigned: None }),
        Token::Sign("=") => Err(Fault::refused(parser.piece.start, "an assignment")),
        _ => Err(parser.unexpected("an operator or the end")),
    }
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, composites: bool) -> Result<Self, Fault> {
        let mut lexer = Lexer::new(text);
        let piece = lexer.next()?;
        let found = Found::default();
        Ok(Self { text, lexer, piece, previous_end: 0, depth: 0, composites, found })
    }

    pub(super) fn advance(&mut self) -> Result<(), Fault> {
        self.previous_end = self.piece.end;
        self.piece = self.lexer.next()?;
        Ok(())
    }

    pub(super) fn is(&self, sign: &str) -> bool {
        matches!(self.piece.token, Token::Sign(found) if found == sign)
    }

    /// Passes `sign` if it is there.
    pub(super) fn take(&mut self, sign: &str) -> Result<bool, Fault> {
        let there = self.is(sign);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    pub(super) fn expect(&mut self, sign: &'static str) -> Result<(), Fault> {
        if self.take(sign)? { Ok(()) } else { Err(self.unexpected(sign)) }
    }

    pub(super) fn unexpected(&self, expected: &'static str) -> Fault {
        let found = self.piece.token.described();
        Fault { at: self.piece.start, problem: Problem::Unexpected { expected, found } }
    }

    /// Goes one level down for as long as `inner` reads.
    pub(super) fn deeper<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if self.depth >= DEEPEST {
            return Err(Fault { at: self.piece.start, problem: Problem::TooDeep(DEEPEST) });
        }
        self.depth += 1;
        let read = inner(self);
        self.depth -= 1;
        read
    }

    fn slice(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or_default()
    }

    fn word(&self) -> &'a str {
        self.slice(self.piece.start, self.piece.end)
    }

    fn require_value(node: Node) -> Result<Node, Fault> {
        if !node.is_type() {
            return Ok(node);
        }
        let problem = Problem::Unexpected { expected: "a value", found: "a type" };
        Err(Fault { at: node.start, problem })
    }

    /// An operation that is a value, not a type.
    fn value(&mut self) -> Result<Node, Fault> {
        let node = self.operation()?;
        Self::require_value(node)
    }

    /// Operands with operators between them, or a type.
    fn operation(&mut self) -> Result<Node, Fault> {
        let mut node = self.deeper(Self::prefixed)?;
        while matches!(self.piece.token, Token::Sign(sign) if BINARY.contains(&sign)) {
            Self::require_value(node)?;
            self.advance()?;
            Self::require_value(self.deeper(Self::prefixed)?)?;
            node = Node { variable: None, ..node.value() };
        }
        Ok(node)
    }

    /// An operand behind any number of unary operators.
    fn prefixed(&mut self) -> Result<Node, Fault> {
        let start = self.piece.start;
        let (mut prefixes, mut only_stars) = (0, true);
        while let Token::Sign(sign @ ("+" | "-" | "!" | "^" | "&" | "*")) = self.piece.token {
            prefixes += 1;
            only_stars &= sign == "*";
            if self.depth + prefixes > DEEPEST {
                return Err(Fault { at: self.piece.start, problem: Problem::TooDeep(DEEPEST) });
            }
            self.advance()?;
        }
        let node = self.primary()?;
        Ok(match (prefixes, only_stars) {
            (0, _) => node,
            (_, true) => node.wrapped(start),
            (_, false) => Node { start, ..Self::require_value(node)?.value() },
        })
    }

    /// An operand and the selectors, indexes and calls after it.
    fn primary(&mut self) -> Result<Node, Fault> {
        let mut node = self.operand()?;
        loop {
            node = match self.piece.token {
                Token::Sign("." | "[" | "(") if node.kind == Kind::Receiving => {
                    return Err(self.unexpected(")"));
                }
                Token::Sign(".") => self.selector(Self::require_value(node)?)?,
                Token::Sign("[") => self.deeper(|parser| parser.index(node))?,
                Token::Sign("(") => self.deeper(|parser| parser.call(node))?,
                Token::Sign("{") => self.deeper(|parser| parser.composite(node))?,
                _ => return Ok(node),
            };
        }
    }

    fn operand(&mut self) -> Result<Node, Fault> {
        let start = self.piece.start;
        let kind = match self.piece.token {
            Token::Name => return self.name(),
            Token::Integer => Kind::Integer,
            Token::Number | Token::Character => Kind::OtherLiteral,
            Token::Text => Kind::Text,
            Token::Sign("(") => {
                self.advance()?;
                let node = self.operation()?;
                self.expect(")")?;
                return Ok(node.wrapped(start));
            }
            Token::Sign("<-") => {
                self.types_only()?;
                return Ok(Node { kind: Kind::Receiving, bare: true, start, variable: None });
            }
            Token::Sign("[") | Token::Keyword(Keyword::Map | Keyword::Struct) => {
                self.types_only()?;
                let kind = Kind::Type { literal: true };
                return Ok(Node { kind, bare: true, start, variable: None });
            }
            Token::Keyword(Keyword::Chan | Keyword::Func | Keyword::Interface) => {
                self.types_only()?;
                let kind = Kind::Type { literal: false };
                return Ok(Node { kind, bare: true, start, variable: None });
            }
            _ => return Err(self.unexpected("a value")),
        };
        self.advance()?;
        Ok(Node { kind, bare: true, start, variable: None })
    }

    fn name(&mut self) -> Result<Node, Fault> {
        let (start, name) = (self.piece.start, self.word());
        let constant = matches!(name, "true" | "false" | "nil");
        let variable = (!constant).then(|| self.found.variable(name.to_owned(), name.len()));
        self.advance()?;
        Ok(Node { kind: Kind::Name, bare: true, start, variable })
    }

    /// `.name` and `.(type)`.
    fn selector(&mut self, node: Node) -> Result<Node, Fault> {
        let before = self.slice(node.start, self.previous_end);
        self.advance()?;
        if self.is("(") && node.kind != Kind::Frame {
            self.advance()?;
            self.types_only()?;
            self.expect(")")?;
            return Ok(node.value());
        }
        if self.piece.token != Token::Name {
            return Err(self.unexpected("the name of a field"));
        }
        let name = self.word();
        let (kind, variable) = match node.kind {
            Kind::Name if node.bare => (Kind::Qualified, self.found.field(node.variable, name)),
            Kind::Text if node.bare => {
                (Kind::Selector, self.package_variable(node.start, before, name)?)
            }
            Kind::Frame => (Kind::Selector, self.found.variable(name.to_owned(), name.len())),
            Kind::Integer | Kind::OtherLiteral => {
                // dlv unquotes a character in front of a dot, and takes it for a package.
                return Err(Fault::malformed(node.start, "a literal has no fields"));
            }
            _ => (Kind::Selector, self.found.field(node.variable, name)),
        };
        self.advance()?;
        Ok(Node { kind, bare: true, start: node.start, variable: Some(variable) })
    }

    /// `"some/path".Name`. dlv unquotes the path, so one with escapes is not what it seems to be.
    fn package_variable(&mut self, start: usize, quoted: &str, name: &str) -> Result<usize, Fault> {
        let path = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        if path.contains(['\\', '\r']) || path.is_empty() {
            return Err(Fault::malformed(
                start,
                "the path of a package is written without escapes",
            ));
        }
        let path = format!("{path}.{name}");
        let root = path.len();
        Ok(self.found.variable(path, root))
    }

    /// `[index]`, `[low:high]` and `[type, type]`.
    fn index(&mut self, node: Node) -> Result<Node, Fault> {
        Self::require_value(node)?;
        let names = matches!(node.kind, Kind::Name | Kind::Qualified | Kind::Selector) && node.bare;
        let result =
            Node { kind: if names { Kind::Instance } else { Kind::Value }, ..node.value() };
        self.advance()?;
        if self.is(":") {
            return self.end_of_slice(node);
        }
        let first = self.operation()?;
        if self.is(":") {
            Self::require_value(first)?;
            return self.end_of_slice(node);
        }
        if !names {
            Self::require_value(first)?;
        }
        while names && self.take(",")? {
            self.types_only()?;
        }
        self.expect("]")?;
        Ok(result)
    }

    fn end_of_slice(&mut self, node: Node) -> Result<Node, Fault> {
        self.advance()?;
        if !self.is("]") {
            self.value()?;
        }
        if self.is(":") {
            return Err(Fault::refused(self.piece.start, "a slice with three indexes"));
        }
        self.expect("]")?;
        Ok(node.value())
    }

    /// `(arguments)` after what is called or converted to.
    fn call(&mut self, callee: Node) -> Result<Node, Fault> {
        let place = callee.start..self.previous_end;
        if matches!(callee.kind, Kind::Integer | Kind::OtherLiteral) {
            return Err(Fault::malformed(callee.start, "a number or character cannot be called"));
        }
        self.advance()?;
        let (mut arguments, mut only) = (0_usize, None);
        while !self.is(")") {
            let argument = self.value()?;
            arguments += 1;
            only = Some(argument);
            if self.is("...") {
                // dlv does not look at the dots: it would pass the slice as one argument.
                return Err(Fault::refused(self.piece.start, "an argument list with '...'"));
            }
            if !self.take(",")? {
                break;
            }
        }
        self.expect(")")?;
        if arguments == 1 && self.is_frame(callee, only) && self.is(".") {
            self.found.forget(callee.variable);
            return Ok(Node { kind: Kind::Frame, bare: true, variable: None, ..callee });
        }
        self.note_call(callee, place, arguments);
        Ok(Node { kind: Kind::Call, bare: true, start: callee.start, variable: None })
    }

    /// `runtime.frame(1).name` reads a variable of another frame.
    fn is_frame(&self, callee: Node, argument: Option<Node>) -> bool {
        callee.kind == Kind::Qualified
            && callee.bare
            && self.found.path(callee.variable) == "runtime.frame"
            && argument.is_some_and(|argument| argument.kind == Kind::Integer && argument.bare)
    }

    /// Tells calls from conversions and builtins by what can be seen in the text alone.
    ///
    /// Source: `compileTypeCastOrFuncCall` and `compileFunctionCall` of pkg/proc/evalop.
    fn note_call(&mut self, callee: Node, place: std::ops::Range<usize>, arguments: usize) {
        let name = self.slice(place.start, place.end);
        let builtin = callee.kind == Kind::Name && callee.bare && BUILTINS.contains(&name);
        let basic = callee.kind == Kind::Name && TYPES.contains(&self.found.path(callee.variable));
        let conversion = match callee.kind {
            Kind::Type { .. } | Kind::Text => true,
            _ => basic,
        };
        if builtin || (conversion && arguments == 1) {
            self.found.forget(callee.variable);
            return;
        }
        let maybe = matches!(callee.kind, Kind::Name | Kind::Qualified | Kind::Instance);
        self.found.callees.push(Callee { place, maybe_type: maybe && arguments == 1 });
        self.found.called(callee.variable);
    }

    /// `{elements}` after a type's name.
    fn composite(&mut self, node: Node) -> Result<Node, Fault> {
        let literal = match node.kind {
            Kind::Name | Kind::Qualified | Kind::Instance => node.bare,
            Kind::Type { literal } => literal,
            _ => false,
        };
        match (literal, self.composites) {
            (false, _) if node.is_type() => {
                return Err(Fault::refused(self.piece.start, "a function literal"));
            }
            (false, _) => return Err(self.unexpected("an operator or the end")),
            (true, false) => {
                return Err(Fault::refused(self.piece.start, "a composite literal without 'call'"));
            }
            (true, true) => {}
        }
        self.found.forget(node.variable);
        self.found.literals += 1;
        self.elements()?;
        Ok(Node { variable: None, ..node.value() })
    }

    /// Elements with or without keys; those of an inner literal may leave out its type.
    fn elements(&mut self) -> Result<(), Fault> {
        self.advance()?;
        while !self.is("}") {
            self.element()?;
            if self.take(":")? {
                self.element()?;
            }
            if !self.take(",")? {
                break;
            }
        }
        self.expect("}")
    }

    fn element(&mut self) -> Result<(), Fault> {
        match self.is("{") {
            true => self.deeper(Self::elements),
            false => self.value().map(drop),
        }
    }
}

/// The operators between two values. `<-`, `++` and `--` are none, not even to Go.
const BINARY: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "+", "-", "*", "/", "%", "<", ">", "&", "|", "^", "<<",
    ">>", "&^",
];

/// The functions that dlv has itself: `supportedBuiltins` of pkg/proc/eval.go.
const BUILTINS: &[&str] = &["cap", "len", "complex", "imag", "real", "min", "max"];

/// Go's own types. A target's function of such a name would be called, but only with `call`.
const TYPES: &[&str] = &[
    "bool",
    "byte",
    "complex128",
    "complex64",
    "error",
    "float32",
    "float64",
    "int",
    "int16",
    "int32",
    "int64",
    "int8",
    "rune",
    "string",
    "uint",
    "uint16",
    "uint32",
    "uint64",
    "uint8",
    "uintptr",
    "any",
];
