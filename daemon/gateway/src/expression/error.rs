//! What is wrong with an expression, and where.

use thiserror::Error;

/// Why a text is no expression that the gateway passes on. It says what kind of thing was found,
/// never the words themselves: a literal of an expression may be somebody's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("at character {position}: {problem}")]
pub struct ExpressionError {
    position: usize,
    problem: Problem,
}

/// What is wrong there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Problem {
    #[error("the text is longer than {0} bytes")]
    TooLong(usize),
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
    #[error("expected {expected}, found {found}")]
    Unexpected { expected: &'static str, found: &'static str },
    #[error("{0}")]
    Malformed(&'static str),
    #[error("{0} is not for a debugger's expression")]
    Refused(&'static str),
}

impl ExpressionError {
    /// The place of the problem, counted in characters from 1.
    pub fn position(&self) -> usize {
        self.position
    }

    pub fn problem(&self) -> Problem {
        self.problem
    }

    /// The error of a text that starts `before` characters into what the person wrote.
    pub(super) fn moved(self, before: usize) -> Self {
        Self { position: self.position + before, ..self }
    }
}

/// A problem with its place in bytes, as the lexer and the parser know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) problem: Problem,
}

impl Fault {
    pub(super) fn malformed(at: usize, why: &'static str) -> Self {
        Self { at, problem: Problem::Malformed(why) }
    }

    pub(super) fn refused(at: usize, what: &'static str) -> Self {
        Self { at, problem: Problem::Refused(what) }
    }

    /// The error for whoever wrote `text`.
    pub(super) fn within(self, text: &str) -> ExpressionError {
        let position = 1 + characters_before(text, self.at);
        ExpressionError { position, problem: self.problem }
    }
}

pub(super) fn characters_before(text: &str, at: usize) -> usize {
    text.char_indices().take_while(|&(offset, _)| offset < at).count()
}
