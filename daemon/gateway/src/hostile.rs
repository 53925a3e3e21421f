//! Fuzzing of all that reads what others send: the decoders of both protocols in both directions, the
//! expression parser, the redactor. On stable, without instrumentation: what is near the corpus
//! (`daemon/gateway/corpus`, the expressions' own) is changed at random and must keep the promises below.
//! Seconds in `cargo test`; `make fuzz` takes as long as one wants. A failure tells the seed, which
//! `GODEBUG_FUZZ_SEED` repeats, and the input, which belongs into the corpus.

use crate::expression;
use crate::protocol::framing::{Framing, LONGEST_ANSWER, LONGEST_REQUEST};
use crate::protocol::{Protocol, dap};
use crate::screen::{Person, Screen, Screened, Values};
use godebug_api::Mode;
use godebug_api::redact::{HIDDEN, Redactor};
use godebug_api::rules::engine::{RedactRules, TranscriptValues};
use serde_json::{Map, Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of each target, when nobody says otherwise.
const SECONDS: u64 = 2;
/// Inputs that are made of more are slow and find no more.
const LONGEST_INPUT: usize = 64 << 10;

fn redactor(patterns: &[&str]) -> Redactor {
    let rules = RedactRules {
        names: ["*password*", "token"].iter().map(|text| text.parse().unwrap()).collect(),
        types: Vec::new(),
        patterns: patterns.iter().map(|text| text.parse().unwrap()).collect(),
    };
    Redactor::new(rules).unwrap()
}

/// A stream of numbers that its seed repeats (xorshift64*).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap_or(0) % bound.max(1)
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// Runs `keeps_its_promise` with one chance after the other for as long as was asked for.
fn fuzz(name: &str, keeps_its_promise: impl Fn(&mut Chance)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("GODEBUG_FUZZ_SEED") {
        return keeps_its_promise(&mut Chance(seed));
    }
    let long = Duration::from_secs(number("GODEBUG_FUZZ_SECONDS").unwrap_or(SECONDS));
    let begun = Instant::now();
    // Each run begins with the same, and a long one comes further.
    let (mut seeds, mut runs) = (Chance(0x9e37_79b9_7f4a_7c15), 0u64);
    while begun.elapsed() < long {
        let seed = seeds.next() | 1;
        let run = AssertUnwindSafe(|| keeps_its_promise(&mut Chance(seed)));
        if catch_unwind(run).is_err() {
            panic!("{name}: repeat it with GODEBUG_FUZZ_SEED={seed}");
        }
        runs += 1;
    }
    eprintln!("{name}: {runs} inputs in {long:?}");
}

fn lines(text: &'static str) -> Vec<&'static str> {
    text.lines().filter(|line| !line.is_empty()).collect()
}

/// Some lines of a corpus, mostly changed, as one stream of that protocol.
fn stream(chance: &mut Chance, corpus: &[&'static str], protocol: Protocol) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..=chance.below(6) {
        let mut body = chance.one_of(corpus).as_bytes().to_vec();
        for _ in 0..chance.below(4) {
            change(chance, &mut body, corpus);
        }
        match protocol {
            Protocol::Dap => stream.extend(dap::with_header(&body)),
            Protocol::JsonRpc => stream.extend([&body[..], b"\n"].concat()),
        }
    }
    // The framing itself as well.
    if chance.below(4) == 0 {
        change(chance, &mut stream, corpus);
    }
    stream.truncate(LONGEST_INPUT);
    stream
}

/// One change, of the kinds that parsers trip over.
fn change(chance: &mut Chance, bytes: &mut Vec<u8>, corpus: &[&'static str]) {
    const WORDS: [&str; 26] = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        "\\u0000",
        "\\ud800",
        ":",
        ",",
        "null",
        "-1",
        "1e999",
        "18446744073709551616",
        "Content-Length: ",
        "\r\n\r\n",
        "call f()",
        "main.T{P: p}",
        "(",
        "Kill",
        "kill",
        "terminateDebuggee",
        "\u{17f}",
        "\u{212a}",
        "\0",
        "\u{202e}",
    ];
    let at = chance.below(bytes.len() + 1);
    let end = at + chance.below((bytes.len() - at).min(40) + 1);
    match chance.below(8) {
        0 => drop(bytes.drain(at..end)),
        1 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
        2 => drop(bytes.splice(at..at, chance.one_of(&WORDS).bytes())),
        3 => drop(bytes.splice(at..end, chance.one_of(&WORDS).bytes())),
        4 => {
            let again = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, again));
        }
        5 => {
            let other = chance.one_of(corpus).as_bytes();
            let from = chance.below(other.len());
            let to = from + chance.below((other.len() - from).min(60) + 1);
            drop(bytes.splice(at..end, other[from..to].to_vec()));
        }
        6 => {
            let deep =
                chance.one_of(&["[", "{\"a\":", "(", "*", "&", "!"]).repeat(chance.below(400));
            drop(bytes.splice(at..at, deep.into_bytes()));
        }
        _ => bytes.truncate(at),
    }
    bytes.truncate(LONGEST_INPUT);
}

