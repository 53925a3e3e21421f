//! `rules`: what is wrong with them, without the daemon; and how they decide, asked of it.

use crate::cli::Explain;
use crate::manager::{answer, manager};
use crate::output::Output;
use crate::terminal::{BOLD, GREEN, RED, YELLOW, painted, safe};
use godebug_api::Refusal;
use godebug_api::rules::engine::{Problem, Severity};
use godebug_api::rules::{self, Explanation, Hypothesis, Trust};
use serde::Serialize;
use std::path::PathBuf;

/// What `rules check` answers.
#[derive(Debug, Serialize)]
struct Report {
    good: bool,
    files: Vec<String>,
    rules: usize,
    problems: Vec<Problem>,
}

pub(crate) fn check(output: &Output, files: &[PathBuf]) -> Result<(), Refusal> {
    let report = look_at(files);
    output.result(&report, &in_words(&report))?;
    if report.good {
        return Ok(());
    }
    let closed = report.problems.iter().any(|problem| problem.severity == Severity::Error);
    Err(if closed {
        Refusal::failed("the rules cannot be used: with them nothing is granted", "correct them")
    } else {
        Refusal::failed("the rules can be used, but do not mean what they seem to", "")
    })
}

fn look_at(files: &[PathBuf]) -> Report {
    let own = files.is_empty();
    let found = if own { rules::files() } else { Ok(files.to_vec()) };
    let trust = if own { Trust::RootOnly } else { Trust::Any };
    let (files, read) = match found {
        Ok(files) => (files.clone(), rules::read(&files, trust)),
        Err(problem) => (Vec::new(), Err(vec![problem])),
    };
    let files = files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
    let (rules, problems) = match read {
        Ok(read) => (read.len(), rules::check(&read)),
        Err(problems) => (0, problems),
    };
    Report { good: problems.is_empty(), files, rules, problems }
}

fn in_words(report: &Report) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let severity = match problem.severity {
            Severity::Error => painted(RED, "error:"),
            Severity::Warning => painted(YELLOW, "warning:"),
        };
        let (place, message) = (safe(problem.place.to_string()), safe(&problem.message));
        text.push_str(&format!("{severity} {place}: {message}\n"));
        if !problem.help.is_empty() {
            text.push_str(&format!("  → {}\n", safe(&problem.help)));
        }
    }
    let files = report.files.len();
    if report.good {
        let good = painted(GREEN, "good:");
        text.push_str(&format!("{good} {} rules in {files} files\n", report.rules));
    }
    text
}

pub(crate) async fn explain(output: &Output, question: &Explain) -> Result<(), Refusal> {
    let hypothesis = Hypothesis {
        user: question.asker.clone(),
        command: question.command,
        mode: question.mode,
        ttl: question.ttl,
        reason: question.reason.clone(),
        from: question.from.clone(),
        break_glass: question.break_glass,
    };
    let hypothesis = serde_json::to_string(&hypothesis)
        .map_err(|error| Refusal::failed(format!("the question cannot be written: {error}"), ""))?;
    let unit = question.unit.to_string();
    let found: Explanation = answer(manager().await?.explain(&unit, &hypothesis).await)?;
    output.result(&found, &explained(&found))
}

fn explained(found: &Explanation) -> String {
    let verdict = if found.allowed { painted(GREEN, "allowed:") } else { painted(RED, "refused:") };
    let mut text = format!("{verdict} {}\n", safe(&found.message));
    if !found.remedy.is_empty() {
        text.push_str(&format!("  → {}\n", safe(&found.remedy)));
    }
    let slice = found.slice.as_ref().map(|slice| format!(", the unit in {}", safe(slice)));
    text.push_str(&format!(
        "\n{} in the groups {}{}, on {}\n",
        safe(&found.user),
        safe(found.groups.join(", ")),
        slice.unwrap_or_default(),
        safe(&found.now),
    ));
    if found.passed_over.is_empty() {
        return text;
    }
    text.push_str("\npassed over:\n");
    for passed in &found.passed_over {
        let (rule, place) = (painted(BOLD, &safe(&passed.rule)), safe(passed.place.to_string()));
        text.push_str(&format!("  {rule} ({place})\n"));
        for mismatch in &passed.mismatches {
            text.push_str(&format!("      {}\n", safe(mismatch.to_string())));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::filtered;

    #[test]
    fn a_broken_file_is_told_with_line_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        let text = "[[rule]]\nname = \"a\"\neffect = \"allow\"\nmax_tll = \"1h\"\n";
        std::fs::write(&file, text).unwrap();
        let report = look_at(std::slice::from_ref(&file));
        assert!(!report.good && report.rules == 0);
        let told = filtered(&in_words(&report), false);
        let expected = "a.toml:4: \"max_tll\" is no key here\n  → did you mean `max_ttl`?";
        assert!(told.contains(expected), "{told}");
        std::fs::write(&file, text.replace("max_tll", "max_ttl")).unwrap();
        let told = filtered(&in_words(&look_at(&[file])), false);
        assert_eq!(told, "good: 1 rules in 1 files\n");
    }
}
