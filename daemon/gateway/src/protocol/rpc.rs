//! dlv's JSON-RPC 1.0, as far as the gateway reads and writes it.

use super::strict;
use serde_json::{Map, Value, json};

/// A client's request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) id: Value,
    pub(crate) method: String,
    pub(crate) parameters: Map<String, Value>,
}

/// Reads a client's message.
///
/// # Errors
/// When it is no request, or can be read in more than one way.
pub(crate) fn request(body: &[u8]) -> Result<Request, String> {
    let fields = strict::object(body)?;
    let id = match strict::field(&fields, "id") {
        Some(id) if id.is_u64() => id.clone(),
        _ => return Err("its `id` is no number".to_owned()),
    };
    let method = strict::text(&fields, "method")?.ok_or("it has no `method`")?.to_owned();
    let parameters = match strict::field(&fields, "params").map(|all| all.as_array()) {
        Some(Some(all)) => match all.as_slice() {
            [Value::Object(parameters)] => parameters.clone(),
            [Value::Null] | [] => Map::new(),
            _ => return Err("its `params` are not one object in a list".to_owned()),
        },
        None => Map::new(),
        Some(None) => return Err("its `params` are no list".to_owned()),
    };
    Ok(Request { id, method, parameters })
}

impl Request {
    /// The request with other parameters.
    pub(crate) fn with(&self, parameters: Map<String, Value>) -> Vec<u8> {
        let params = [parameters];
        line(&json!({ "method": self.method, "params": params, "id": self.id }))
    }

    /// Another request whose answer the client takes for this one's.
    pub(crate) fn instead(&self, method: &str, parameters: Map<String, Value>) -> Vec<u8> {
        let params = [parameters];
        line(&json!({ "method": method, "params": params, "id": self.id }))
    }

    /// The error that dlv's client prints for it.
    pub(crate) fn refused(&self, text: &str) -> Vec<u8> {
        line(&json!({ "id": self.id, "result": null, "error": text }))
    }

    /// The request as dlv gets it.
    pub(crate) fn line(&self) -> Vec<u8> {
        self.with(self.parameters.clone())
    }

    /// To `GetEvents`: this, and no more.
    pub(crate) fn event(&self, kind: u8) -> Vec<u8> {
        let events = json!({ "Events": [{ "Kind": kind }] });
        line(&json!({ "id": self.id, "result": events, "error": null }))
    }

    /// Done, with nothing to say.
    pub(crate) fn done(&self) -> Vec<u8> {
        line(&json!({ "id": self.id, "result": {}, "error": null }))
    }
}

/// The error that dlv's client prints for its call of this number.
pub(crate) fn failed(number: u64, text: &str) -> Vec<u8> {
    line(&json!({ "id": number, "result": null, "error": text }))
}

fn line(message: &Value) -> Vec<u8> {
    format!("{message}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clear_requests_are_read() {
        let read = request(br#"{"method":"RPCServer.State","params":[{"A":1}],"id":3}"#).unwrap();
        assert_eq!((read.method.as_str(), &read.parameters["A"]), ("RPCServer.State", &1.into()));
        for text in [
            r#"{"method":"RPCServer.State","params":[{}]}"#,
            r#"{"method":"RPCServer.State","params":[{}],"id":"3"}"#,
            r#"{"method":"RPCServer.State","params":{},"id":3}"#,
            r#"{"method":"RPCServer.State","params":[{},{}],"id":3}"#,
            r#"{"method":1,"params":[{}],"id":3}"#,
            r#"{"params":[{}],"id":3}"#,
        ] {
            assert!(request(text.as_bytes()).is_err(), "{text}");
        }
    }
}