fn screen(protocol: Protocol, mode: Mode, hides: bool) -> Screen {
    let (mut person, _notices) = Person::for_tests(protocol);
    if hides {
        let redactor = Some(redactor(&["SECRET"]));
        person.values = Arc::new(Values { redactor, kept: TranscriptValues::Full });
    }
    Screen::new(protocol, mode, person)
}

/// What becomes of a stream that comes in pieces of this size.
fn screened(screen: &mut Screen, stream: &[u8], piece: usize) -> Screened {
    let mut all = Screened::default();
    for bytes in stream.chunks(piece) {
        let some = screen.inward.screen(bytes);
        all.to_debugger.extend(some.to_debugger);
        all.to_client.extend(some.to_client);
        if some.broken.is_some() {
            all.broken = some.broken;
            break;
        }
    }
    all
}

/// As Go's decoder takes a message: the last of the fields whose names differ only in their case, and in
/// two letters that Unicode folds to ASCII.
fn as_go_reads(value: &Value, name: &str) -> Vec<Value> {
    let folded = |text: &str| text.to_lowercase().replace('\u{17f}', "s");
    let fields = value.as_object().into_iter().flatten();
    fields.filter(|(known, _)| folded(known) == name).map(|(_, value)| value.clone()).collect()
}

/// As dlv tells one in the console (service/dap/server.go, `onEvaluateRequest`).
fn is_call(text: &str) -> bool {
    let rest = text.trim_ascii_start().strip_prefix("call");
    rest.is_some_and(|rest| rest.trim_ascii_start().len() < rest.trim_ascii_end().len())
}

/// Nothing that a step session must not do.
fn changes_nothing(protocol: Protocol, message: &Value) {
    let (named, never): (_, &[&str]) = match protocol {
        Protocol::Dap => (
            as_go_reads(message, "command"),
            &["setVariable", "setExpression", "writeMemory", "restart", "launch", "terminate"],
        ),
        Protocol::JsonRpc => (
            as_go_reads(message, "method"),
            &["RPCServer.Set", "RPCServer.Restart", "RPCServer.DumpStart", "RPCServer.Detach"],
        ),
    };
    assert!(named.len() == 1, "dlv may take this in two ways: {message}");
    let name = named[0].as_str().unwrap_or_default();
    assert!(!never.contains(&name), "it reached dlv: {message}");
    let arguments = match protocol {
        Protocol::Dap => as_go_reads(message, "arguments"),
        Protocol::JsonRpc => as_go_reads(message, "params")
            .iter()
            .flat_map(|parameters| as_go_reads(&parameters[0], "kill"))
            .map(|kill| json!({ "terminateDebuggee": kill }))
            .collect(),
    };
    let kills = |fields: &Value| as_go_reads(fields, "terminatedebuggee").contains(&true.into());
    assert!(!arguments.iter().any(kills), "it reached dlv: {message}");
    if name == "evaluate" {
        for text in as_go_reads(&message["arguments"], "expression") {
            assert!(!is_call(text.as_str().unwrap_or_default()), "it reached dlv: {message}");
        }
    }
}

fn requests_of(protocol: Protocol) -> Vec<&'static str> {
    match protocol {
        Protocol::Dap => lines(include_str!("../corpus/dap-requests.jsonl")),
        Protocol::JsonRpc => lines(include_str!("../corpus/rpc-requests.jsonl")),
    }
}

