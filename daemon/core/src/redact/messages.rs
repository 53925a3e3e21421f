//! dlv's messages without what is hidden. In DAP a variable's text is a rendering that may hold others;
//! in JSON-RPC it has its children beside it. Both are found wherever they stand in a message.

use super::{HIDDEN, Redactor};
use serde_json::{Map, Value};

/// `reflect.Map`, as dlv sends kinds.
const MAP: u64 = 21;

impl Redactor {
    /// Hides what is to be hidden in one message of DAP. True when something was.
    pub fn hide_in_dap(&self, message: &mut Value) -> bool {
        match message {
            Value::Array(all) => {
                all.iter_mut().map(|one| self.hide_in_dap(one)).fold(false, either)
            }
            Value::Object(fields) => {
                let hid = self.hide_dap_variable(fields);
                fields.iter_mut().fold(hid, |hid, (name, value)| match value {
                    Value::String(text) if holds_a_value(name) => self.hide_in_text(text) || hid,
                    other => self.hide_in_dap(other) || hid,
                })
            }
            _ => false,
        }
    }

    /// A variable has a name, a value and a reference to its children.
    fn hide_dap_variable(&self, fields: &mut Map<String, Value>) -> bool {
        if !fields.contains_key("variablesReference") {
            return false;
        }
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        // A map's keys are the names of its values; an expression's last part is its name.
        let name = text("name").trim_matches(['"', '(', ')']);
        let path = text("evaluateName");
        let last = path.rsplit(['.', '[']).next().unwrap_or_default().trim_matches(['"', ']', ')']);
        let is_scope = !fields.contains_key("value") && !fields.contains_key("result");
        if is_scope
            || !(self.hides_name(name) || self.hides_name(last) || self.hides_type(text("type")))
        {
            return false;
        }
        for value in ["value", "result"] {
            if let Some(value) = fields.get_mut(value) {
                *value = HIDDEN.into();
            }
        }
        fields.insert("variablesReference".to_owned(), 0.into());
        // What a later dlv adds may tell the value too.
        const KEPT: [&str; 7] = [
            "name",
            "value",
            "result",
            "type",
            "evaluateName",
            "variablesReference",
            "presentationHint",
        ];
        fields.retain(|name, _| KEPT.contains(&name.as_str()));
        true
    }

    fn hide_in_text(&self, text: &mut String) -> bool {
        match self.rendering(text) {
            Some(clean) => {
                *text = clean;
                true
            }
            None => false,
        }
    }

    /// The same for one message of JSON-RPC.
    pub fn hide_in_rpc(&self, message: &mut Value) -> bool {
        match message {
            Value::Array(all) => {
                all.iter_mut().map(|one| self.hide_in_rpc(one)).fold(false, either)
            }
            Value::Object(fields) if is_rpc_variable(fields) => self.hide_rpc_variable(fields),
            Value::Object(fields) => {
                fields.iter_mut().fold(false, |hid, (_, value)| self.hide_in_rpc(value) || hid)
            }
            Value::String(text) => {
                let clean = self.without_patterns(text.clone());
                let hid = clean != *text;
                *text = clean;
                hid
            }
            _ => false,
        }
    }

    fn hide_rpc_variable(&self, fields: &mut Map<String, Value>) -> bool {
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let name = text("name");
        let last = name.rsplit(['.', '[']).next().unwrap_or_default().trim_matches(['"', ']', ')']);
        if self.hides_name(name)
            || self.hides_name(last)
            || self.hides_type(text("type"))
            || self.hides_type(text("realType"))
        {
            hide_whole(fields);
            return true;
        }
        let is_map = fields.get("kind").and_then(Value::as_u64) == Some(MAP);
        let mut hid = false;
        if let (true, Some(Value::Array(children))) = (is_map, fields.get_mut("children")) {
            hid = self.hide_map_values(children);
        }
        fields.iter_mut().fold(hid, |hid, (_, value)| self.hide_in_rpc(value) || hid)
    }

    /// A map's children are key, value, key, value.
    fn hide_map_values(&self, children: &mut [Value]) -> bool {
        let mut hid = false;
        for pair in children.chunks_exact_mut(2) {
            let [key, value] = pair else { continue };
            let key = key.get("value").and_then(Value::as_str).unwrap_or_default();
            if let (true, Some(fields)) = (self.hides_name(key), value.as_object_mut()) {
                hide_whole(fields);
                hid = true;
            }
        }
        hid
    }
}

/// Of two parts; both are looked through, whatever the first one holds.
fn either(one: bool, other: bool) -> bool {
    one || other
}

