//! The texts in requests that dlv evaluates: expressions, conditions, log messages, locations, and
//! what is typed into an IDE's console. What `expression` cannot read does not pass in any mode.

use super::{Refused, needs};
use crate::expression::{self, Evaluated, ExpressionError};
use godebug_api::Mode;

/// Settings of `dlv config` that change what is shown and nothing else. Without the rest of 1.27.1,
/// `followExec` and `followExecRegex`.
const SETTINGS: &[&str] = &[
    "-list",
    "stackTraceDepth",
    "showGlobalVariables",
    "showRegisters",
    "goroutineFilters",
    "showPprofLabels",
    "hideSystemGoroutines",
    "substitutePath",
    "maxStringLen",
    "maxArrayValues",
    "showRawStrings",
];

/// An expression that is evaluated without `call`, a watched one too.
pub(crate) fn read(text: &str) -> Result<(), Refused> {
    expression::parse(text).map(drop).map_err(unclear)
}

/// A breakpoint's condition.
pub(crate) fn condition(text: &str) -> Result<(), Refused> {
    expression::parse_condition(text).map(drop).map_err(unclear)
}

/// How often a breakpoint is passed before it stops.
pub(crate) fn hit_condition(text: &str) -> Result<(), Refused> {
    expression::parse_hit_condition(text).map(drop).map_err(unclear)
}

/// The text of a log point, with expressions in braces.
pub(crate) fn log_message(text: &str) -> Result<(), Refused> {
    if pads(text) {
        return Err(Refused::never(
            "dlv takes a number after % in a log message for a width, up to gigabytes; write %%",
        ));
    }
    expression::parse_log_message(text).map(drop).map_err(unclear)
}

/// The id of a data breakpoint: dlv evaluates what is in it, whoever made it.
pub(crate) fn data_id(text: &str) -> Result<(), Refused> {
    expression::parse_data_id(text).map(drop).map_err(unclear)
}

/// Where a breakpoint is set or a search begins; also a name that dlv makes an expression of.
pub(crate) fn location(text: &str) -> Result<(), Refused> {
    expression::check_location(text).map_err(unclear)
}

/// What is typed into the console, watched or hovered over.
pub(crate) fn evaluated(mode: Mode, text: &str) -> Result<(), Refused> {
    match expression::parse_evaluated(text).map_err(unclear)? {
        Evaluated::Read(_) => Ok(()),
        Evaluated::Call(_) => needs(mode, Mode::Modify, "calling a function"),
        Evaluated::Assignment { .. } => needs(mode, Mode::Modify, "setting a variable"),
        Evaluated::Dlv(command) => console(command),
    }
}

/// dlv's commands in the console (service/dap/command.go): those that show something, and those
/// that change only what the IDE shows.
fn console(command: &str) -> Result<(), Refused> {
    let mut words = command.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (None | Some("help" | "h" | "sources" | "s" | "examinemem" | "x"), _) => Ok(()),
        (Some("config"), None) => Ok(()),
        (Some("config"), Some(setting)) if SETTINGS.contains(&setting) => Ok(()),
        (Some("target"), Some("list")) => Ok(()),
        _ => Err(Refused::never("this command of dlv reaches beyond the session's process")),
    }
}

fn unclear(error: ExpressionError) -> Refused {
    Refused::never(error.to_string())
}

/// Whether Go's `fmt`, which dlv gives the message to as its format, would pad something.
fn pads(message: &str) -> bool {
    let mut rest = message;
    while let Some((_, verb)) = rest.split_once('%') {
        let flags = verb.trim_start_matches(|c: char| "+-# .[]*".contains(c) || c.is_ascii_digit());
        let flags = &verb[..verb.len() - flags.len()];
        if flags.contains(|c: char| c == '*' || c.is_ascii_digit()) {
            return true;
        }
        rest = verb[flags.len()..].strip_prefix('%').unwrap_or(&verb[flags.len()..]);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_assignments_need_modify() {
        for text in ["call f()", " call f()", "call x = 1"] {
            let refused = evaluated(Mode::Step, text).unwrap_err();
            assert_eq!(refused.allowed_in, Some(Mode::Modify), "{text:?}");
            assert!(evaluated(Mode::Modify, text).is_ok(), "{text:?}");
            assert!(read(text).is_err(), "{text:?}");
        }
        for text in ["calls", "call_count", "o.call", "len(call)", "dlvx", "o.Items[1].Name"] {
            assert!(evaluated(Mode::Step, text).is_ok(), "{text:?}");
        }
    }

    /// Seen with dlv 1.27.1: it writes through the embedded pointer without any `call`.
    const WRITES: &str = "main.Outer{Inner: p, Field: 99}";

    #[test]
    fn a_literal_that_writes_through_its_embedded_pointer_is_refused_wherever_dlv_evaluates() {
        for mode in [Mode::Step, Mode::Modify] {
            assert!(evaluated(mode, WRITES).is_err());
            assert!(evaluated(mode, &format!("dlv x -x &{WRITES}.Field")).is_err());
        }
        assert!(read(WRITES).is_err() && condition(&format!("{WRITES}.Field == 1")).is_err());
        assert!(log_message(&format!("{{{WRITES}}}")).is_err());
        assert!(data_id(&format!("1,0,{WRITES}.Field")).is_err());
        assert!(location(&format!("*{WRITES}.Field")).is_err());
    }

    #[test]
    fn what_breaks_dlv_is_refused() {
        assert!(hit_condition("% 0").is_err() && hit_condition("% 2").is_ok());
        for text in ["%1000000s", "{x} %9d", "%*d", "100% 5", "%.3f", "%[1]d", "%%%9d"] {
            assert!(log_message(text).is_err(), "{text}");
        }
        for text in ["50%", "%d {x}", "100%% 5", "{x}% of {y}", "{a%3}", ""] {
            assert_eq!(log_message(text).is_ok(), text != "{a%3}", "{text}");
        }
    }

    #[test]
    fn console_commands_stay_with_the_process() {
        let good = ["help", "config -list", "config substitutePath a b", "sources main", "x 0x1"];
        for text in good {
            assert!(evaluated(Mode::Step, &format!("dlv {text}")).is_ok(), "{text}");
        }
        let bad = ["target follow-exec -on", "target switch 1", "target", "config followExec true"];
        for text in bad.into_iter().chain(["new", "config new 1"]) {
            assert!(evaluated(Mode::Modify, &format!("dlv {text}")).is_err(), "{text}");
        }
    }
}