/// What a client sends: the same becomes of it however it is split; what reaches dlv is whole, can be
/// read in one way only, is nothing that a step session must not do, and would pass again.
fn hostile_client(protocol: Protocol) {
    let corpus = requests_of(protocol);
    fuzz(&format!("{} from a client", protocol.name()), |chance| {
        let stream = stream(chance, &corpus, protocol);
        let whole =
            screened(&mut screen(protocol, Mode::Step, false), &stream, stream.len().max(1));
        let piece = 1 + chance.below(97);
        let split = screened(&mut screen(protocol, Mode::Step, false), &stream, piece);
        let told = || String::from_utf8_lossy(&stream).into_owned();
        assert_eq!(whole.to_debugger, split.to_debugger, "in pieces of {piece}: {}", told());
        assert_eq!(
            whole.broken.is_some(),
            split.broken.is_some(),
            "in pieces of {piece}: {}",
            told()
        );

        let mut framing = Framing::new(protocol, LONGEST_REQUEST);
        framing.push(&whole.to_debugger);
        while let Some(frame) = framing.next().unwrap() {
            let message: Value = serde_json::from_slice(frame.body).unwrap();
            changes_nothing(protocol, &message);
        }
        let again = screened(
            &mut screen(protocol, Mode::Step, false),
            &whole.to_debugger,
            whole.to_debugger.len().max(1),
        );
        assert!(again.broken.is_none() && again.to_client.is_empty(), "{}", told());
    });
}

#[test]
fn hostile_client_with_dap() {
    hostile_client(Protocol::Dap);
}

#[test]
fn hostile_client_with_json_rpc() {
    hostile_client(Protocol::JsonRpc);
}

#[test]
fn every_split_of_the_corpus_is_the_same() {
    for protocol in [Protocol::Dap, Protocol::JsonRpc] {
        let mut stream = Vec::new();
        // Each of those that end the connection has its own test.
        for line in &requests_of(protocol)[..20] {
            match protocol {
                Protocol::Dap => stream.extend(dap::with_header(line.as_bytes())),
                Protocol::JsonRpc => stream.extend_from_slice(line.as_bytes()),
            }
        }
        let whole = screened(&mut screen(protocol, Mode::Modify, false), &stream, stream.len());
        for at in 1..stream.len() {
            let mut screen = screen(protocol, Mode::Modify, false);
            let mut to_debugger = screen.inward.screen(&stream[..at]).to_debugger;
            to_debugger.extend(screen.inward.screen(&stream[at..]).to_debugger);
            assert_eq!(to_debugger, whole.to_debugger, "split at {at}");
        }
    }
}

/// What dlv sends, with values to hide in it: the same comes out however it is split, and of what is as
/// dlv has said it no hidden value does.
fn hostile_dlv(protocol: Protocol, corpus: &[&'static str]) {
    fuzz(&format!("{} from dlv", protocol.name()), |chance| {
        let stream = stream(chance, corpus, protocol);
        let mut one = screen(protocol, Mode::Step, true);
        let whole = one.outward.screen(&stream);
        let mut other = screen(protocol, Mode::Step, true);
        let mut split = Vec::new();
        let piece = 1 + chance.below(97);
        let failed = stream.chunks(piece).any(|bytes| match other.outward.screen(bytes) {
            Ok(bytes) => {
                split.extend_from_slice(&bytes);
                false
            }
            Err(_) => true,
        });
        let told = || String::from_utf8_lossy(&stream).into_owned();
        assert_eq!(whole.is_err(), failed, "in pieces of {piece}: {}", told());
        if let Ok(whole) = whole {
            assert_eq!(whole, split, "in pieces of {piece}: {}", told());
        }
        let line = chance.one_of(corpus).as_bytes();
        let line = match protocol {
            Protocol::Dap => dap::with_header(line),
            Protocol::JsonRpc => line.to_vec(),
        };
        let shown = screen(protocol, Mode::Step, true).outward.screen(&line).unwrap();
        let shown = String::from_utf8_lossy(&shown);
        assert!(!shown.contains("SECRET"), "it is shown: {shown}");
    });
}

#[test]
fn hostile_dlv_with_dap() {
    hostile_dlv(Protocol::Dap, &lines(include_str!("../corpus/dap-answers.jsonl")));
}

#[test]
fn hostile_dlv_with_json_rpc() {
    hostile_dlv(Protocol::JsonRpc, &lines(include_str!("../corpus/rpc-answers.jsonl")));
}

#[test]
fn what_is_too_long_or_too_deep_is_an_error_and_no_more() {
    for protocol in [Protocol::Dap, Protocol::JsonRpc] {
        let framed = |body: String| match protocol {
            Protocol::Dap => dap::with_header(body.as_bytes()),
            Protocol::JsonRpc => body.into_bytes(),
        };
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(LONGEST_ANSWER + 1));
        let mut one = screen(protocol, Mode::Step, true);
        assert!(one.outward.screen(&framed(deep.clone())).is_err());
        assert!(screen(protocol, Mode::Step, true).outward.screen(&framed(long)).is_err());
        let inward = screen(protocol, Mode::Step, false).inward.screen(&framed(deep));
        assert!(inward.broken.is_some() && inward.to_debugger.is_empty());
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(LONGEST_REQUEST + 1));
        let inward = screen(protocol, Mode::Step, false).inward.screen(&framed(long));
        assert!(inward.broken.is_some() && inward.to_debugger.is_empty());
    }
}

