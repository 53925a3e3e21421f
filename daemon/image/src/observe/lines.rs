//! The lines at which a client wants an image: where they are, and what is to be done with an image
//! that was taken at one.

use crate::delve::{Answerless, Delve};
use crate::goroutines::evaluate;
use godebug_api::Refusal;
use std::collections::BTreeMap;

/// The most lines of one client.
pub(crate) const MOST_LINES: usize = 500;

/// One line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    pub(crate) id: i64,
    /// The file as the client names it, or the function; what belongs together is set together.
    pub(crate) set: String,
    /// `path:line` or a function, as the program has it.
    pub(crate) place: String,
    pub(crate) line: u64,
    pub(crate) path: String,
    pub(crate) addresses: Vec<u64>,
    pub(crate) condition: String,
    pub(crate) hit_condition: Option<HitCondition>,
    pub(crate) log: Option<LogMessage>,
    pub(crate) hits: u64,
    /// Kept, and no image is taken there.
    pub(crate) is_off: bool,
    /// What a client in JSON-RPC has said of it, and is told again.
    pub(crate) as_told: serde_json::Value,
}

/// What an image at a line is for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The lines whose image a person is to see.
    pub(crate) stops: Vec<i64>,
    /// What log messages say: the line's number, and the text.
    pub(crate) logs: Vec<(i64, String)>,
    /// Conditions that could not be decided.
    pub(crate) errors: Vec<String>,
}

/// All of one client.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    all: Vec<Line>,
    last_id: i64,
}

impl Lines {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Line> {
        self.all.iter()
    }

    pub(crate) fn get(&self, id: i64) -> Option<&Line> {
        self.all.iter().find(|line| line.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: i64) -> Option<&mut Line> {
        self.all.iter_mut().find(|line| line.id == id)
    }

    /// A client's word for all lines of a file, or for all functions: those of before are gone. One that
    /// stays keeps its number and its count.
    pub(crate) fn replace(&mut self, set: &str, mut new: Vec<Line>) -> Vec<Line> {
        let (before, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.all).into_iter().partition(|line| line.set == set);
        for line in &mut new {
            set.clone_into(&mut line.set);
            match before.iter().find(|old| old.place == line.place) {
                Some(old) => (line.id, line.hits) = (old.id, old.hits),
                None => line.id = self.next_id(),
            }
        }
        self.all = others;
        self.all.extend(new.iter().cloned());
        new
    }

    pub(crate) fn add(&mut self, mut line: Line) -> &Line {
        line.id = self.next_id();
        self.all.push(line);
        &self.all[self.all.len() - 1]
    }

    pub(crate) fn remove(&mut self, id: i64) -> Option<Line> {
        let at = self.all.iter().position(|line| line.id == id)?;
        Some(self.all.remove(at))
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    /// Where images are to be taken, with what a person calls each.
    pub(crate) fn by_address(&self) -> BTreeMap<u64, String> {
        let on = self.all.iter().filter(|line| !line.is_off);
        on.flat_map(|line| line.addresses.iter().map(|at| (*at, line.place.clone()))).collect()
    }

    /// Looks at an image that was taken at `address`, with dlv.
    ///
    /// # Errors
    /// When dlv gives no answer any more.
    pub(crate) fn judge(
        &mut self,
        address: u64,
        goroutine: i64,
        dlv: &mut Delve,
    ) -> Result<Verdict, Refusal> {
        let mut verdict = Verdict::default();
        let here = self.all.iter_mut().filter(|line| !line.is_off);
        for line in here.filter(|line| line.addresses.contains(&address)) {
            match holds(dlv, goroutine, &line.condition)? {
                Ok(false) => continue,
                Ok(true) => {}
                // As dlv does it: better seen once too often than never.
                Err(why) => {
                    verdict
                        .errors
                        .push(format!("{}: the condition {}: {why}", line.place, line.condition));
                    verdict.stops.push(line.id);
                    continue;
                }
            }
            line.hits += 1;
            if line.hit_condition.is_some_and(|condition| !condition.holds(line.hits)) {
                continue;
            }
            match &line.log {
                Some(message) => verdict.logs.push((line.id, message.text(dlv, goroutine)?)),
                None => verdict.stops.push(line.id),
            }
        }
        Ok(verdict)
    }
}

/// Whether a condition is true; the inner error is why it cannot be said.
fn holds(
    dlv: &mut Delve,
    goroutine: i64,
    condition: &str,
) -> Result<Result<bool, String>, Refusal> {
    if condition.is_empty() {
        return Ok(Ok(true));
    }
    let value = match evaluate(dlv, goroutine, 0, condition, None) {
        Ok(value) => value,
        Err(Answerless::Refused(why)) => return Ok(Err(why)),
        Err(broken) => return Err(broken.into()),
    };
    Ok(match value.value.as_str() {
        _ if !value.unreadable.is_empty() => Err(value.unreadable),
        "true" if value.is_bool() => Ok(true),
        "false" if value.is_bool() => Ok(false),
        _ => Err(format!("it is no bool but {}", value.kind_name)),
    })
}

/// `> 5`, `% 100`, `7`, as dlv reads them (pkg/proc/target_group.go, `parseHitCondition`); the number
/// alone means equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HitCondition {
    operator: Operator,
    number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
    Every,
}

impl HitCondition {
    /// # Errors
    /// When it is none.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let digits = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
        let operator = match text[..digits].trim() {
            "" | "==" | "=" => Operator::Equal,
            "!=" => Operator::NotEqual,
            "<" => Operator::Less,
            "<=" => Operator::AtMost,
            ">" => Operator::More,
            ">=" => Operator::AtLeast,
            "%" => Operator::Every,
            other => return Err(format!("{other:?} is no operator for a hit count")),
        };
        match text[digits..].parse() {
            Ok(0) if operator == Operator::Every => Err("every 0 hits is never".to_owned()),
            Ok(number) => Ok(Some(Self { operator, number })),
            Err(_) => Err(format!("{text:?} has no number")),
        }
    }

