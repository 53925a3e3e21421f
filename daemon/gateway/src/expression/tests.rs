//! What the expression parser takes and refuses, and what it finds. The corpus holds what Go's own
//! parser said, from 1.19, 1.24 and 1.27, which agreed on every line.

use super::*;
use proptest::prelude::*;

/// A line of the corpus: what becomes of the text (read, call: only under `call`, assign, refused),
/// whether it is Go, the text, and its calls as Delve tells them: `?` may be a conversion, `!` not.
type Line = (String, String, String, Vec<String>);

fn corpus() -> impl Iterator<Item = Line> {
    let lines = include_str!("corpus.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).expect("a line of the corpus"))
}

fn verdict(text: &str) -> &'static str {
    if parse(text).is_ok() {
        return "read";
    }
    match parse_evaluated(&format!("call {text}")) {
        Ok(Evaluated::Call(_)) => "call",
        Ok(Evaluated::Assignment { .. }) => "assign",
        _ => "refused",
    }
}

fn marked_calls(expression: &Expression) -> Vec<String> {
    let places = expression.found.callees.iter();
    let mark = |callee: &Callee| if callee.maybe_type { '?' } else { '!' };
    let mut calls: Vec<_> =
        places.map(|callee| format!("{}{}", mark(callee), expression.at(callee))).collect();
    calls.sort();
    calls
}