/// A variable without its value, where it is, and what it holds.
fn hide_whole(fields: &mut Map<String, Value>) {
    fields.insert("value".to_owned(), HIDDEN.into());
    fields.insert("children".to_owned(), Value::Array(Vec::new()));
    for number in ["addr", "base", "len", "cap"] {
        if fields.contains_key(number) {
            fields.insert(number.to_owned(), 0.into());
        }
    }
    // What a later dlv adds may tell the value too.
    const KEPT: [&str; 15] = [
        "name",
        "value",
        "children",
        "addr",
        "base",
        "len",
        "cap",
        "onlyAddr",
        "type",
        "realType",
        "kind",
        "flags",
        "unreadable",
        "LocationExpr",
        "DeclLine",
    ];
    fields.retain(|name, _| KEPT.contains(&name.as_str()));
}

fn is_rpc_variable(fields: &Map<String, Value>) -> bool {
    ["name", "kind", "value", "children"].iter().all(|name| fields.contains_key(*name))
}

/// Fields of DAP whose text is, or may hold, a value of the target.
fn holds_a_value(name: &str) -> bool {
    matches!(name, "value" | "result" | "output" | "text" | "description" | "details" | "message")
}

#[cfg(test)]
mod tests {
    use super::super::redactor;
    use super::*;
    use serde_json::json;

    fn hider() -> Redactor {
        redactor(&["password"], &["main.Secret"], &["4[0-9]{15}"])
    }

    #[test]
    fn an_ide_sees_neither_the_value_nor_a_way_to_it() {
        let mut message = json!({"type": "response", "command": "variables", "body": {"variables": [
            {"name": "Password", "value": "\"SECRET\"", "type": "string", "variablesReference": 0,
             "evaluateName": "u.Password"},
            {"name": "\"password\"", "value": "\"SECRET\"", "variablesReference": 7, "indexedVariables": 6},
            {"name": "s", "type": "*main.Secret", "value": "*main.Secret {A: \"SECRET\"}", "variablesReference": 9},
            {"name": "u", "type": "main.User", "value": "main.User {Password: \"SECRET\", N: 1}", "variablesReference": 11},
            {"name": "card", "value": "\"4000123412341234\"", "variablesReference": 0},
            {"name": "n", "value": "7", "variablesReference": 0},
        ]}});
        assert!(hider().hide_in_dap(&mut message));
        let text = message.to_string();
        assert!(!text.contains("SECRET") && !text.contains("4000123412341234"), "{text}");
        let variables = &message["body"]["variables"];
        assert_eq!(
            (&variables[1]["variablesReference"], &variables[5]["value"]),
            (&json!(0), &json!("7"))
        );
        assert_eq!(variables[3]["variablesReference"], 11, "its other fields can be looked at");
        let mut other = json!({"type": "response", "body": {"variables": [{"name": "n", "value": "7", "variablesReference": 0}]}});
        assert!(!hider().hide_in_dap(&mut other));
    }

    #[test]
    fn a_type_that_no_rendering_names_is_not_shown_within_another() {
        // dlv renders a field of `type Secret string` as any string.
        let mut message = json!({"body": {"variables": [{"name": "u", "type": "main.User",
            "value": "main.User {Key: \"SECRET\", N: 1}", "variablesReference": 11}]}});
        assert!(hider().hide_in_dap(&mut message));
        let u = &message["body"]["variables"][0];
        assert_eq!((&u["value"], &u["variablesReference"]), (&json!("main.User {…}"), &json!(11)));
    }

    #[test]
    fn what_dlv_prints_is_looked_through_too() {
        let mut message = json!({"type": "event", "event": "output",
            "body": {"output": "> [Go 7]: main.User {Password: \"SECRET\"}\n"}});
        assert!(hider().hide_in_dap(&mut message));
        assert!(!message.to_string().contains("SECRET"));
    }

    #[test]
    fn a_json_rpc_client_sees_neither_the_value_nor_where_it_is() {
        let leaf = |name: &str, value: &str| {
            json!({"name": name, "type": "string", "realType": "string", "kind": 24, "value": value,
                   "addr": 824634, "children": []})
        };
        let map = json!({"name": "m", "type": "map[string]string", "realType": "", "kind": 21, "value": "",
            "children": [leaf("", "password"), leaf("", "SECRET"), leaf("", "other"), leaf("", "seen")]});
        let user = json!({"name": "u", "type": "main.User", "realType": "", "kind": 25, "value": "",
            "children": [leaf("Password", "SECRET"), leaf("Name", "seen"), map]});
        let mut message =
            json!({"id": 1, "result": {"Locations": [{"Locals": [user]}]}, "error": null});
        assert!(hider().hide_in_rpc(&mut message));
        let text = message.to_string();
        assert!(!text.contains("SECRET"), "{text}");
        assert_eq!(text.matches("seen").count(), 2, "{text}");
        let password = &message["result"]["Locations"][0]["Locals"][0]["children"][0];
        assert_eq!(password["addr"], 0, "{password}");
    }
}
