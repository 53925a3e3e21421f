//! A value as dlv renders it on one line, `main.User {Name: "ann", Password: "x", Tags: map[string]string
//! ["token": "y", ]}`, without the parts that are hidden. Whatever is not understood is hidden too: the
//! value of a hidden name ends at the comma or bracket that closes it, or else with the line.

use super::{HIDDEN, Redactor};

impl Redactor {
    /// The rendering with the hidden parts replaced; `None` when there are none.
    pub(super) fn rendering(&self, text: &str) -> Option<String> {
        // Within another value nothing tells a field's type, so nothing within is shown.
        let inside = self.has_types().then(|| inside(text)).flatten();
        if let Some((kind, closing)) = inside {
            return Some(self.without_patterns(format!("{kind}…{closing}")));
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut hid = false;
        while let Some(first) = rest.chars().next() {
            let word = word(rest);
            if word.is_empty() {
                out.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            }
            let after = &rest[word.len()..];
            if let Some(value) = after.strip_prefix(": ").filter(|_| self.hides_name(bare(word))) {
                out.push_str(word);
                out.push_str(": ");
                out.push_str(HIDDEN);
                rest = &value[length_of_value(value)..];
                hid = true;
            } else {
                out.push_str(word);
                rest = after;
            }
        }
        let clean = self.without_patterns(out);
        (hid || clean != text).then_some(clean)
    }
}

/// What stands before the fields or elements of a composite value, and what closes them.
fn inside(text: &str) -> Option<(&str, char)> {
    let braces = text.find('{').map(|at| (&text[..=at], '}'));
    // `[]int len: 2, cap: 2, [1,2]`, `map[string]int ["a": 1, ]`; not the brackets of the type.
    let brackets = text.find(" [").map(|at| (&text[..at + 2], ']'));
    match (braces, brackets) {
        (Some(braces), Some(brackets)) if brackets.0.len() < braces.0.len() => Some(brackets),
        (Some(braces), _) => Some(braces),
        (None, brackets) => brackets,
    }
}

/// A name, a type's name, or a quoted text with its quotes, at the beginning of `text`.
fn word(text: &str) -> &str {
    if text.starts_with('"') {
        return &text[..length_of_quoted(text)];
    }
    let is_of_word =
        |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '/' | '·' | '~' | '-');
    let end = text.find(|c| !is_of_word(c)).unwrap_or(text.len());
    &text[..end]
}

/// The last part of a name, without quotes.
fn bare(word: &str) -> &str {
    let word = word.trim_matches('"');
    word.rsplit('.').next().unwrap_or(word)
}

/// With both quotes; all of it when the second is missing.
fn length_of_quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Up to the comma or the bracket that ends a value.
fn length_of_value(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' => {
                at += length_of_quoted(&text[at..]);
                continue;
            }
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' if depth == 0 => return at,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => return at,
            _ => {}
        }
        at += c.len_utf8();
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::super::redactor;
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        let redactor = redactor(&["password", "*token*"], &[], &["BEGIN [A-Z]+ KEY"]);
        let shown = redactor.rendering(text).unwrap_or_else(|| text.to_owned());
        shown.replace(HIDDEN, "#")
    }

    #[test]
    fn nested_values_are_hidden_and_their_neighbours_are_not() {
        for (text, expected) in [
            (
                r#"main.User {Name: "ann", Password: "a, }b\"c", Age: 7}"#,
                r#"main.User {Name: "ann", Password: #, Age: 7}"#,
            ),
            (r#"main.User {PASSWORD: *"x"}"#, "main.User {PASSWORD: #}"),
            (r#"{User: main.U {Password: "x"}, N: 1}"#, "{User: main.U {Password: #}, N: 1}"),
            (
                r#"map[string]string ["api_token": "y", "b": "z", ]"#,
                r#"map[string]string ["api_token": #, "b": "z", ]"#,
            ),
            (r#""-----BEGIN RSA KEY----- abc""#, r#""-----#----- abc""#),
            (r#"main.User {Password: "cut off...+12 more"#, "main.User {Password: #"),
            (r#"main.User {Name: "Password: x"}"#, r#"main.User {Name: "Password: x"}"#),
            ("7", "7"),
            ("", ""),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn nothing_within_another_value_is_shown_while_a_type_is_hidden() {
        let redactor = redactor(&[], &["main.Secret"], &[]);
        for (text, expected) in [
            (r#"main.T {S: "x", N: 3}"#, Some("main.T {…}")),
            (r#"*main.Secret {A: 1}"#, Some("*main.Secret {…}")),
            (r#"[]string len: 1, cap: 1, ["x"]"#, Some("[]string len: 1, cap: 1, […]")),
            (r#"map[string]main.Secret ["a": {A: 1}, ]"#, Some("map[string]main.Secret […]")),
            (r#"interface {}(main.Secret) "x""#, Some("interface {…}")),
            (r#""text""#, None),
            ("7", None),
        ] {
            assert_eq!(redactor.rendering(text).as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_secret_is_nothing_of_it_is_shown(secret in "[a-z0-9,{}\\[\\]: ]{6,20}", before in "[a-z]{1,5}") {
            let quoted = format!("{secret:?}");
            let text = format!("main.User {{Name: \"{before}\", Password: {quoted}, Age: 7}}");
            let shown = shown(&text);
            prop_assert_eq!(shown, format!("main.User {{Name: \"{before}\", Password: #, Age: 7}}"));
        }

        #[test]
        fn no_text_upsets_it(text in ".*") {
            shown(&text);
        }
    }
}