fn read_text(text: &str) -> Expression {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

fn paths(text: &str) -> Vec<String> {
    read_text(text).variables().map(|variable| variable.path().to_owned()).collect()
}

fn calls(text: &str) -> Vec<String> {
    read_text(text).calls().map(str::to_owned).collect()
}

#[test]
fn the_corpus_gets_its_verdicts_and_nothing_is_accepted_that_go_refuses() {
    for (expected, go, text, expected_calls) in corpus() {
        assert_eq!(verdict(&text), expected, "{text:?}");
        assert!(go == "go" || !matches!(expected.as_str(), "read" | "call"), "{text:?}");
        if expected == "read" {
            assert_eq!(marked_calls(&read_text(&text)), expected_calls, "{text:?}");
        }
    }
}

#[test]
fn what_is_read_is_named_with_its_fields() {
    assert_eq!(paths("o.Items[i+1].Name"), ["o.Items.Name", "i"]);
    assert_eq!(paths(r#""some/pkg".Var.Field"#), ["some/pkg.Var.Field"]);
    assert_eq!(paths("(*p).next.(*T).x + RAX"), ["p.next.x", "RAX"]);
    assert_eq!(paths(r#"*(*"main.T")(0x1234)"#), [] as [&str; 0]);
    assert_eq!(paths(r#"(*"main.T")(0x1234).Password"#), [".Password"]);
    assert_eq!(paths("err != nil && ok == true"), ["err", "ok"]);
    assert_eq!(paths("runtime.curg.goid"), ["runtime.curg.goid"]);
    assert_eq!(paths("runtime.frame(1).x.y"), ["x.y"]);
    assert_eq!(paths("len(string(b[:n]))"), ["b", "n"]);
    assert_eq!(paths("o.Items[0].Load(k)"), ["o.Items", "k"]);
    let expression = read_text(r#""some/pkg".Var.Field"#);
    assert_eq!(expression.variables().next().expect("it reads one").root(), "some/pkg.Var");
}

#[test]
fn a_call_is_told_from_builtins_conversions_and_frames() {
    assert_eq!(calls("f(g(1), h.M())"), ["g", "h.M", "f"]);
    assert_eq!(calls("main.T(x)"), ["main.T"]);
    assert_eq!(read_text("main.T(x)").certain_calls().count(), 0);
    assert_eq!(read_text("main.F(x, y)").certain_calls().count(), 1);
    assert_eq!(read_text("o.a.F(x)").certain_calls().count(), 1);
    for text in ["len(x)", "[]byte(s)", "(*int)(p)", r#""a.T"(x)"#, "runtime.frame(1).x", "cap(x)"]
    {
        assert_eq!(calls(text), [] as [&str; 0], "{text}");
    }
    // Neither is what it looks like: dlv asks for the bare name, and for a field after it.
    assert_eq!(calls("(len)(x)"), ["(len)"]);
    assert_eq!(calls("runtime.frame(1)"), ["runtime.frame"]);
    assert_eq!(calls("(runtime.frame(1)).x"), ["runtime.frame"]);
}

#[test]
fn composite_literals_are_for_calls_alone() {
    assert!(error("main.T{Inner: p, Field: 1}").contains("composite literal"));
    assert!(error("[]T{{1}, {2}}").contains("composite literal"));
    let Ok(Evaluated::Call(call)) = parse_evaluated("call f(&main.T{A: x, B: []int{1, 2}})") else {
        panic!("this is a call");
    };
    assert!(call.builds_literals());
}

#[test]
fn an_error_says_where_and_what_but_never_a_secret() {
    assert_eq!(error("a +"), "at character 4: expected a value, found the end");
    assert_eq!(error("é.ü x"), "at character 5: expected an operator or the end, found a name");
    assert_eq!(error("x = 5"), "at character 3: an assignment is not for a debugger's expression");
    assert!(!error(r#"a "hunter2""#).contains("hunter2"));
    assert!(!error(r#""hunter2"#).contains("hunter2"));
}

#[test]
fn a_newline_ends_an_expression_where_go_says_so() {
    assert!(parse("a +\n b").is_ok());
    assert!(parse("a\n").is_ok());
    assert!(parse("f(\na,\n)").is_ok());
    assert!(parse("a // seen\n").is_ok());
    assert!(parse("a\n+ b").is_err());
    assert!(parse("a /*\n*/ + b").is_err());
    assert!(parse("(a\n)").is_err());
    assert!(parse("a;").is_err());
    assert!(parse("//line x:0\na").is_err());
}

#[test]
fn a_text_is_bounded_in_length_and_depth() {
    let longest = format!("a{}", "+a".repeat((LONGEST - 1) / 2));
    assert!(parse(&longest).is_ok());
    assert!(parse(&format!("{longest}+aa")).is_err());
    let nested = |depth| format!("{}x{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nested(190)).is_ok());
    for text in [
        nested(30_000),
        "f(".repeat(20_000),
        "a[".repeat(20_000),
        "-".repeat(50_000),
        "*".repeat(50_000),
        "[]".repeat(30_000),
        "map[".repeat(16_000),
        "func(".repeat(13_000),
        "struct{a ".repeat(7_000),
        "x.(chan ".repeat(8_000),
    ] {
        assert!(parse(&text).is_err());
        assert!(parse_evaluated(&format!("call T{{{{{text}")).is_err());
    }
    assert!(parse_evaluated(&format!("call T{}", "{".repeat(60_000))).is_err());
}

#[test]
fn no_nul_and_no_byte_order_mark_pass_anywhere() {
    for text in ["a\0", "\"\0\"", "`\u{feff}`", "\u{feff}a", "a /* \0 */"] {
        assert!(parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn an_evaluated_text_is_what_dlvs_prefixes_make_it() {
    let kind = |text: &str| match parse_evaluated(text) {
        Ok(Evaluated::Read(_)) => "read",
        Ok(Evaluated::Call(_)) => "call",
        Ok(Evaluated::Assignment { .. }) => "assignment",
        Ok(Evaluated::Dlv(_)) => "dlv",
        Err(_) => "refused",
    };
    assert_eq!(kind("x.y"), "read");
    assert_eq!(kind(" \n call f(x)"), "call");
    assert_eq!(kind("call"), "read");
    assert_eq!(kind("call "), "read");
    assert_eq!(kind("call[1]"), "read");
    assert_eq!(kind("callf(x)"), "read");
    assert_eq!(kind("call + 1"), "call");
    assert_eq!(kind("call x = f(1)"), "assignment");
    assert_eq!(kind("x = 1"), "refused");
    assert_eq!(kind("call x == y = z"), "assignment");
    assert_eq!(kind("call a = b = c"), "refused");
    // dlv sees the word, and then cuts elsewhere.
    assert_eq!(kind("call\tf(call x)"), "refused");
    assert_eq!(kind("dlv\tconfig dlv -list"), "refused");
    assert_eq!(kind("\u{a0}call f(x)"), "refused");
    let Ok(Evaluated::Dlv(command)) = parse_evaluated("  dlv  config -list ") else {
        panic!("this is a command");
    };
    assert_eq!(command, "config -list");
    let error = parse_evaluated(" call x = y z").expect_err("two names");
    assert_eq!(error.position(), 13);
}

#[test]
fn a_condition_may_catch_its_errors_around_all_of_it() {
    let calls = |text| parse_condition(text).expect("a condition").calls().count();
    assert_eq!(calls("delve.catch(x.y == 1)"), 0);
    assert_eq!(calls("delve.catch(f(x, y))"), 1);
    assert_eq!(calls("delve.catch(x) && y"), 1);
    assert_eq!(calls("(delve.catch(x))"), 1);
    assert_eq!(calls("delve.catch(x, y)"), 1);
    assert!(parse_condition("main.T{} == x").is_err());
}

#[test]
fn a_log_message_gives_the_expressions_in_its_braces() {
    let texts = |message: &str| -> Vec<String> {
        let expressions = parse_log_message(message).expect("a log message");
        expressions.iter().map(|expression| expression.text().to_owned()).collect()
    };
    assert_eq!(texts("hello"), [] as [&str; 0]);
    assert_eq!(texts("{ x } of {o.Items[1]}%"), ["x", "o.Items[1]"]);
    assert_eq!(texts("{x.(interface{})}"), ["x.(interface{})"]);
    for message in ["{", "}", "{}", "{ }", "{x", "x}", "{{x}}", "{\"}\"}", "{T{1}}", "{x = 1}"] {
        assert!(parse_log_message(message).is_err(), "{message}");
    }
    assert_eq!(parse_log_message("ä { +}").expect_err("no value").position(), 6);
}

#[test]
fn a_hit_condition_is_the_whole_text() {
    let read = |text| parse_hit_condition(text).map(|hit| (hit.operator, hit.count)).ok();
    assert_eq!(read("5"), Some((HitOperator::Equal, 5)));
    assert_eq!(read(" >= 3 "), Some((HitOperator::GreaterOrEqual, 3)));
    assert_eq!(read("%2"), Some((HitOperator::MultipleOf, 2)));
    assert_eq!(read("!= 007"), Some((HitOperator::NotEqual, 7)));
    for text in
        ["", "% 0", ">=  3", "x 3", "3 x", "=3", "=> 3", "1_000", "-3", "9223372036854775808"]
    {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn no_literal_hides_in_a_location_an_id_or_a_memory_command() {
    assert!(check_location("main.(*T).M:5").is_ok());
    assert!(check_location("*main.T{Inner: p, Field: 1}.Z").is_err());
    assert!(parse_data_id("-1,0,o.Items[f(1, 2)]").is_ok());
    assert_eq!(parse_data_id("1,0,x = 1").expect_err("it writes").position(), 7);
    for text in ["", "1,2", "a,0,x", "0,0,T{E: p, F: 1}.Z"] {
        assert!(parse_data_id(text).is_err(), "{text}");
    }
    assert!(parse_evaluated("dlv x -x &o.f").is_ok());
    assert!(parse_evaluated("dlv x -x &T{E: p, F: 1}.Z").is_err());
    assert!(parse_evaluated("dlv sources a{2}").is_ok());
}

/// Texts near the corpus: one of its own, or two of them with something in between.
fn near_the_corpus() -> impl Strategy<Value = String> {
    let texts: Vec<String> = corpus().map(|(_, _, text, _)| text).collect();
    let text = proptest::sample::select(texts);
    (text.clone(), any::<prop::sample::Index>(), "[ -~]{0,3}|\\PC{0,2}|[\n\t\0]", text).prop_map(
        |(first, index, between, second)| {
            let cut = first.char_indices().map(|(at, _)| at).nth(index.index(first.len() + 1));
            let (start, end) = first.split_at(cut.unwrap_or(first.len()));
            format!("{start}{between}{second}{end}")
        },
    )
}

/// Everything that can be done with a text; it only must not panic.
fn read_every_way(text: &str) {
    for expression in [parse(text), parse_condition(text)].into_iter().flatten() {
        assert_eq!(expression.text(), text);
        assert!(expression.calls().all(|call| !call.is_empty()));
        assert!(
            expression.variables().all(|variable| variable.path().starts_with(variable.root()))
        );
    }
    let _ = parse_evaluated(text).map(|evaluated| format!("{evaluated:?}"));
    let _ = parse_evaluated(&format!("call {text}"));
    let _ = (parse_log_message(text), parse_data_id(text), check_location(text));
    let _ = parse_hit_condition(text).map_err(|error| error.to_string());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text: String) {
        read_every_way(&text);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        read_every_way(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn nothing_near_the_corpus_makes_it_panic(text in near_the_corpus()) {
        read_every_way(&text);
    }

    #[test]
    fn parentheses_around_an_expression_change_nothing_that_it_reads(text in near_the_corpus()) {
        if let (Ok(bare), Ok(wrapped)) = (parse(&text), parse(&format!("({text})"))) {
            let paths = |e: &Expression| e.variables().cloned().collect::<Vec<_>>();
            prop_assert_eq!(paths(&bare), paths(&wrapped));
            prop_assert_eq!(bare.calls().count(), wrapped.calls().count());
        }
    }
}
