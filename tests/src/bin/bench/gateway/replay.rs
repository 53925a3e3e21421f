//! A dlv that answers at once with what the real one has answered, so that what stands before it can be
//! measured alone.

use std::{
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The bytes of one large answer.
pub(crate) const BULK: usize = 24 << 20;

/// Requests and their answers.
#[derive(Default)]
pub(crate) struct Recording(Vec<(Value, Value)>);

impl Recording {
    pub(crate) fn add(&mut self, command: &str, arguments: Value, answer: Value) {
        let request =
            json!({"seq": 0, "type": "request", "command": command, "arguments": arguments});
        self.0.push((request, answer));
    }

    pub(crate) fn requests(&self) -> Vec<Value> {
        self.0.iter().map(|(request, _)| request.clone()).collect()
    }

    /// As dlv's encoder writes it, for this number.
    fn answer(&self, command: &str, number: u64) -> Vec<u8> {
        let found = self.0.iter().find(|(request, _)| request["command"] == command);
        let body = found.map(|(_, answer)| answer["body"].to_string()).unwrap_or_default();
        let text = format!(
            "{{\"seq\":0,\"type\":\"response\",\"request_seq\":{number},\"success\":true,\
             \"command\":\"{command}\",\"body\":{body}}}"
        );
        format!("Content-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
    }
}

/// Listens until the program ends.
pub(crate) struct Replay {
    folder: tempfile::TempDir,
    recording: Arc<Recording>,
}

impl Replay {
    pub(crate) fn start(recording: Recording) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let listener = UnixListener::bind(folder.path().join("dlv")).context("listening")?;
        let recording = Arc::new(recording);
        LazyLock::force(&LARGE);
        let shared = Arc::clone(&recording);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let recording = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &recording));
            }
        });
        Ok(Self { folder, recording })
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(self.folder.path()).join("dlv")
    }

    pub(crate) fn recording(&self) -> &Recording {
        &self.recording
    }
}

/// Requests come whole, since their clients wait for the answers; the gateway's own may come two at once.
fn serve(mut stream: UnixStream, recording: &Recording) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        let answered = match text.starts_with("Content-Length") {
            true => {
                let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                let request: Value = serde_json::from_str(body).unwrap_or_default();
                let command = request["command"].as_str().unwrap_or_default();
                let seq = request["seq"].as_u64().unwrap_or(0);
                stream.write_all(&recording.answer(command, seq))
            }
            false => serde_json::Deserializer::from_str(&text)
                .into_iter::<Value>()
                .flatten()
                .try_for_each(|request| call(&mut stream, &request)),
        };
        if answered.is_err() {
            return;
        }
    }
}

/// One answer of JSON-RPC.
fn call(stream: &mut UnixStream, request: &Value) -> io::Result<()> {
    const STATE: &str = "{\"State\":{\"Running\":true,\"Recording\":false,\"CoreDumping\":false,\
                         \"Threads\":null,\"NextInProgress\":false,\"exited\":false,\
                         \"exitStatus\":0,\"When\":\"\"}}";
    let id = &request["id"];
    if request["method"] != "RPCServer.ListTypes" {
        return stream
            .write_all(format!("{{\"id\":{id},\"result\":{STATE},\"error\":null}}\n").as_bytes());
    }
    let head = format!("{{\"id\":{id},");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&LARGE[head.len()..])
}

/// A list of types' names that makes up the bytes, but for those of the number before it. Made once: what is measured is
/// how it is carried.
static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    const END: &str = "]},\"error\":null}\n";
    let mut text = " ".repeat(64);
    text.push_str("\"result\":{\"Types\":[\"\"");
    while text.len() < BULK - 200 {
        text.push_str(",\"map[string]*github.com/example/project/pkg/inner.SomeTypeWithAName\"");
    }
    // Within the object: what is between two of them need not arrive.
    text.push_str(&" ".repeat(BULK - text.len() - END.len()));
    text.push_str(END);
    text.into_bytes()
});
