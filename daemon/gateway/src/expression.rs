//! Delve's expressions, read strictly: tells what an expression that a client sends to dlv reads
//! and calls. What does not parse here is refused, so that nothing passes that was not understood.
//!
//! dlv gives every expression to `parser.ParseExpr` of Go and compiles the tree with
//! `evalop.Compile` (pkg/proc/evalop/evalcompile.go). The grammar here is a part of Go's: each text
//! accepted here is accepted there and has the same shape. Read against Delve 1.22.1, 1.24.0, 1.25.2, 1.26.3, 1.27.1 and commit 3b775986 after it.
//!
//! # What an expression can do to the target
//!
//! *Calls.* Without `call` none runs, in any of these versions: `evalCallInjectionStart` of
//! pkg/proc/fncall.go is the one door to the target's code, for the calls of an expression as for
//! dlv's own (`runtime.mallocgc`, the debug pinner), and it gives `ErrFuncCallNotAllowed` unless
//! `EvalExpressionWithCalls` made the scope, which only the API's command `call` does. Breakpoint
//! conditions (`evalBreakpointCondition` of pkg/proc/breakpoints.go), watch expressions, `Eval`,
//! log points, the variables a breakpoint collects and DAP's `variables` have scopes without it;
//! `call` is no word inside them. So a callee here is a hint, not a danger: `main.T(x)` and
//! `main.F(x)` look the same, and dlv converts with the one and refuses the other.
//!
//! *Assignments.* `x = y` is no Go expression. dlv takes it apart in `Compile` only with `CanSet`,
//! hence only under `call`; in 1.22 a parameter `canSet`. It is refused in
//! [`parse`], and in [`parse_evaluated`] it is an [`Evaluated::Assignment`].
//!
//! *Composite literals* do write, from Delve 1.24.2 on, and need no `call`: `compileAST` builds
//! `T{A: x}` in dlv's own memory and sets each field with `SetValue`. A field is looked up with
//! `findStructMemberOrMethod`, which goes through embedded pointers, so `T{Embedded: p, Field: 1}`
//! follows `p`, just set, to `p.Field` and writes 1 **to the target**. Any expression will do,
//! a condition or a log point too, as long as the target has `runtime.debugPinnerV1` (Go 1.23).
//! Seen to happen with Delve 1.27.1: `print main.Outer{Inner: p, Field: 99}` sets `p.Field`,
//! and so do the same literal in the id of a DAP data breakpoint and in `dlv x -x`.
//! [`parse`] therefore refuses composite literals; only what follows `call` may have them.
//!
//! *Nothing else writes.* Watchpoints take a debug register (`CreateWatchpoint`), and a breakpoint
//! for the end of the frame if the variable is on the stack; the expression is only evaluated,
//! by `SetWatchpoint` of pkg/proc/breakpoints.go. `CreateBreakpoint` of service/debugger writes no
//! file and runs no command with any of its fields. DAP's `setVariable` writes whatever its name is,
//! and for a string it runs `doCall("name=value")` (service/dap/server.go), where `value` may be
//! `f()`: it belongs to those requests that are refused whole, not by their expressions.

mod error;
mod forms;
mod found;
mod letters;
mod lexer;
mod literal;
mod parser;
mod types;

#[cfg(test)]
mod tests;

pub use error::{ExpressionError, Problem};
pub use forms::{
    Evaluated, HitCondition, HitOperator, check_location, parse_condition, parse_data_id,
    parse_evaluated, parse_hit_condition, parse_log_message,
};
pub use found::Variable;

use error::Fault;
use found::{Callee, Found};
use parser::Reading;

/// The longest text that is read.
pub const LONGEST: usize = 64 * 1024;

/// What an expression does, as far as the mode is concerned.
#[derive(Debug, Clone)]
pub struct Expression {
    text: Box<str>,
    found: Found,
}

/// Reads an expression that dlv evaluates without `call`.
pub fn parse(text: &str) -> Result<Expression, ExpressionError> {
    let reading = read(text, false, false)?;
    Ok(Expression::new(text, reading.found))
}

fn read(text: &str, composites: bool, assignment: bool) -> Result<Reading, ExpressionError> {
    check_bounds(text)
        .and_then(|()| parser::read(text, composites, assignment))
        .map_err(|fault| fault.within(text))
}

/// A NUL and a byte order mark are errors to Go wherever they stand, in strings and comments too.
fn check_bounds(text: &str) -> Result<(), Fault> {
    if text.len() > LONGEST {
        return Err(Fault { at: 0, problem: Problem::TooLong(LONGEST) });
    }
    match text.find(['\0', '\u{feff}']) {
        Some(at) => Err(Fault::malformed(at, "this character has no meaning in Go")),
        None => Ok(()),
    }
}

impl Expression {
    fn new(text: &str, mut found: Found) -> Self {
        found.variables.retain(|variable| !variable.path().is_empty());
        Self { text: text.into(), found }
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The callees of all that is shaped like a call: `o.Name` of `o.Name()`. Not of dlv's builtins
    /// (`len(x)`), of `runtime.frame(1).x`, or of what is certain to convert: `[]byte(x)`,
    /// `string(x)`, `"main.T"(x)`, `(*"main.T")(0x1234)`.
    pub fn calls(&self) -> impl Iterator<Item = &str> {
        self.found.callees.iter().map(|callee| self.at(callee))
    }

    /// Those of [`calls`](Self::calls) that cannot be conversions: dlv takes them for calls of a
    /// function whatever the names stand for, because of the number of arguments or because no
    /// type is written like that. The others, `main.T(x)` or `(*T)(x)`, may be either.
    pub fn certain_calls(&self) -> impl Iterator<Item = &str> {
        let certain = self.found.callees.iter().filter(|callee| !callee.maybe_type);
        certain.map(|callee| self.at(callee))
    }

    fn at(&self, callee: &Callee) -> &str {
        self.text.get(callee.place.clone()).unwrap_or_default()
    }

    /// What is read, in the order of the text. Rather a name too many than one too few: `pkg` of
    /// `pkg.Func(x)` is among them, since it could be a variable with a method, and so is a type
    /// that stands where an index can.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.found.variables.iter()
    }

    /// Whether it has composite literals, which only an expression under `call` may have.
    pub fn builds_literals(&self) -> bool {
        self.found.literals > 0
    }
}