/// The texts that dlv evaluates: each reader answers, in time, and what passes as an expression that is
/// read builds no literal and is no call.
#[test]
fn hostile_expressions() {
    let corpus: Vec<&'static str> = lines(include_str!("expression/corpus.jsonl"));
    let texts: Vec<String> = corpus
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| line[2].as_str().map(str::to_owned))
        .collect();
    let texts: Vec<&'static str> = texts.into_iter().map(|text| &*text.leak()).collect();
    fuzz("expressions", |chance| {
        let mut bytes = chance.one_of(&texts).as_bytes().to_vec();
        for _ in 0..=chance.below(4) {
            change(chance, &mut bytes, &texts);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let begun = Instant::now();
        if let Ok(read) = expression::parse(&text) {
            assert!(!read.builds_literals(), "a literal is read: {text}");
            assert!(!is_call(&text), "a call is read: {text}");
            assert!(expression::parse(&format!(" {text} ")).is_ok(), "spaces refuse it: {text}");
        }
        let _ = expression::parse_condition(&text);
        let _ = expression::parse_hit_condition(&text);
        let _ = expression::parse_log_message(&text);
        let _ = expression::parse_data_id(&text);
        let _ = expression::parse_evaluated(&text);
        let _ = expression::check_location(&text);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?} for {} bytes: {text}", text.len());
    });
}

/// A variable of some depth, with a hidden one somewhere in it, in the shape of one of the protocols.
fn variable(chance: &mut Chance, protocol: Protocol, depth: usize) -> Value {
    let hidden = chance.below(4) == 0;
    let name = match hidden {
        true => *["password", "dbPassword", "PASSWORD", "u.Password", "m[\"token\"]", "token"]
            .get(chance.below(6))
            .unwrap_or(&"token"),
        false => chance.one_of(&["x", "o.ID", "", "[3]", "näme", "a b", "pass word"]),
    };
    let value = if hidden { "H1DD3N" } else { chance.one_of(&["7", "\"text\"", "", "{", "nil"]) };
    let children: Vec<Value> = (0..if depth == 0 { 0 } else { chance.below(4) })
        .map(|_| variable(chance, protocol, depth - 1))
        .collect();
    let mut fields = Map::new();
    match protocol {
        Protocol::Dap => {
            fields.insert("variablesReference".to_owned(), chance.below(2).into());
            fields.insert("evaluateName".to_owned(), name.into());
            let text = match hidden {
                true => format!("main.T {{Other: 1, Inner: {value}}}"),
                false => format!("main.T {{A: \"{{,]\", Password: H1DD3N, B: [{value},2]}}"),
            };
            fields.insert("value".to_owned(), text.into());
            fields.insert("more".to_owned(), children.into());
        }
        Protocol::JsonRpc => {
            fields.insert("kind".to_owned(), 25.into());
            fields.insert("type".to_owned(), "main.T".into());
            fields.insert("value".to_owned(), value.into());
            fields.insert("children".to_owned(), children.into());
        }
    }
    fields.insert("name".to_owned(), name.into());
    Value::Object(fields)
}

/// What has a hidden name is nowhere in what comes out, and a second time changes nothing more.
#[test]
fn hostile_values() {
    let redactor = redactor(&[]);
    fuzz("hidden values", |chance| {
        for protocol in [Protocol::Dap, Protocol::JsonRpc] {
            let mut message = json!({"body": [variable(chance, protocol, 4)], "result": null});
            let before = message.to_string();
            let hide = |message: &mut Value| match protocol {
                Protocol::Dap => redactor.hide_in_dap(message),
                Protocol::JsonRpc => redactor.hide_in_rpc(message),
            };
            let hid = hide(&mut message);
            let once = message.to_string();
            assert!(!once.contains("H1DD3N"), "it is shown: {once}\nof {before}");
            assert_eq!(hid, once.contains(HIDDEN), "of {before}");
            hide(&mut message);
            assert_eq!(message.to_string(), once, "not the same twice: {before}");
        }
    });
}