    fn holds(self, hits: u64) -> bool {
        match self.operator {
            Operator::Equal => hits == self.number,
            Operator::NotEqual => hits != self.number,
            Operator::Less => hits < self.number,
            Operator::AtMost => hits <= self.number,
            Operator::More => hits > self.number,
            Operator::AtLeast => hits >= self.number,
            Operator::Every => hits.is_multiple_of(self.number),
        }
    }
}

/// A log message: text with expressions in braces, `\{` for a brace (as in service/dap/server.go,
/// `parseLogPoint`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogMessage(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Expression(String),
}

impl LogMessage {
    /// # Errors
    /// When a brace is not closed.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => match letters.next() {
                    Some(brace @ ('{' | '}')) => plain.push(brace),
                    Some(other) => plain.extend(['\\', other]),
                    None => plain.push('\\'),
                },
                '{' => {
                    let expression = until_closed(&mut letters)
                        .ok_or_else(|| format!("a brace is not closed in {text:?}"))?;
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                    parts.push(Part::Expression(expression));
                }
                other => plain.push(other),
            }
        }
        parts.push(Part::Text(plain));
        Ok(Some(Self(parts)))
    }

    fn text(&self, dlv: &mut Delve, goroutine: i64) -> Result<String, Refusal> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Expression(expression) => match evaluate(dlv, goroutine, 0, expression, None)
                {
                    Ok(value) => {
                        let shown = value.shown();
                        match shown.unreadable {
                            Some(why) => text.push_str(&format!("(unreadable {why})")),
                            None => text.push_str(&shown.value),
                        }
                    }
                    Err(Answerless::Refused(why)) => text.push_str(&format!("{{eval err: {why}}}")),
                    Err(broken) => return Err(broken.into()),
                },
            }
        }
        Ok(text)
    }
}

