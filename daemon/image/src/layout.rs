//! Where a value of the runtime's is, and its fields in it, as dlv tells.

use crate::delve::{Answerless, Delve};
use serde::Deserialize;
use serde_json::json;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Value {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    addr: u64,
    base: u64,
    len: u64,
    value: Option<String>,
    children: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Variable")]
    variable: Value,
}

/// A value's place and its parts.
pub(crate) struct Layout {
    value: Value,
    /// Where it is.
    pub(crate) address: u64,
    /// Of a slice: where its elements are, and how many; of an array how many.
    pub(crate) base: u64,
    pub(crate) length: u64,
}

impl Layout {
    pub(crate) fn of(dlv: &mut Delve, expression: &str) -> Result<Self, Answerless> {
        let question = json!({
            "Scope": { "GoroutineID": -1, "Frame": 0 },
            "Expr": expression,
            "Cfg": {
                "FollowPointers": false, "MaxVariableRecurse": 2, "MaxStringLen": 0,
                "MaxArrayValues": 0, "MaxStructFields": -1,
            },
        });
        let answer: Answer = dlv.ask("RPCServer.Eval", &question)?;
        let Value { addr, base, len, .. } = answer.variable;
        Ok(Self { value: answer.variable, address: addr, base, length: len })
    }

    /// How far into the value a field is, and how many bytes it has: `stack.lo`, `nelems`. What is no
    /// plain number is read as a word.
    pub(crate) fn field(&self, path: &str) -> Option<(u64, usize)> {
        let found = self.find(path)?;
        let bytes = match found.kind.as_str() {
            "uint8" | "int8" | "bool" => 1,
            kind if kind.ends_with("spanClass") || kind.ends_with("mSpanStateBox") => 1,
            "uint16" | "int16" => 2,
            "uint32" | "int32" => 4,
            kind if kind.ends_with("atomic.Uint32") => 4,
            _ => 8,
        };
        Some((found.addr.checked_sub(self.value.addr)?, bytes))
    }

    /// The number that a field has.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.find(path)?.value.as_ref()?.parse().ok()
    }

    fn find(&self, path: &str) -> Option<&Value> {
        let mut value = &self.value;
        for name in path.split('.') {
            value = value.children.as_ref()?.iter().find(|child| child.name == name)?;
        }
        Some(value)
    }
}
