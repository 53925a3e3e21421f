//! The texts in requests that dlv evaluates: expressions, conditions, log messages, and what is typed
//! into an IDE's console. Whatever may call a function of the process needs the mode `modify`.

use super::{Refused, needs};
use godebug_api::Mode;

/// The longest expression, in bytes.
const LONGEST: usize = 64 << 10;
/// dlv's prefix for calling functions of the process (service/dap/server.go, `onEvaluateRequest`).
const CALL: &str = "call";
const DLV: &str = "dlv";

/// An expression, a condition or a watched expression: dlv evaluates it without calling anything
/// (pkg/proc/eval.go refuses a call outside of `call`), so it only reads; but an assignment or a
/// prefix has no business in it.
pub(crate) fn read(text: &str) -> Result<(), Refused> {
    if text.len() > LONGEST {
        return Err(Refused::never(format!("an expression is longer than {LONGEST} bytes")));
    }
    if has_prefix(text, CALL) {
        return Err(Refused::never("`call` cannot be part of a condition or an expression"));
    }
    Ok(())
}

/// What is typed into the console, or hovered over.
pub(crate) fn evaluated(mode: Mode, text: &str) -> Result<(), Refused> {
    if has_prefix(text, CALL) {
        return needs(mode, Mode::Modify, "calling a function");
    }
    if has_prefix(text, DLV) {
        return console(text.trim()[DLV.len()..].trim());
    }
    read(text)
}

/// dlv's commands in the console (service/dap/command.go): those that show something, and those
/// that change only what the IDE shows.
fn console(command: &str) -> Result<(), Refused> {
    let mut words = command.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (None, _) | (Some("help" | "h" | "config" | "sources" | "s" | "examinemem" | "x"), _) => {
            Ok(())
        }
        (Some("target"), Some("list")) => Ok(()),
        (Some(other), _) => Err(Refused::never(format!(
            "`dlv {}` reaches beyond the process that the session is for",
            other.chars().take(20).filter(|c| !c.is_control()).collect::<String>()
        ))),
    }
}

/// Whether dlv would take this as its prefix; wider than dlv, which wants a space after it.
fn has_prefix(text: &str, prefix: &str) -> bool {
    text.trim_start()
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.chars().next().is_none_or(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_need_modify_however_they_are_spaced() {
        for text in ["call f()", " call f()", "\tcall\tf()", "call\nf()", "call"] {
            assert!(evaluated(Mode::Step, text).is_err(), "{text:?}");
            assert!(evaluated(Mode::Modify, text).is_ok(), "{text:?}");
            assert!(read(text).is_err(), "{text:?}");
        }
        for text in ["calls", "call_count", "o.call", "len(call)", "dlvx"] {
            assert!(evaluated(Mode::Step, text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn console_commands_stay_with_the_process() {
        for text in ["dlv help", "dlv config -list", "dlv sources main", "dlv target list"] {
            assert!(evaluated(Mode::Step, text).is_ok(), "{text:?}");
        }
        for text in ["dlv target follow-exec -on", "dlv target switch 1", "dlv target", "dlv new"] {
            assert!(evaluated(Mode::Modify, text).is_err(), "{text:?}");
        }
    }
}
