//! What a client was shown, for the transcript: which variables, and as much of their values as the rule
//! of the host wants to have kept.

use crate::protocol::Protocol;
use godebug_api::rules::engine::TranscriptValues;
use godebug_api::transcript::{Shown, shown};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Questions that are remembered until they are answered; an IDE has a handful open.
const MOST_OPEN: usize = 256;

/// The questions of one connection whose answers show values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Questions(Arc<Mutex<BTreeMap<u64, String>>>);

impl Questions {
    /// Question `number` is for these.
    pub(crate) fn asked(&self, number: Option<u64>, subject: &str) {
        let mut open = self.open();
        if let Some(number) = number.filter(|_| open.len() < MOST_OPEN) {
            open.insert(number, subject.to_owned());
        }
    }

    /// Whether the answer of this number is to be looked into.
    pub(crate) fn is_open(&self, number: u64) -> bool {
        self.open().contains_key(&number)
    }

    /// What dlv's message `heard` shows of them, of which the client gets `body`; nothing when it is no
    /// answer to one.
    pub(crate) fn answered(
        &self,
        protocol: Protocol,
        (heard, body): (&[u8], &[u8]),
        keep: TranscriptValues,
    ) -> Vec<Shown> {
        let mut open = self.open();
        if open.is_empty() {
            return Vec::new();
        }
        let Some(subject) = number_of(protocol, heard).and_then(|number| open.remove(&number))
        else {
            return Vec::new();
        };
        drop(open);
        let mut all = match protocol {
            Protocol::Dap => serde_json::from_slice(body).map_or_else(|_| Vec::new(), in_dap),
            Protocol::JsonRpc => serde_json::from_slice(body).map_or_else(|_| Vec::new(), in_rpc),
        };
        // The value of an expression has the expression for its name.
        if let [Variable { name, .. }] = all.as_mut_slice()
            && name.is_empty()
        {
            *name = Cow::Borrowed(&subject);
        }
        shown(all.iter().map(|one| (&*one.name, &*one.value)), keep)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of the question that this answers, which both of dlv's encoders write near the beginning
/// (go-dap, `Response`; service/rpccommon, `serverResponse`): no long message is read for it.
pub(crate) fn number_of(protocol: Protocol, body: &[u8]) -> Option<u64> {
    const NEAR: usize = 128;
    let name: &[u8] = match protocol {
        Protocol::Dap => b"\"request_seq\":",
        Protocol::JsonRpc => b"{\"id\":",
    };
    let near = &body[..body.len().min(NEAR)];
    let at = near.windows(name.len()).position(|part| part == name)? + name.len();
    let digits = near[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&near[at..at + digits]).ok()?.parse().ok()
}

/// A variable of either protocol. `value` holds the text that is shown.
#[derive(Default, Deserialize)]
struct Variable<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Cow<'a, str>,
}

#[derive(Deserialize)]
struct DapAnswer<'a> {
    #[serde(borrow, default)]
    body: Option<DapBody<'a>>,
}

#[derive(Deserialize)]
struct DapBody<'a> {
    #[serde(borrow, default)]
    variables: Vec<Variable<'a>>,
    #[serde(borrow, default)]
    result: Option<Cow<'a, str>>,
}

fn in_dap(answer: DapAnswer<'_>) -> Vec<Variable<'_>> {
    let Some(body) = answer.body else { return Vec::new() };
    let mut all = body.variables;
    all.extend(body.result.map(|value| Variable { name: Cow::Borrowed(""), value }));
    all
}

#[derive(Deserialize)]
struct RpcAnswer<'a> {
    #[serde(borrow, default)]
    result: Option<RpcResult<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RpcResult<'a> {
    #[serde(borrow)]
    variable: Option<Variable<'a>>,
    #[serde(borrow)]
    variables: Option<Vec<Variable<'a>>>,
    #[serde(borrow)]
    args: Option<Vec<Variable<'a>>>,
    #[serde(borrow)]
    locations: Option<Vec<RpcFrame<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RpcFrame<'a> {
    #[serde(borrow, default)]
    locals: Option<Vec<Variable<'a>>>,
    #[serde(borrow, default)]
    arguments: Option<Vec<Variable<'a>>>,
}

fn in_rpc(answer: RpcAnswer<'_>) -> Vec<Variable<'_>> {
    let result = answer.result.unwrap_or_default();
    let mut all: Vec<Variable<'_>> = result.variable.into_iter().collect();
    // dlv gives it a name only where the expression is one.
    all.iter_mut().for_each(|variable| variable.name = Cow::Borrowed(""));
    all.extend(result.variables.into_iter().chain(result.args).flatten());
    for frame in result.locations.into_iter().flatten() {
        all.extend(frame.arguments.into_iter().chain(frame.locals).flatten());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(protocol: Protocol, keep: TranscriptValues, number: u64, body: &str) -> String {
        let questions = Questions::default();
        questions.asked(Some(7), "o.Id");
        assert!(questions.answered(protocol, (b"{\"id\":8}", b""), keep).is_empty());
        let both = (body.as_bytes(), body.as_bytes());
        let shown = questions.answered(protocol, both, keep);
        assert_eq!(questions.answered(protocol, both, keep), [], "{number}");
        serde_json::to_string(&shown).unwrap()
    }

    #[test]
    fn what_was_shown_is_told_by_its_names() {
        let dap = r#"{"seq":0,"type":"response","request_seq":7,"success":true,"command":"variables",
            "body":{"variables":[{"name":"a","value":"\"S\\\"\"","variablesReference":0},{"name":"b","value":"2"}]}}"#;
        let none = TranscriptValues::None;
        assert_eq!(told(Protocol::Dap, none, 7, dap), r#"[{"name":"a"},{"name":"b"}]"#);
        let evaluated = r#"{"seq":0,"type":"response","request_seq":7,"success":true,"command":"evaluate","body":{"result":"3"}}"#;
        let full = TranscriptValues::Full;
        assert_eq!(told(Protocol::Dap, full, 7, evaluated), r#"[{"name":"o.Id","value":"3"}]"#);
        let rpc = r#"{"id":7,"result":{"Variable":{"name":"","kind":2,"value":"3","children":[]}},"error":null}"#;
        assert_eq!(told(Protocol::JsonRpc, full, 7, rpc), r#"[{"name":"o.Id","value":"3"}]"#);
        let stack = r#"{"id":7,"result":{"Locations":[{"Locals":[{"name":"x","value":"1"}],"Arguments":null}]},"error":null}"#;
        assert_eq!(told(Protocol::JsonRpc, none, 7, stack), r#"[{"name":"x"}]"#);
        let error = r#"{"id":7,"result":null,"error":"no"}"#;
        assert_eq!(told(Protocol::JsonRpc, none, 7, error), "[]");
    }

    #[test]
    fn a_digest_is_the_values_own() {
        let rpc = r#"{"id":7,"result":{"Variable":{"name":"","value":"abc"}},"error":null}"#;
        let told = told(Protocol::JsonRpc, TranscriptValues::Digest, 7, rpc);
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(told.contains(digest) && !told.contains("abc\""), "{told}");
    }
}