/// The expression up to the brace that closes it; composite literals have braces of their own.
fn until_closed(letters: &mut std::str::Chars<'_>) -> Option<String> {
    let (mut expression, mut open) = (String::new(), 1);
    for letter in letters {
        match letter {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(expression).filter(|it| !it.trim().is_empty());
        }
        expression.push(letter);
    }
    None
}

/// A path by the rules of the client's configuration, as dlv applies them (pkg/locspec/locations.go,
/// `SubstitutePath`); all but Windows' letters, which a Linux program does not have in its paths.
pub(crate) fn substitute(path: &str, rules: &[(String, String)]) -> String {
    const SEPARATORS: [char; 2] = ['/', '\\'];
    for (from, to) in rules {
        if path == from {
            return to.clone();
        }
        let rest = match path.strip_prefix(from.as_str()) {
            Some(rest) if from.ends_with(SEPARATORS) || rest.starts_with(SEPARATORS) => rest,
            _ => continue,
        };
        let rest = rest.trim_start_matches(SEPARATORS).replace('\\', "/");
        return match to.trim_end_matches(SEPARATORS) {
            "" if to.is_empty() => rest,
            to => format!("{to}/{rest}"),
        };
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hit_conditions_are_dlvs() {
        let holds = |text: &str, hits| HitCondition::parse(text).unwrap().unwrap().holds(hits);
        assert!(holds("7", 7) && !holds("7", 8) && holds("== 7", 7) && holds("> 5", 6));
        assert!(holds("% 3", 9) && !holds("% 3", 10) && holds("<=2", 2) && holds("!= 1", 2));
        assert_eq!(HitCondition::parse(" "), Ok(None));
        for bad in ["x", ">", "% 0", "=> 3", "1x"] {
            assert!(HitCondition::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_log_message_is_text_and_expressions() {
        let parse = |text| LogMessage::parse(text).map(Option::unwrap);
        let parts = |all: &[(&str, &str)]| {
            let mut parts = Vec::new();
            for (text, expression) in all {
                parts.push(Part::Text((*text).to_owned()));
                if !expression.is_empty() {
                    parts.push(Part::Expression((*expression).to_owned()));
                }
            }
            Ok(LogMessage(parts))
        };
        assert_eq!(parse("x is {x}!"), parts(&[("x is ", "x"), ("!", "")]));
        assert_eq!(parse(r"\{x\} {T{1}.F}"), parts(&[("{x} ", "T{1}.F"), ("", "")]));
        assert!(LogMessage::parse("{x").is_err() && LogMessage::parse("{}").is_err());
        assert_eq!(LogMessage::parse(""), Ok(None));
    }

    #[test]
    fn lines_of_a_file_are_replaced_and_those_that_stay_keep_their_number() {
        let mut lines = Lines::default();
        let at = |place: &str| Line { place: place.to_owned(), ..Line::default() };
        let first = lines.replace("a.go", vec![at("a.go:1"), at("a.go:2")]);
        lines.replace("b.go", vec![at("b.go:1")]);
        lines.get_mut(first[1].id).unwrap().hits = 5;
        let second = lines.replace("a.go", vec![at("a.go:2"), at("a.go:9")]);
        assert_eq!((second[0].id, second[0].hits), (first[1].id, 5));
        assert_eq!(lines.iter().map(|line| line.id).collect::<Vec<_>>(), [3, 2, 4]);
    }

    #[test]
    fn paths_are_those_of_the_program() {
        let rules = [("/home/me/shop".to_owned(), "/build/shop".to_owned())];
        assert_eq!(substitute("/home/me/shop/a/b.go", &rules), "/build/shop/a/b.go");
        assert_eq!(substitute("/home/me/shopping/b.go", &rules), "/home/me/shopping/b.go");
        let trimmed = [("/home/me/shop".to_owned(), String::new())];
        assert_eq!(substitute("/home/me/shop/b.go", &trimmed), "b.go");
    }
}
