//! What a session's mode allows, for every request of both protocols: an allow list. What is not on
//! it is refused, with the mode that would allow it. Pure: nothing here reads or writes anything.

pub(crate) mod dap;
pub(crate) mod expressions;
pub(crate) mod rpc;
pub(crate) mod watching;

use crate::protocol::strict;
use godebug_api::Mode;
use serde_json::{Map, Value};

/// What is done with a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// dlv gets it as it came.
    Forward,
    /// dlv gets this instead of the arguments that it came with; the text says what was changed.
    Rewrite(Map<String, Value>, &'static str),
    /// The client is told that it is done; dlv never hears of it.
    Answer,
    Refuse(Refused),
}

/// Why a request does not reach dlv, for the person whose debugger shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) why: String,
    /// The least mode that allows it, where one does.
    pub(crate) allowed_in: Option<Mode>,
}

impl Refused {
    /// No mode allows it.
    pub(crate) fn never(why: impl Into<String>) -> Self {
        Self { why: why.into(), allowed_in: None }
    }

    /// The words for the client.
    pub(crate) fn text(&self, mode: Mode) -> String {
        let remedy = match &self.allowed_in {
            Some(needed) => {
                format!("; a session with --mode {needed} allows it, this one has {mode}")
            }
            None => String::new(),
        };
        format!("godebug refused this: {}{remedy}", self.why)
    }
}

/// What a request means, for the transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// What is done, in the record's words: `breakpoints`, `evaluate`, `step`.
    pub(crate) operation: &'static str,
    /// With what: the expression, file and line. Never a value that was read.
    pub(crate) subject: String,
}

impl Meaning {
    pub(crate) fn new(operation: &'static str, subject: impl Into<String>) -> Self {
        Self { operation, subject: subject.into() }
    }

    /// It stops the target, or makes it stop later.
    pub(crate) fn holds_the_target(&self) -> bool {
        let subject = self.subject.as_str();
        match self.operation {
            "breakpoints" | "watchpoints" => {
                !subject.is_empty()
                    && !subject.starts_with("none in ")
                    && !subject.starts_with("clear ")
            }
            "run" => !matches!(subject, "continue" | "cancel the step"),
            "connection" => subject == "attach",
            _ => false,
        }
    }

    /// Its answer has values of the target's variables.
    pub(crate) fn shows_values(&self) -> bool {
        matches!(self.operation, "variables" | "evaluate" | "stack")
    }

    /// It only lets the target run.
    pub(crate) fn is_continue(&self) -> bool {
        let all = ["continue", "directionCongruentContinue"];
        self.operation == "run" && all.contains(&self.subject.as_str())
    }

    /// It lets the target run, if only for a step.
    pub(crate) fn resumes_the_target(&self) -> bool {
        let stays = ["pause", "halt", "cancel the step", "switchThread", "switchGoroutine"];
        self.operation == "run" && !stays.contains(&self.subject.as_str())
    }
}

/// How one kind of text is looked into.
type Check = fn(&str) -> Result<(), Refused>;

/// Looks into those of these fields that are there and not empty.
pub(crate) fn each_text(
    fields: &Map<String, Value>,
    checks: &[(&str, Check)],
) -> Result<(), Refused> {
    for (name, check) in checks {
        if let Some(text) = strict::text(fields, name).map_err(Refused::never)? {
            check(text)?;
        }
    }
    Ok(())
}

/// Requires a mode that is at least this one.
pub(crate) fn needs(mode: Mode, least: Mode, what: &str) -> Result<(), Refused> {
    if mode >= least {
        return Ok(());
    }
    let why = match least {
        Mode::Modify => format!("{what} changes the process"),
        _ => format!("{what} needs the live process, and would stop it"),
    };
    Err(Refused { why, allowed_in: Some(least) })
}
