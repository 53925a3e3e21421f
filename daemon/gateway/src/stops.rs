//! What dlv tells a client of the target's stops: that it stands, and which breakpoint was hit.

use crate::line::Course;
use crate::protocol::Protocol;
use crate::shown::number_of;
use godebug_api::hot::Hit;
use serde::Deserialize;
use std::borrow::Cow;

/// Longer messages than this are no events that tell of a stop.
const LONGEST_EVENT: usize = 16 << 10;
/// How dlv begins the line of a log point (service/dap/server.go, `logBreakpointMessage`).
const LOG_POINT: &str = "> [Go ";

/// What one message says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The target stands, or has ended.
    pub(crate) stands: bool,
    pub(crate) hit: Option<Hit>,
}

/// What this message of dlv's says to a client with that request under way.
pub(crate) fn told(protocol: Protocol, body: &[u8], course: Course) -> Told {
    match protocol {
        Protocol::Dap => match event(body) {
            Some("stopped") => Told { stands: true, hit: read(body).and_then(|it| it.body.hit()) },
            Some("terminated" | "exited") => Told { stands: true, hit: None },
            Some("output") => {
                Told { stands: false, hit: read(body).and_then(|it| it.body.logged()) }
            }
            _ => Told::default(),
        },
        Protocol::JsonRpc => {
            let number = number_of(protocol, body);
            if number.is_none() || number != course.request() {
                return Told::default();
            }
            let answer = serde_json::from_slice::<Answer>(body).ok();
            Told { stands: true, hit: answer.and_then(Answer::hit) }
        }
    }
}

/// The name of an event, which dlv's encoder writes near the beginning (go-dap, `Event`): no long
/// message is read for it.
fn event(body: &[u8]) -> Option<&str> {
    const NEAR: usize = 80;
    const NAME: &[u8] = b"\"event\":\"";
    let near = &body[..body.len().min(NEAR)];
    let at = near.windows(NAME.len()).position(|part| part == NAME)? + NAME.len();
    let length = near[at..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&near[at..at + length]).ok()
}

fn read(body: &[u8]) -> Option<Event<'_>> {
    serde_json::from_slice(body).ok().filter(|_| body.len() <= LONGEST_EVENT)
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    body: EventBody<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EventBody<'a> {
    hit_breakpoint_ids: Vec<i64>,
    #[serde(borrow)]
    output: Cow<'a, str>,
    #[serde(borrow)]
    source: Option<Source<'a>>,
    line: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
}

impl EventBody<'_> {
    fn hit(self) -> Option<Hit> {
        self.hit_breakpoint_ids.first().map(|number| Hit::Number(*number))
    }

    fn logged(self) -> Option<Hit> {
        let is_log_point = self.line > 0 && self.output.starts_with(LOG_POINT);
        let source = self.source.filter(|_| is_log_point)?;
        Some(Hit::Line(source.path.into_owned(), self.line))
    }
}

#[derive(Deserialize)]
struct Answer {
    result: Option<Result>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Result {
    state: Option<State>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    current_thread: Option<Thread>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Thread {
    break_point: Option<Breakpoint>,
}

#[derive(Deserialize)]
struct Breakpoint {
    id: i64,
}

impl Answer {
    /// Where the current thread is at one that a person has set.
    fn hit(self) -> Option<Hit> {
        let breakpoint = self.result?.state?.current_thread?.break_point?;
        (breakpoint.id > 0).then_some(Hit::Number(breakpoint.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dap(body: &str) -> Told {
        told(Protocol::Dap, body.as_bytes(), Course::Runs(1))
    }

    #[test]
    fn a_stop_and_a_log_points_line_are_hits() {
        let stopped = r#"{"seq":0,"type":"event","event":"stopped","body":{"reason":"breakpoint",
            "threadId":7,"hitBreakpointIds":[3]}}"#;
        assert_eq!(dap(stopped), Told { stands: true, hit: Some(Hit::Number(3)) });
        let paused = r#"{"seq":0,"type":"event","event":"stopped","body":{"reason":"pause"}}"#;
        assert_eq!(dap(paused), Told { stands: true, hit: None });
        let logged = r#"{"seq":0,"type":"event","event":"output","body":{"category":"stdout",
            "output":"> [Go 9]: x \"1\"\n","source":{"path":"/m.go"},"line":7}}"#;
        let line = Hit::Line("/m.go".to_owned(), 7);
        assert_eq!(dap(logged), Told { stands: false, hit: Some(line) });
        let said = r#"{"seq":0,"type":"event","event":"output","body":{"output":"> [Go 9]: x"}}"#;
        assert_eq!(dap(said), Told::default());
        let ended = r#"{"seq":0,"type":"event","event":"terminated","body":{}}"#;
        assert!(dap(ended).stands);
    }

    #[test]
    fn the_answer_to_the_command_under_way_is_a_stop_and_no_other() {
        let rpc = |text: &str, course| told(Protocol::JsonRpc, text.as_bytes(), course);
        let at = r#"{"id":4,"result":{"State":{"Running":false,"currentThread":{"id":1,"pc":5,
            "breakPoint":{"id":2,"name":""}}}},"error":null}"#;
        let hit = Told { stands: true, hit: Some(Hit::Number(2)) };
        assert_eq!(rpc(at, Course::Runs(4)), hit);
        assert_eq!(rpc(at, Course::Steps(5)), Told::default());
        assert_eq!(rpc(at, Course::Nothing), Told::default());
        let failed = r#"{"id":4,"result":null,"error":"next while nexting"}"#;
        assert_eq!(rpc(failed, Course::Steps(4)), Told { stands: true, hit: None });
    }
}
