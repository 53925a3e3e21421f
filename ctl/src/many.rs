//! `-H` with several hosts: one question, asked of all of them at once, and their answers in one table.

use crate::far::Host;
use crate::output::Output;
use crate::report;
use crate::terminal::{BOLD, RED, painted, safe};
use godebug_api::documents::SessionInfo;
use godebug_api::{Code, Refusal};
use serde::Serialize;
use serde_json::Value;
use std::process::{Command, Stdio};

/// At once; ssh and a bridge for each.
const AT_ONCE: usize = 16;

/// What one host has answered.
#[derive(Serialize)]
struct Answer {
    host: String,
    /// The document that `--json` prints for one host.
    #[serde(skip_serializing_if = "Value::is_null")]
    result: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    error: Value,
    #[serde(skip)]
    text: String,
    #[serde(skip)]
    status: u8,
}

/// Asks all of them what `arguments` say, which name no host; gives the exit status: the worst.
///
/// # Errors
/// When this program cannot be run again.
pub(crate) fn ask(
    output: &Output,
    hosts: &[Host],
    arguments: &[String],
    is_list: bool,
) -> Result<u8, Refusal> {
    let (mut answers, as_text) = (Vec::new(), !output.is_json() && !is_list);
    for some in hosts.chunks(AT_ONCE) {
        let asked: Result<Vec<Answer>, Refusal> = std::thread::scope(|scope| {
            let threads: Vec<_> = some
                .iter()
                .map(|host| scope.spawn(move || one(host, arguments, as_text)))
                .collect();
            let lost = || Refusal::failed("a host could not be asked", "");
            threads.into_iter().map(|thread| thread.join().map_err(|_| lost())?).collect()
        });
        answers.extend(asked?);
    }
    let worst = answers.iter().map(|answer| answer.status).max().unwrap_or(0);
    if output.is_json() {
        output.document(&answers)?;
    } else if is_list {
        output.text(&table(&answers));
    } else {
        let text = |answer: &Answer| format!("{}\n{}\n", painted(BOLD, &answer.host), answer.text);
        output.text(&answers.iter().map(text).collect::<String>());
    }
    Ok(worst)
}

/// One host, by this program itself, which has nobody to ask for a password.
fn one(host: &Host, arguments: &[String], as_text: bool) -> Result<Answer, Refusal> {
    let failed = |error: std::io::Error| {
        Refusal::failed(format!("this program cannot be run again: {error}"), "")
    };
    let mut again = Command::new("/proc/self/exe");
    again
        .args(["-H", host.as_str(), "--unasked"])
        .args(arguments.iter().filter(|word| *word != "--json"));
    if !as_text {
        again.arg("--json");
    }
    let asked = again.stdin(Stdio::null()).output().map_err(failed)?;
    let (out, err) =
        (String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr));
    let json =
        |text: &str| text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let error = json(&err).map(|mut error| error["error"].take()).unwrap_or_default();
    Ok(Answer {
        host: host.as_str().to_owned(),
        result: if as_text { Value::Null } else { json(&out).unwrap_or_default() },
        error,
        text: format!("{out}{err}"),
        status: asked.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    })
}

/// All sessions in one table, and below it whom nothing was heard of.
fn table(answers: &[Answer]) -> String {
    let mut sessions: Vec<(&str, SessionInfo)> = Vec::new();
    let mut silent = String::new();
    for answer in answers {
        match serde_json::from_value::<Vec<SessionInfo>>(answer.result.clone()) {
            Ok(of_host) => {
                sessions.extend(of_host.into_iter().map(|it| (answer.host.as_str(), it)))
            }
            Err(_) => {
                let why = answer.error["message"].as_str().unwrap_or("it gave no answer");
                silent.push_str(&format!("{} {}: {}\n", painted(RED, "✗"), answer.host, safe(why)));
            }
        }
    }
    format!("{}{silent}", report::sessions_of_hosts(&sessions))
}

/// What a file with a host on each line names; empty lines and comments name none.
///
/// # Errors
/// When it cannot be read, or a line is none.
pub(crate) fn in_file(path: &str) -> Result<Vec<Host>, Refusal> {
    const LONGEST: u64 = 1 << 20;
    let read = || -> std::io::Result<String> {
        use std::io::Read;
        let mut text = String::new();
        std::fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| {
        Refusal::usage(format!("the hosts in {path} cannot be read: {error}"), "")
    })?;
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let hosts: Result<Vec<Host>, _> = lines.map(str::parse).collect();
    match hosts {
        Ok(hosts) if hosts.is_empty() => {
            Err(Refusal::usage(format!("{path} names no host"), "one on each line: [USER@]HOST"))
        }
        Ok(hosts) => Ok(hosts),
        Err(error) => Err(Refusal::new(
            Code::Usage,
            format!("a line of {path} is no host: {error}"),
            "one on each line: [USER@]HOST",
        )),
    }
}
