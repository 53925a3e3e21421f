//! What comes over the bus as text, understood or refused, and what goes back.

use crate::sessions::Brought;
use godebug_api::documents::OpenRequest;
use godebug_api::{Refusal, SessionId, TargetName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use zbus::OwnedFd;

/// No request is longer than this, in bytes.
const LONGEST_REQUEST: usize = 64 * 1024;

pub(super) fn parse_target(text: &str) -> Result<TargetName, Refusal> {
    text.parse().map_err(|error: godebug_api::WordError| {
        Refusal::usage(
            error.to_string(),
            "name a service or a scope, as systemctl does, container:NAME or user:NAME/UNIT",
        )
    })
}

pub(super) fn parse_id(text: &str) -> Result<SessionId, Refusal> {
    text.parse().map_err(|error: godebug_api::WordError| Refusal::usage(error.to_string(), ""))
}

pub(super) fn parse_document<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, Refusal> {
    if text.len() > LONGEST_REQUEST {
        return Err(Refusal::usage(format!("the {what} is too long"), ""));
    }
    serde_json::from_str(text).map_err(|error| {
        Refusal::usage(
            format!("the {what} cannot be understood: {error}"),
            "use godebugctl of the same version as godebugd",
        )
    })
}

pub(super) fn parse_request(text: &str) -> Result<OpenRequest, Refusal> {
    safe_endpoint(parse_document(text, "request")?)
}

pub(super) fn safe_endpoint(request: OpenRequest) -> Result<OpenRequest, Refusal> {
    let host_is_safe = |host: &String| {
        !host.is_empty()
            && host.len() <= 253
            && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._:%".contains(c))
    };
    if request.endpoint_host.as_ref().is_some_and(|host| !host_is_safe(host)) {
        return Err(Refusal::usage("the endpoint is no host name or address", ""));
    }
    Ok(request)
}

/// The file that came along, if one was announced: opened by the caller, with the caller's rights.
/// The files that a request says come along: the symbols, then the program that crashed.
pub(super) fn brought(request: &OpenRequest, files: Vec<OwnedFd>) -> Result<Brought, Refusal> {
    let wants_executable = request.dump.as_ref().is_some_and(|dump| dump.executable);
    let mut symbols_and_rest = files;
    let executable = match (wants_executable, symbols_and_rest.pop()) {
        (false, last) => {
            symbols_and_rest.extend(last);
            None
        }
        (true, Some(file)) => symbols(true, vec![file])?,
        (true, None) => {
            return Err(Refusal::usage("the request and its files do not fit together", ""));
        }
    };
    Ok(Brought { symbols: symbols(request.symbols, symbols_and_rest)?, executable })
}

pub(super) fn symbols(announced: bool, files: Vec<OwnedFd>) -> Result<Option<File>, Refusal> {
    let mut files = files.into_iter();
    match (announced, files.next(), files.next()) {
        (false, None, _) => Ok(None),
        (true, Some(file), None) => {
            let file = File::from(std::os::fd::OwnedFd::from(file));
            let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
            if regular {
                Ok(Some(file))
            } else {
                Err(Refusal::usage(
                    "what comes along is no regular file",
                    "name the unstripped program",
                ))
            }
        }
        _ => Err(Refusal::usage("the request and its files do not fit together", "")),
    }
}

pub(super) fn json(document: &impl Serialize) -> Result<String, Refusal> {
    serde_json::to_string(document)
        .map_err(|error| Refusal::failed(format!("the answer cannot be written: {error}"), ""))
}
