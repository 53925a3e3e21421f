//! Hides the values of variables that a rule of the host names, on their way to whoever asked, in both of
//! dlv's protocols: by the variable's name, by its type, and by what the value looks like.
//!
//! What cannot be told by name is not read at all while something is hidden: memory by its address, and
//! expressions that make a pointer of a number. A value that the program itself keeps under another name
//! and another type is hidden only if a pattern fits it.

mod messages;
mod rendering;

use crate::rules::RedactRules;
use serde_json::{Map, Value};

/// What stands in the place of a value.
pub const HIDDEN: &str = "‹hidden by a rule of this host›";

/// The rules, ready to be applied.
#[derive(Debug)]
pub struct Redactor(RedactRules);

/// A request that would read what is hidden.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadsHidden(String);

impl Redactor {
    /// `None` when nothing is to be hidden.
    pub fn new(rules: RedactRules) -> Option<Self> {
        (rules != RedactRules::default()).then_some(Self(rules))
    }

    fn hides_name(&self, name: &str) -> bool {
        self.0.names.iter().any(|glob| glob.matches_in_any_case(name))
    }

    fn has_types(&self) -> bool {
        !self.0.types.is_empty()
    }

    /// A type, or a pointer to it, or a list of it.
    fn hides_type(&self, name: &str) -> bool {
        let name = name.trim_start_matches(['*', '[', ']']);
        self.0.types.iter().any(|glob| glob.matches(name))
    }

    /// `text` without what one of the patterns fits.
    pub fn without_patterns(&self, text: String) -> String {
        self.0.patterns.iter().fold(text, |text, pattern| match pattern.is_in(&text) {
            true => pattern.replaced(&text, HIDDEN).into_owned(),
            false => text,
        })
    }

    /// Whether a request would read what is hidden; every text in it counts, wherever it stands.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, request: &str, fields: &Map<String, Value>) -> Result<(), ReadsHidden> {
        const BY_ADDRESS: [&str; 3] = ["readMemory", "writeMemory", "RPCServer.ExamineMemory"];
        if BY_ADDRESS.contains(&request) {
            return Err(ReadsHidden(
                "a rule of this host hides some variables, and memory that is read by its address \
                 has no names"
                    .to_owned(),
            ));
        }
        // What shapes the view, and where the sources are, is no expression.
        const NOT_READ: [&str; 8] = [
            "attach",
            "initialize",
            "disconnect",
            "configurationDone",
            "source",
            "RPCServer.SetApiVersion",
            "RPCServer.ListSources",
            "RPCServer.ListFunctions",
        ];
        if NOT_READ.contains(&request) {
            return Ok(());
        }
        fields.iter().try_for_each(|(name, value)| self.check_value(name, value))
    }

    fn check_value(&self, field: &str, value: &Value) -> Result<(), ReadsHidden> {
        // Places in the source, not in the program's data.
        const PLACES: [&str; 6] = ["source", "file", "path", "name", "functionName", "LocExpr"];
        match value {
            // A variable that is set has its name in a field like a function's.
            Value::String(_) if PLACES.iter().any(|place| place.eq_ignore_ascii_case(field)) => {
                Ok(())
            }
            Value::String(text) => self.check_text(text),
            Value::Array(all) => all.iter().try_for_each(|one| self.check_value(field, one)),
            Value::Object(fields) if !field.eq_ignore_ascii_case("source") => {
                fields.iter().try_for_each(|(name, value)| self.check_value(name, value))
            }
            _ => Ok(()),
        }
    }

    /// The same for one expression: any word in it may be a variable's; rather one too many.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check_text(&self, text: &str) -> Result<(), ReadsHidden> {
        let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
        if let Some(word) =
            text.split(|c| !is_of_word(c)).find(|word| !word.is_empty() && self.hides_name(word))
        {
            let word: String = word.chars().take(60).collect();
            return Err(ReadsHidden(format!("a rule of this host hides `{word}`")));
        }
        let is_of_type = |c: char| is_of_word(c) || matches!(c, '.' | '/');
        if let Some(name) =
            text.split(|c| !is_of_type(c)).find(|name| name.contains('.') && self.hides_type(name))
        {
            let name: String = name.chars().take(60).collect();
            return Err(ReadsHidden(format!("a rule of this host hides what is a `{name}`")));
        }
        if text.contains("(*") && text.replace(char::is_whitespace, "").contains(")(") {
            return Err(ReadsHidden(
                "a rule of this host hides some variables, and an expression that makes a pointer \
                 of something else could read them by another name"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
fn redactor(names: &[&str], types: &[&str], patterns: &[&str]) -> Redactor {
    let rules = RedactRules {
        names: names.iter().map(|text| text.parse().unwrap()).collect(),
        types: types.iter().map(|text| text.parse().unwrap()).collect(),
        patterns: patterns.iter().map(|text| text.parse().unwrap()).collect(),
    };
    Redactor::new(rules).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_that_would_read_it_is_refused_wherever_the_name_stands() {
        let redactor = redactor(&["*password*"], &["main.Secret"], &[]);
        for (request, fields) in [
            ("evaluate", json!({"expression": "u.Password"})),
            ("evaluate", json!({"expression": "len(u.password) > 3"})),
            ("evaluate", json!({"expression": "settings[\"db_password\"]"})),
            ("evaluate", json!({"expression": "*(*string)(0xc000012345)"})),
            ("evaluate", json!({"expression": "x.(main.Secret)"})),
            ("setBreakpoints", json!({"breakpoints": [{"condition": "u.Password == \"x\""}]})),
            ("setBreakpoints", json!({"breakpoints": [{"logMessage": "is {u.Password}"}]})),
            ("RPCServer.Eval", json!({"Expr": "u.Password"})),
            ("RPCServer.CreateBreakpoint", json!({"Breakpoint": {"variables": ["u.Password"]}})),
            ("RPCServer.CreateBreakpoint", json!({"Breakpoint": {"Cond": "u.Password[0] == 'a'"}})),
            ("readMemory", json!({})),
            ("RPCServer.ExamineMemory", json!({})),
        ] {
            let checked = redactor.check(request, fields.as_object().unwrap());
            assert!(checked.is_err(), "{request} {fields}");
        }
    }

    #[test]
    fn what_reads_something_else_passes() {
        let redactor = redactor(&["*password*"], &["main.Secret"], &[]);
        for (request, fields) in [
            ("evaluate", json!({"expression": "(*p).Name"})),
            ("evaluate", json!({"expression": "u.Name", "context": "repl", "frameId": 7})),
            (
                "setBreakpoints",
                json!({"source": {"path": "/srv/password/main.go"},
                "breakpoints": [{"line": 3}]}),
            ),
            ("setFunctionBreakpoints", json!({"breakpoints": [{"name": "main.checkPassword"}]})),
            ("RPCServer.FindLocation", json!({"Loc": "main.go:7"})),
            ("variables", json!({"variablesReference": 1001})),
        ] {
            let checked = redactor.check(request, fields.as_object().unwrap());
            assert!(checked.is_ok(), "{request} {fields}: {checked:?}");
        }
    }
}
