//! A question to the person at the terminal, which only yes answers.

use crate::output::Output;
use crate::signals::Signals;
use godebug_api::Refusal;
use std::io::{self, IsTerminal};
use tokio::sync::oneshot;

/// No answer is longer; what follows is not read.
const LONGEST: usize = 1024;

/// Somebody who can be asked.
pub(crate) struct Question<'a>(&'a Output);

impl<'a> Question<'a> {
    /// `None` where nobody sees the question or nobody can answer: a script, a pipe, `--json`.
    pub(crate) fn to_a_person(output: &'a Output) -> Option<Self> {
        let there = io::stdin().is_terminal() && io::stderr().is_terminal();
        (there && !output.is_json()).then_some(Self(output))
    }

    /// Asks something that the person may answer or not, while all else goes on.
    pub(crate) fn beside(&self, what: &str) -> oneshot::Receiver<bool> {
        self.0.note(&format!("{what} [y/N]"));
        let (tell, told) = oneshot::channel();
        std::thread::spawn(move || tell.send(is_yes(&answer(io::stdin().lock()))));
        told
    }

    /// Says `what` and asks whether to go on. A signal is an answer too.
    ///
    /// # Errors
    /// When the person interrupts.
    pub(crate) async fn go_on(&self, signals: &mut Signals, what: &str) -> Result<bool, Refusal> {
        self.0.question(&format!("{}. Go on? [y/N] ", sentence(what)));
        let (tell, told) = oneshot::channel();
        // A thread of its own, that the end of the program does not wait for.
        std::thread::spawn(move || tell.send(answer(io::stdin().lock())));
        tokio::select! {
            answer = told => Ok(answer.is_ok_and(|answer| is_yes(&answer))),
            () = signals.next() => {
                self.0.note("");
                Err(Refusal::failed("interrupted; nothing was changed", ""))
            }
        }
    }
}

/// One line; empty at the end of the input.
fn answer(input: impl io::BufRead) -> String {
    let mut line = Vec::new();
    let read =
        io::BufRead::read_until(&mut io::Read::take(input, LONGEST as u64), b'\n', &mut line);
    read.map(|_| String::from_utf8_lossy(&line).into_owned()).unwrap_or_default()
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// With a capital letter, as the message of a refusal has none.
fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y\n", "Y\n", " yes \n", "YES"] {
            assert!(is_yes(&answer(yes.as_bytes())), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "yy\n", "\ny\n", "\u{1b}[Ay\n", "no, yes\n"] {
            assert!(!is_yes(&answer(no.as_bytes())), "{no:?}");
        }
        assert!(!is_yes(&answer("y".repeat(5000).as_bytes())));
    }

    #[test]
    fn a_message_becomes_a_sentence() {
        assert_eq!(sentence("attaching will"), "Attaching will");
        assert_eq!(sentence(""), "");
    }
}
