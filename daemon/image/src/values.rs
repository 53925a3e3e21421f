//! dlv's answers, as far as they matter here, and its values in one line, as its terminal shows them.

use godebug_api::image::{Frame, Place, Value};
use godebug_api::redact::HIDDEN;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// How much of a value dlv reads.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct LoadConfig {
    follow_pointers: bool,
    max_variable_recurse: u32,
    max_string_len: u32,
    max_array_values: u32,
    max_struct_fields: i32,
}

pub(crate) const LOAD: LoadConfig = LoadConfig {
    follow_pointers: true,
    max_variable_recurse: 2,
    max_string_len: 256,
    max_array_values: 32,
    max_struct_fields: -1,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Function {
    pub(crate) name: String,
}

/// A place in the program, as dlv has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Location {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) pc: u64,
    pub(crate) file: String,
    pub(crate) line: u64,
    pub(crate) function: Option<Function>,
    /// Every copy of it.
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) pcs: Vec<u64>,
}

impl Location {
    /// The addresses of all copies.
    pub(crate) fn counters(&self) -> impl Iterator<Item = u64> {
        self.pcs.iter().copied().chain([self.pc]).filter(|counter| *counter != 0)
    }

    pub(crate) fn place(&self) -> Place {
        let function = self.function.as_ref().map(|function| function.name.clone());
        Place {
            function: function.unwrap_or_else(|| format!("{:#x}", self.pc)),
            file: self.file.clone(),
            line: self.line,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StackFrame {
    #[serde(flatten)]
    pub(crate) location: Location,
    #[serde(rename = "Arguments", deserialize_with = "null_is_default")]
    pub(crate) arguments: Vec<Variable>,
    #[serde(rename = "Locals", deserialize_with = "null_is_default")]
    pub(crate) locals: Vec<Variable>,
    /// Where it lies on its stack.
    #[serde(rename = "FrameOffset", deserialize_with = "null_is_default")]
    pub(crate) offset: i64,
}

impl StackFrame {
    /// Whether dlv has come from this frame to the same one: where Go changes stacks (gogo on arm64) a
    /// frame can be found to be its own caller, as often as dlv is asked. A function that calls itself
    /// has another place on the stack each time.
    pub(crate) fn is_again(&self, caller: &Self) -> bool {
        let of = |frame: &Self| (frame.location.pc, frame.offset, frame.location.place());
        of(self) == of(caller)
    }

    pub(crate) fn frame(&self) -> Frame {
        Frame { place: self.location.place() }
    }

    /// Whether this is the program's own code and not Go's: paths of the standard library have no dot
    /// in their first part (cmd/go, search.IsStandardImportPath).
    pub(crate) fn is_own(&self) -> bool {
        let place = self.location.place();
        let first = place.function.split('/').next().unwrap_or("");
        place.function.starts_with("main.")
            || (place.function.contains('/') && first.contains('.'))
            || !self.is_in_goroot()
    }

    /// Go's own sources lie in GOROOT/src, or have no folder at all under -trimpath.
    fn is_in_goroot(&self) -> bool {
        let file = &self.location.file;
        file.contains("/go/src/")
            || file.contains("/src/runtime/")
            || is_under_goroot(file)
            || !file.starts_with('/')
    }
}

fn is_under_goroot(file: &str) -> bool {
    // Debian's, and those of the archives: /usr/lib/go-1.24/src, /usr/local/go/src.
    file.split_once("/src/").is_some_and(|(root, _)| {
        root.rsplit('/')
            .next()
            .is_some_and(|last| last == "go" || last.starts_with("go-1") || last.starts_with("go1"))
    })
}

/// A value, as dlv's API has it (service/api/types.go).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Variable {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind_name: String,
    kind: u32,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) value: String,
    len: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) children: Vec<Variable>,
    base: u64,
    #[serde(rename = "onlyAddr")]
    only_address: bool,
    addr: u64,
    pub(crate) unreadable: String,
}

/// Go's reflect.Kind.
mod kind {
    pub(super) const BOOL: u32 = 1;
    pub(super) const ARRAY: u32 = 17;
    pub(super) const CHAN: u32 = 18;
    pub(super) const FUNC: u32 = 19;
    pub(super) const INTERFACE: u32 = 20;
    pub(super) const MAP: u32 = 21;
    pub(super) const POINTER: u32 = 22;
    pub(super) const SLICE: u32 = 23;
    pub(super) const STRING: u32 = 24;
    pub(super) const STRUCT: u32 = 25;
    pub(super) const UNSAFE_POINTER: u32 = 26;
}

/// No value takes more of a line.
const LONGEST: usize = 4096;

