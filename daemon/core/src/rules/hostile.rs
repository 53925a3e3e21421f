//! Fuzzing of the rules' parser, on stable: files near those of the corpus, changed at random, must keep the
//! promises below. `make fuzz` takes as many cases as one wants (`PROPTEST_CASES`); a failing input is made
//! small by proptest, and belongs into the corpus.

use super::*;
use crate::words::UnitName;
use proptest::prelude::*;
use proptest::sample::Index;

const CORPUS: &[&str] = &[
    include_str!("corpus/every-key.toml"),
    include_str!("corpus/odd.toml"),
    include_str!("../../../../policy/rules.d/90-default.toml"),
];

/// What a file is made of, and what breaks it.
const TOKENS: &[&str] = &[
    "[[rule]]\n",
    "[rule]",
    "effect = \"allow\"\n",
    "approvals = { users = [\"a\"] }\n",
    "users",
    "groups = [",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'''",
    "\"\"\"",
    "=",
    ",",
    "\n",
    "\r\n",
    "#",
    "\\",
    "\\u0000",
    "\u{0}",
    "\u{1b}[2J",
    "\u{202e}",
    "é",
    "☃",
    "*",
    "?",
    "@",
    "..",
    "/",
    "10.0.0.0/8",
    "::/0",
    "0",
    "-1",
    "1e9",
    "0x7f",
    "99999999999999999999",
    "1h",
    "9999999999d",
    "0s",
    "25:61-00:00",
    "sun-mon",
    "(a*)*b",
    "[a-",
    "true",
    "nan",
    "break_glass = true",
    "count = 0",
    "1979-05-27T07:32:00Z",
];

/// One change: where, how, and with what.
type Edit = (Index, u8, Index, Index);

fn edited(text: &str, edits: &[Edit]) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for (at, how, with, more) in edits {
        let at = at.index(letters.len() + 1);
        let end = (at + more.index(24)).min(letters.len());
        let token = TOKENS[with.index(TOKENS.len())].chars();
        match how % 4 {
            0 => drop(letters.splice(at..at, token)),
            1 => drop(letters.drain(at..end)),
            2 => drop(letters.splice(at..end, token)),
            _ => {
                let copy: Vec<char> = letters[at..end].to_vec();
                let to = with.index(letters.len() + 1);
                drop(letters.splice(to..to, copy));
            }
        }
    }
    letters.into_iter().collect()
}

fn question<'a>(
    user: &'a str,
    groups: &'a [String],
    unit: &'a UnitName,
    break_glass: bool,
) -> Question<'a> {
    Question {
        user,
        groups,
        command: Command::Attach,
        unit,
        slice: Some("apps.slice"),
        container: None,
        owner: None,
        mode: Mode::Step,
        ttl: Duration::from_secs(600),
        lasted: Duration::ZERO,
        reason: None,
        sources: &[],
        now: Moment { day: Weekday::ALL[1], minute: 600 },
        running: Some(Running::default()),
        break_glass,
    }
}

/// A file is rules or problems. Rules say something to every question, and grant nothing that they do not
/// say; problems have a place in the file, and do nothing to a terminal.
fn keeps_its_promises(text: &str) -> Result<(), TestCaseError> {
    let rules = match parse("a.toml", text) {
        Ok(rules) => rules,
        Err(problems) => {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                let told = problem.to_string();
                prop_assert!(problem.place.line <= text.lines().count() + 1, "{told}");
                prop_assert!(!told.contains(['\u{0}', '\u{1b}']) && told.len() < 2000, "{told:?}");
            }
            return Ok(());
        }
    };
    let unit: UnitName = "shop".parse().map_err(|_| TestCaseError::fail("no unit"))?;
    let groups = ["oncall".to_owned()];
    for user in ["dora", "root", "a", "nobody"] {
        for glass in [false, true] {
            let question = question(user, &groups, &unit, glass);
            let answer = decide(&rules, &question);
            let Ok(permit) = answer.decision else { continue };
            let said = rules.get(answer.passed_over.len());
            prop_assert!(said.is_some_and(|rule| rule.effect == Effect::Allow), "{permit:?}");
            let wanted = said.and_then(|rule| rule.limits.approvals.as_ref());
            prop_assert_eq!(permit.consent == Consent::NotNeeded, wanted.is_none());
            prop_assert!(permit.consent != Consent::GlassBroken, "broken without a reason");
            prop_assert!(wanted.is_none_or(|it| it.count > 0 && !it.within.is_zero()));
        }
    }
    for problem in check(&rules) {
        prop_assert!(problem.to_string().len() < 4000);
    }
    Ok(())
}

#[test]
fn the_corpus_is_rules_as_it_stands() {
    for text in CORPUS {
        assert!(parse("a.toml", text).is_ok_and(|rules| !rules.is_empty()), "{text}");
        keeps_its_promises(text).unwrap();
    }
}

proptest! {
    #[test]
    fn what_is_near_the_corpus_keeps_the_promises(
        of in any::<Index>(),
        edits in prop::collection::vec(any::<Edit>(), 1..10),
    ) {
        keeps_its_promises(&edited(CORPUS[of.index(CORPUS.len())], &edits))?;
    }

    #[test]
    fn two_files_in_one_keep_the_promises(
        first in any::<(Index, Index)>(),
        second in any::<(Index, Index)>(),
        edits in prop::collection::vec(any::<Edit>(), 0..4),
    ) {
        let half = |(of, at): (Index, Index)| -> String {
            let letters: Vec<char> = CORPUS[of.index(CORPUS.len())].chars().collect();
            letters[..at.index(letters.len())].iter().collect()
        };
        let (first, second) = (half(first), half(second));
        keeps_its_promises(&edited(&format!("{first}\n{second}"), &edits))?;
    }
}