impl Variable {
    pub(crate) fn is_bool(&self) -> bool {
        self.kind == kind::BOOL
    }

    /// The elements of a list of strings.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.children.iter().map(|child| child.value.clone()).collect()
    }

    pub(crate) fn shown(&self) -> Value {
        let unreadable = (!self.unreadable.is_empty()).then(|| self.unreadable.clone());
        let mut value = String::new();
        if unreadable.is_none() {
            self.write(&mut value, true);
        }
        Value {
            name: self.name.clone(),
            kind: self.kind_name.clone(),
            value: cut(value),
            unreadable,
        }
    }

    fn write(&self, out: &mut String, top: bool) {
        if out.len() > LONGEST {
            return;
        }
        if self.value == HIDDEN {
            out.push_str(HIDDEN);
            return;
        }
        if !self.unreadable.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(out, "(unreadable {})", self.unreadable);
            return;
        }
        match self.kind {
            kind::STRING => self.write_string(out),
            kind::SLICE => self.write_slice(out, top),
            kind::ARRAY => self.write_list(out, top),
            kind::STRUCT => self.write_struct(out, top),
            kind::MAP => self.write_map(out, top),
            kind::POINTER => self.write_pointer(out),
            kind::INTERFACE => self.write_interface(out),
            kind::CHAN => {
                let _ = match self.children.is_empty() {
                    true => write!(out, "{} nil", self.kind_name),
                    false => write!(
                        out,
                        "{} {}/{}",
                        self.kind_name,
                        self.child("qcount"),
                        self.child("dataqsiz")
                    ),
                };
            }
            kind::FUNC if self.value.is_empty() => out.push_str("nil"),
            kind::UNSAFE_POINTER => {
                let address = self.children.first().map_or(0, |child| child.addr);
                let _ = write!(out, "{}({address:#x})", self.kind_name);
            }
            _ => out.push_str(&self.value),
        }
    }

    fn child(&self, name: &str) -> &str {
        self.children
            .iter()
            .find(|child| child.name == name)
            .map_or("?", |child| child.value.as_str())
    }

    fn write_string(&self, out: &mut String) {
        let _ = write!(out, "{:?}", self.value);
        let more = self.len - i64::try_from(self.value.len()).unwrap_or(0);
        if more > 0 {
            let _ = write!(out, "...+{more} more");
        }
    }

    fn write_slice(&self, out: &mut String, top: bool) {
        if self.base == 0 && self.len == 0 {
            out.push_str("nil");
            return;
        }
        if top {
            let _ = write!(out, "{} len: {}, ", self.kind_name, self.len);
        }
        self.write_elements(out);
    }

    fn write_list(&self, out: &mut String, top: bool) {
        if top {
            let _ = write!(out, "{} ", self.kind_name);
        }
        self.write_elements(out);
    }

    fn write_elements(&self, out: &mut String) {
        out.push('[');
        self.write_children(out, |child, out| child.write(out, false));
        let more = self.len - i64::try_from(self.children.len()).unwrap_or(0);
        if more > 0 {
            let _ =
                write!(out, "{}...+{more} more", if self.children.is_empty() { "" } else { "," });
        }
        out.push(']');
    }

    fn write_struct(&self, out: &mut String, top: bool) {
        if top {
            let _ = write!(out, "{} ", self.kind_name);
        }
        out.push('{');
        self.write_children(out, |child, out| {
            let _ = write!(out, "{}: ", child.name);
            child.write(out, false);
        });
        if self.children.is_empty() && self.len > 0 {
            out.push_str("...");
        }
        out.push('}');
    }

    /// The children of a map are its keys and values in turn.
    fn write_map(&self, out: &mut String, top: bool) {
        if self.base == 0 && self.len == 0 && self.children.is_empty() {
            out.push_str("nil");
            return;
        }
        if top {
            let _ = write!(out, "{} ", self.kind_name);
        }
        out.push('[');
        for (index, pair) in self.children.chunks(2).enumerate() {
            let [key, value] = pair else { break };
            if index > 0 {
                out.push_str(", ");
            }
            key.write(out, false);
            out.push_str(": ");
            value.write(out, false);
        }
        let more = self.len - i64::try_from(self.children.len() / 2).unwrap_or(0);
        if more > 0 {
            let _ =
                write!(out, "{}...+{more} more", if self.children.is_empty() { "" } else { ", " });
        }
        out.push(']');
    }

    fn write_pointer(&self, out: &mut String) {
        match self.children.first() {
            None => out.push_str("nil"),
            Some(target) if target.addr == 0 => out.push_str("nil"),
            Some(target) if target.only_address => {
                let _ = write!(out, "({})({:#x})", self.kind_name, target.addr);
            }
            Some(target) => {
                out.push('*');
                target.write(out, true);
            }
        }
    }

    fn write_interface(&self, out: &mut String) {
        match self.children.first() {
            None => out.push_str("nil"),
            Some(target) if target.kind == 0 && target.addr == 0 => out.push_str("nil"),
            Some(target) if target.only_address => {
                let _ = write!(out, "{}({}) {:#x}", self.kind_name, target.kind_name, target.addr);
            }
            Some(target) => {
                let _ = write!(out, "{}({}) ", self.kind_name, target.kind_name);
                target.write(out, false);
            }
        }
    }

    fn write_children(&self, out: &mut String, mut one: impl FnMut(&Variable, &mut String)) {
        for (index, child) in self.children.iter().enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            one(child, out);
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Go writes null for an empty list.
fn null_is_default<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(variable: serde_json::Value) -> String {
        serde_json::from_value::<Variable>(variable).unwrap().shown().value
    }

    fn int(name: &str, value: &str) -> serde_json::Value {
        json!({"name": name, "type": "int", "kind": 2, "value": value, "children": null})
    }

    #[test]
    fn values_read_as_in_dlvs_own_terminal() {
        assert_eq!(shown(int("n", "7")), "7");
        let text = json!({"type": "string", "kind": 24, "value": "a\u{1b}\"", "len": 9});
        assert_eq!(shown(text), "\"a\\u{1b}\\\"\"...+6 more");
        let list = json!({"type": "[]int", "kind": 23, "len": 3, "base": 9,
            "children": [int("", "1"), int("", "2")]});
        assert_eq!(shown(list), "[]int len: 3, [1, 2,...+1 more]");
        let one = json!({"type": "main.item", "kind": 25, "len": 1, "children": [int("N", "3")]});
        assert_eq!(shown(one.clone()), "main.item {N: 3}");
        let pointer = json!({"type": "*main.item", "kind": 22, "children": [
            {"type": "main.item", "kind": 25, "addr": 8, "len": 1, "children": [int("N", "3")]}]});
        assert_eq!(shown(pointer), "*main.item {N: 3}");
        let map = json!({"type": "map[string]int", "kind": 21, "len": 1, "base": 1, "children": [
            {"type": "string", "kind": 24, "value": "k", "len": 1}, int("", "1")]});
        assert_eq!(shown(map), "map[string]int [\"k\": 1]");
        assert_eq!(shown(json!({"type": "[]int", "kind": 23})), "nil");
        let lost = json!({"name": "x", "type": "int", "kind": 2, "unreadable": "gone"});
        let lost = serde_json::from_value::<Variable>(lost).unwrap().shown();
        assert_eq!(lost.unreadable.as_deref(), Some("gone"));
    }

    #[test]
    fn what_is_hidden_is_said_to_be_whatever_kind_of_value_it_is() {
        for kind in [1, 2, 18, 19, 20, 21, 22, 23, 24, 25, 26] {
            let hidden = json!({"type": "t", "kind": kind, "value": HIDDEN, "children": []});
            assert_eq!(shown(hidden), HIDDEN, "{kind}");
        }
    }

    #[test]
    fn a_value_without_end_is_cut() {
        let long = json!({"type": "string", "kind": 24, "value": "ä".repeat(9000), "len": 18000});
        assert!(shown(long).len() <= LONGEST + 3);
    }

    #[test]
    fn a_frame_that_is_its_own_caller_is_told_from_a_function_that_calls_itself() {
        let frame = |pc, offset| StackFrame {
            location: Location { pc, ..Location::default() },
            offset,
            ..StackFrame::default()
        };
        assert!(frame(7, -96).is_again(&frame(7, -96)));
        assert!(!frame(7, -160).is_again(&frame(7, -96)));
        assert!(!frame(7, -96).is_again(&frame(9, -96)));
    }

    #[test]
    fn own_code_is_told_from_gos() {
        let own = |function: &str, file: &str| {
            let function = Some(Function { name: function.to_owned() });
            let location = Location { file: file.to_owned(), function, ..Location::default() };
            StackFrame { location, ..StackFrame::default() }.is_own()
        };
        assert!(own("main.priceOf", "/src/shop/main.go"));
        assert!(own("example.org/shop/price.Of", "/src/shop/price/of.go"));
        assert!(own("shop/price.Of", "/home/me/shop/price/of.go"));
        assert!(!own("net/http.(*conn).serve", "/usr/lib/go-1.24/src/net/http/server.go"));
        assert!(!own("runtime.gopark", "runtime/proc.go"));
    }
}
