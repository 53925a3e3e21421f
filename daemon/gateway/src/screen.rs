//! Stands between one client and dlv: reads what the client asks, lets pass what the session's mode
//! allows, answers the rest itself, and writes down what was done.

use crate::events::{self, Events, Question};
use crate::guests::Part;
use crate::keeper::Keeper;
use crate::line::Line;
use crate::policy::{self, Meaning, Refused, Verdict};
use crate::protocol::framing::{Frame, Framing, FramingError, LONGEST_ANSWER, LONGEST_REQUEST};
use crate::protocol::{Protocol, dap, rpc};
use crate::release::Hand;
use crate::shown::{Questions, number_of};
use crate::stops;
use crate::transcript::{Entry, Outcome, Transcript};
use godebug_api::Mode;
use godebug_api::redact::Redactor;
use godebug_api::rules::engine::TranscriptValues;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::io;
use std::sync::Arc;

/// The most of an expression or a path that is written down, in characters.
const LONGEST_SUBJECT: usize = 400;

/// Both directions of one connection.
pub(crate) struct Screen {
    pub(crate) inward: Inward,
    pub(crate) outward: Outward,
}

/// From the client to dlv.
pub(crate) struct Inward {
    framing: Framing,
    judge: Judge,
}

/// Decides on one request after the other.
struct Judge {
    protocol: Protocol,
    mode: Mode,
    person: Person,
    events: Events,
    questions: Questions,
}

/// Who is at the other end, and what the gateway keeps of them.
pub(crate) struct Person {
    /// For the record: the certificate's name, and the address.
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) hand: Hand,
    pub(crate) line: Arc<Line>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) transcript: Arc<Transcript>,
    pub(crate) values: Arc<Values>,
}

/// What becomes of the values that a session shows.
#[derive(Debug)]
pub(crate) struct Values {
    pub(crate) redactor: Option<Redactor>,
    pub(crate) kept: TranscriptValues,
}

/// From dlv to the client.
pub(crate) struct Outward {
    protocol: Protocol,
    mode: Mode,
    framing: Framing,
    events: Events,
    /// Who is shown what comes out.
    name: String,
    line: Arc<Line>,
    keeper: Arc<Keeper>,
    values: Arc<Values>,
    questions: Questions,
    transcript: Arc<Transcript>,
}

/// What became of some bytes from the client.
#[derive(Debug, Default)]
pub(crate) struct Screened {
    pub(crate) to_debugger: Vec<u8>,
    pub(crate) to_client: Vec<u8>,
    /// Why nothing after this can be understood.
    pub(crate) broken: Option<String>,
}

impl Screen {
    /// The client has gone; what is left of it.
    pub(crate) fn into_hand(self) -> Hand {
        self.inward.judge.person.hand
    }

    pub(crate) fn new(protocol: Protocol, mode: Mode, person: Person) -> Self {
        tracing::info!(client = person.name, protocol = protocol.name(), "speaks");
        let events = Events::default();
        let (name, line) = (person.name.clone(), Arc::clone(&person.line));
        let keeper = Arc::clone(&person.keeper);
        let (values, transcript) = (Arc::clone(&person.values), Arc::clone(&person.transcript));
        let questions = Questions::default();
        Self {
            inward: Inward {
                framing: Framing::new(protocol, LONGEST_REQUEST),
                judge: Judge {
                    protocol,
                    mode,
                    person,
                    events: events.clone(),
                    questions: questions.clone(),
                },
            },
            outward: Outward {
                protocol,
                mode,
                framing: Framing::new(protocol, LONGEST_ANSWER),
                events,
                name,
                line,
                keeper,
                values,
                questions,
                transcript,
            },
        }
    }
}

impl Inward {
    pub(crate) fn screen(&mut self, bytes: &[u8]) -> Screened {
        let Self { framing, judge } = self;
        let mut screened = Screened::default();
        framing.push(bytes);
        loop {
            let passed = match framing.next() {
                Ok(Some(frame)) => judge.judge(frame, &mut screened),
                Ok(None) => return screened,
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = passed {
                return judge.broken(screened, why);
            }
        }
    }
}

impl Judge {
    fn judge(&mut self, frame: Frame<'_>, out: &mut Screened) -> Result<(), String> {
        match self.protocol {
            Protocol::Dap => self.dap(frame, out),
            Protocol::JsonRpc => self.rpc(frame, out),
        }
    }

    fn dap(&mut self, frame: Frame<'_>, out: &mut Screened) -> Result<(), String> {
        let request = dap::request(frame.body)?;
        let meaning = policy::dap::meaning(&request.command, &request.arguments);
        let mut verdict = policy::dap::judge(self.mode, &request.command, &request.arguments);
        if self.person.keeper.is_of_core() {
            verdict = policy::dap::on_core(verdict, &request.command, &request.arguments);
        }
        let verdict = self.as_a_watcher(&request.command, &meaning, verdict);
        let verdict = self.within_the_budget(&meaning, verdict);
        let verdict = self.without_the_hidden(&request.command, &request.arguments, verdict);
        self.note(&meaning, &verdict);
        self.remember(request.seq.as_u64(), &meaning, &verdict);
        let passes = matches!(verdict, Verdict::Forward | Verdict::Rewrite(..));
        if passes && request.command == "configurationDone" {
            self.person.line.configured();
            self.sets_off(request.seq.as_u64(), false);
        } else {
            self.runs_or_stops(request.seq.as_u64(), &meaning, &verdict);
        }
        match verdict {
            Verdict::Forward => out.to_debugger.extend_from_slice(frame.whole),
            Verdict::Rewrite(arguments, _) => out.to_debugger.extend(request.with(arguments)),
            // No request of this protocol is answered so.
            Verdict::Answer => {}
            Verdict::Refuse(refused) => {
                out.to_client.extend(request.refused(&refused.text(self.mode)));
            }
        }
        Ok(())
    }

    fn rpc(&mut self, frame: Frame<'_>, out: &mut Screened) -> Result<(), String> {
        let request = rpc::request(frame.body)?;
        let meaning = policy::rpc::meaning(&request.method, &request.parameters);
        let verdict = policy::rpc::judge(self.mode, &request.method, &request.parameters);
        let verdict = self.as_a_watcher(&request.method, &meaning, verdict);
        let verdict = self.within_the_budget(&meaning, verdict);
        let verdict = self.without_the_hidden(&request.method, &request.parameters, verdict);
        let verdict = self.after_the_news(&meaning, verdict);
        let by_itself = self.person.keeper.runs_by_itself();
        if by_itself && meaning.is_continue() && verdict == Verdict::Forward {
            self.note(&meaning, &verdict);
            self.runs_or_stops(request.id.as_u64(), &meaning, &verdict);
            self.wait_for_a_stop(&request, out);
            return Ok(());
        }
        let verdict = match verdict {
            Verdict::Forward
                if by_itself && !policy::rpc::needs_no_stop(&request.method, &meaning) =>
            {
                Verdict::Refuse(Refused::never(
                    "the service was let go when it had stood for as long as it may, and runs; \
                     `continue` waits for its next stop, Ctrl-C then stops it",
                ))
            }
            verdict => verdict,
        };
        self.note(&meaning, &verdict);
        self.remember(request.id.as_u64(), &meaning, &verdict);
        self.runs_or_stops(request.id.as_u64(), &meaning, &verdict);
        if request.method == "RPCServer.GetEvents" {
            self.events(&request, out);
            return Ok(());
        }
        let has_events = policy::rpc::has_events(&request.method, &request.parameters);
        match verdict {
            Verdict::Forward => {
                out.to_debugger.extend_from_slice(frame.whole);
                out.to_debugger.push(b'\n');
                if has_events {
                    out.to_debugger
                        .extend(self.events.begins().iter().flat_map(|held| held.line()));
                }
            }
            Verdict::Rewrite(parameters, _) => out.to_debugger.extend(request.with(parameters)),
            Verdict::Answer => out.to_client.extend(request.done()),
            Verdict::Refuse(refused) => {
                out.to_client.extend(request.refused(&refused.text(self.mode)));
                if has_events {
                    let held = self.events.refused();
                    out.to_client.extend(held.iter().flat_map(|held| held.event(events::STOPPED)));
                }
            }
        }
        Ok(())
    }

    /// `continue` for a target that runs already: dlv would wait for its next stop and go on from
    /// there, so that nobody would see it. The question for its state has the same answer, at the stop.
    fn wait_for_a_stop(&self, request: &rpc::Request, out: &mut Screened) {
        let state = json!({ "NonBlocking": false });
        let state = state.as_object().cloned().unwrap_or_default();
        out.to_debugger.extend(request.instead("RPCServer.State", state));
        if policy::rpc::has_events(&request.method, &request.parameters) {
            let held = self.events.refused();
            out.to_client.extend(held.iter().flat_map(|held| held.event(events::STOPPED)));
        }
    }

    /// A guest who only watches asks for nothing that the target, or whoever holds it, would notice.
    fn as_a_watcher(&self, request: &str, meaning: &Meaning, verdict: Verdict) -> Verdict {
        match (self.person.part, &verdict) {
            (Part::Watches, Verdict::Forward | Verdict::Rewrite(..)) => {
                policy::watching::judge(request, meaning, verdict)
            }
            _ => verdict,
        }
    }

    /// dlv's own client has no console: when it next runs the target, its person is told first.
    fn after_the_news(&self, meaning: &Meaning, verdict: Verdict) -> Verdict {
        if !meaning.resumes_the_target() || verdict != Verdict::Forward {
            return verdict;
        }
        match self.person.line.news() {
            Some(news) => Verdict::Refuse(Refused::never(format!("first this, {news}; ask again"))),
            None => verdict,
        }
    }

    /// What the target does by this request, for whoever has to stop or resume it in the client's name.
    fn runs_or_stops(&self, number: Option<u64>, meaning: &Meaning, verdict: &Verdict) {
        if matches!(verdict, Verdict::Refuse(_) | Verdict::Answer) {
            return;
        }
        match meaning.operation {
            "run" if meaning.resumes_the_target() => {
                let is_step = !meaning.is_continue();
                self.sets_off(number, is_step);
            }
            "run" => self.person.line.wants_a_stop(),
            "breakpoints" => self.person.keeper.hot().begins_anew(),
            _ => {}
        }
    }

    fn sets_off(&self, number: Option<u64>, is_step: bool) {
        self.person.keeper.resumed();
        self.person.line.sets_off(number.unwrap_or(0), is_step);
    }

    /// What a rule of the host hides is not asked for.
    fn without_the_hidden(
        &self,
        request: &str,
        fields: &serde_json::Map<String, Value>,
        verdict: Verdict,
    ) -> Verdict {
        let Some(redactor) = &self.person.values.redactor else { return verdict };
        match (redactor.check(request, fields), &verdict) {
            (Err(why), Verdict::Forward | Verdict::Rewrite(..)) => {
                Verdict::Refuse(Refused::never(why.to_string()))
            }
            _ => verdict,
        }
    }

    /// The answer to this one shows values, and the transcript is to tell of which.
    fn remember(&self, number: Option<u64>, meaning: &Meaning, verdict: &Verdict) {
        if meaning.shows_values() && *verdict == Verdict::Forward {
            self.questions.asked(number, &meaning.subject);
        }
    }

    /// Nothing stops the target any more once all the time that it may stand is used up.
    fn within_the_budget(&self, meaning: &Meaning, verdict: Verdict) -> Verdict {
        let passes = matches!(verdict, Verdict::Forward | Verdict::Rewrite(..));
        if !passes || !meaning.holds_the_target() || !self.person.keeper.is_used_up() {
            return verdict;
        }
        let all = self.person.keeper.whole_time();
        Verdict::Refuse(Refused::never(format!(
            "the {all} for which this session may hold the service are used up; open another session"
        )))
    }

    fn events(&self, request: &rpc::Request, out: &mut Screened) {
        match self.events.asked(request) {
            Question::ForDlv => out.to_debugger.extend(request.line()),
            Question::Over => out.to_client.extend(request.event(events::STOPPED)),
            Question::Held => {}
            Question::TooMany => {
                out.to_client
                    .extend(request.refused("godebug refused this: no command is under way"));
            }
        }
    }

    /// One line in the transcript, and in the journal, for each operation that somebody may want to
    /// know of later.
    fn note(&mut self, meaning: &Meaning, verdict: &Verdict) {
        let Meaning { operation, subject } = meaning;
        let client = self.person.name.as_str();
        let subject: String = subject.chars().take(LONGEST_SUBJECT).collect();
        self.write_down(operation, &subject, verdict);
        // Escaped: it is the client's text, and the journal is read in terminals.
        match verdict {
            Verdict::Refuse(refused) => {
                tracing::warn!(client, operation, ?subject, "refused: {}", refused.why);
                return;
            }
            Verdict::Rewrite(_, how) => tracing::info!(client, operation, ?subject, "{how}"),
            _ if *operation == "request" => tracing::debug!(client, operation, ?subject),
            _ => tracing::info!(client, operation, ?subject),
        }
        // All but what is known to look only: better one release too many than a service left standing.
        let watches = self.person.part == Part::Watches || self.mode == Mode::Observe;
        if !watches
            && !matches!(*operation, "request" | "variables" | "stack" | "read-memory" | "find")
        {
            self.person.hand.put_on();
        }
    }

    fn write_down(&self, operation: &'static str, subject: &str, verdict: &Verdict) {
        let (outcome, why) = match verdict {
            Verdict::Refuse(refused) => (Outcome::Refused, Some(refused.why.as_str())),
            // What a debugger asks all the time, of its own accord.
            _ if operation == "request" => return,
            Verdict::Rewrite(_, how) => (Outcome::Changed, Some(*how)),
            Verdict::Forward | Verdict::Answer => (Outcome::Allowed, None),
        };
        self.person.transcript.record(&Entry::Operation {
            client: &self.person.name,
            protocol: self.protocol.name(),
            operation,
            subject,
            outcome,
            why,
        });
    }

    fn broken(&self, mut screened: Screened, why: String) -> Screened {
        if self.protocol == Protocol::Dap {
            let text = format!("godebug closes the connection: the IDE sent a message and {why}");
            screened.to_client.extend(dap::console(&text));
        }
        screened.broken = Some(why);
        screened
    }
}

impl Outward {
    /// What the client gets instead of these bytes from dlv.
    ///
    /// # Errors
    /// When dlv does not speak its own protocol.
    pub(crate) fn screen<'a>(&mut self, bytes: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
        match self.framing.passes(bytes).map_err(unclear)? {
            true => Ok(Cow::Borrowed(bytes)),
            false => self.screen_whole(bytes).map(Cow::Owned),
        }
    }

    fn screen_whole(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(bytes.len());
        self.framing.push(bytes);
        while let Some(piece) = self.framing.passing().map_err(unclear)? {
            out.extend_from_slice(piece.bytes);
            if !piece.is_last {
                return Ok(out);
            }
            if self.protocol == Protocol::JsonRpc {
                out.push(b'\n');
            }
        }
        while let Some(frame) = self.framing.next().map_err(unclear)? {
            let (protocol, mode) = (self.protocol, self.mode);
            if protocol == Protocol::Dap && self.line.takes(frame.body) {
                continue;
            }
            let changed = match protocol {
                Protocol::Dap => cut(mode, frame.body)
                    .or_else(|| pointed_at(self.keeper.stands_in()?, frame.body))
                    .map(|message| message.to_string()),
                // Nothing that dlv says there depends on the mode.
                Protocol::JsonRpc => {
                    self.events.heard(frame.body);
                    None
                }
            };
            let body = changed.as_ref().map_or(frame.body, String::as_bytes);
            let hidden = hide(&self.values, protocol, body).map_err(io::Error::from)?;
            let body = hidden.as_ref().map_or(body, String::as_bytes);
            let variables = self.questions.answered(protocol, (frame.body, body), self.values.kept);
            if !variables.is_empty() {
                let client = &self.name;
                self.transcript.record(&Entry::Shown { client, variables: &variables });
            }
            let is_as_it_came = changed.is_none() && hidden.is_none();
            let told = stops::told(protocol, frame.body, self.line.course());
            if let Some(hit) = told.hit {
                self.keeper.hit(hit);
            }
            let begin = out.len();
            match protocol {
                Protocol::Dap if is_as_it_came => out.extend_from_slice(frame.whole),
                Protocol::Dap => out.extend(dap::with_header(body)),
                Protocol::JsonRpc => {
                    out.extend_from_slice(body);
                    out.push(b'\n');
                }
            }
            if told.stands {
                self.line.stands();
                let word = out.split_off(begin);
                out.extend(self.line.kept_back(word).unwrap_or_default());
            }
        }
        if self.passes_unread() {
            out.extend_from_slice(self.framing.begin_to_pass());
        }
        Ok(out)
    }

    /// The client has the beginning of a message, and not its end.
    pub(crate) fn is_within_a_message(&self) -> bool {
        self.framing.is_passing()
    }

    /// Whether the message that is not whole yet is a long answer in which nobody looks for anything, so
    /// that the client need not wait for its end.
    fn passes_unread(&self) -> bool {
        // Whatever is read of dlv's messages is shorter, but for values.
        const LONG: usize = 64 << 10;
        let beginning = self.framing.beginning();
        if beginning.len() < LONG || self.values.redactor.is_some() {
            return false;
        }
        let number = number_of(self.protocol, beginning);
        number.is_some_and(|number| {
            !self.questions.is_open(number) && self.line.course().request() != Some(number)
        })
    }
}

fn unclear(error: FramingError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("dlv: {error}"))
}

/// The message without the values that are to be hidden, when it has any.
///
/// # Errors
/// When it cannot be read: then nothing tells what is in it.
fn hide(values: &Values, protocol: Protocol, body: &[u8]) -> serde_json::Result<Option<String>> {
    let Some(redactor) = &values.redactor else { return Ok(None) };
    let mut message: Value = serde_json::from_slice(body)?;
    let hid = match protocol {
        Protocol::Dap => redactor.hide_in_dap(&mut message),
        Protocol::JsonRpc => redactor.hide_in_rpc(&mut message),
    };
    Ok(hid.then(|| message.to_string()))
}

/// The word that a core stands, about this goroutine.
fn pointed_at(goroutine: i64, body: &[u8]) -> Option<Value> {
    // All else is longer, or looked at for nothing.
    const LONGEST: usize = 4096;
    if body.len() > LONGEST {
        return None;
    }
    let mut message: Value = serde_json::from_slice(body).ok()?;
    let is_it = message["event"] == "stopped" && message["body"]["reason"] == "entry";
    is_it.then(|| {
        message["body"]["threadId"] = goroutine.into();
        message
    })
}

/// The message with the mode's capabilities, when it has more.
fn cut(mode: Mode, body: &[u8]) -> Option<Value> {
    let (mut message, path) = dap::capabilities(body)?;
    let mut place = &mut message;
    for name in path {
        place = place.get_mut(name)?;
    }
    policy::dap::cut_capabilities(mode, place.as_object_mut()?).then_some(message)
}

#[cfg(test)]
impl Person {
    /// Somebody whose target is this process, which runs.
    pub(crate) fn for_tests(
        protocol: Protocol,
    ) -> (Self, tokio::sync::mpsc::Receiver<crate::line::Notice>) {
        let status = std::fs::File::open("/proc/self/status").unwrap();
        let budget = godebug_api::PauseBudget { per_stop_ms: 1000, per_session_ms: 9000 };
        let target = crate::target::Target::new(status.into());
        let clients = crate::clients::Clients::default();
        let (line, notices) =
            clients.list("127.0.0.1:1".parse().unwrap(), Part::Takes).speaks(protocol);
        let person = Self {
            name: "test".to_owned(),
            part: Part::Takes,
            hand: crate::release::Release::default().hand(),
            line,
            keeper: Arc::new(Keeper::new(target, budget, godebug_api::HotLimit::default())),
            transcript: Arc::new(Transcript::nowhere()),
            values: Arc::new(Values { redactor: None, kept: TranscriptValues::None }),
        };
        (person, notices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn screen(protocol: Protocol, mode: Mode) -> Screen {
        Screen::new(protocol, mode, Person::for_tests(protocol).0)
    }

    fn dap(mode: Mode) -> Screen {
        screen(Protocol::Dap, mode)
    }

    fn message(seq: u64, command: &str, arguments: Value) -> Vec<u8> {
        let request =
            json!({"seq": seq, "type": "request", "command": command, "arguments": arguments});
        dap::framed(&request)
    }

    #[test]
    fn an_ide_is_shown_the_goroutine_that_a_core_is_about() {
        let stopped = |reason: &str| json!({"type": "event", "event": "stopped", "body": {"reason": reason, "threadId": 1}});
        let body = stopped("entry").to_string();
        let told = pointed_at(53, body.as_bytes()).unwrap();
        assert_eq!((&told["body"]["threadId"], &told["event"]), (&json!(53), &json!("stopped")));
        assert_eq!(pointed_at(53, stopped("breakpoint").to_string().as_bytes()), None);
        assert_eq!(pointed_at(53, b"no message"), None);
    }

    #[test]
    fn what_is_allowed_passes_unchanged_and_the_rest_is_answered_at_any_split() {
        let read = message(1, "threads", json!({}));
        let write = message(2, "setVariable", json!({"name": "x", "value": "1"}));
        let stream = [&read[..], &write, &read].concat();
        for piece in 1..stream.len() {
            let mut screen = dap(Mode::Step);
            let mut all = Screened::default();
            for bytes in stream.chunks(piece) {
                let some = screen.inward.screen(bytes);
                all.to_debugger.extend(some.to_debugger);
                all.to_client.extend(some.to_client);
                assert_eq!(some.broken, None);
            }
            assert_eq!(all.to_debugger, [&read[..], &read].concat(), "in pieces of {piece}");
            let told = String::from_utf8(all.to_client).unwrap();
            assert!(told.contains("\"request_seq\":2") && told.contains("--mode modify"), "{told}");
        }
    }

    #[test]
    fn what_cannot_be_understood_ends_the_connection_and_never_reaches_dlv() {
        for bytes in [
            &b"Content-Length: 2\r\n\r\n[]"[..],
            b"Content-Length: 3\r\n\r\n{}}",
            b"CONNECT / HTTP/1.1\r\n\r\n",
        ] {
            let screened = dap(Mode::Modify).inward.screen(bytes);
            assert!(screened.broken.is_some() && screened.to_debugger.is_empty(), "{screened:?}");
        }
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01", b"{\"id\":1}"] {
            let mut screen = screen(Protocol::of_first_byte(bytes[0]), Mode::Modify);
            let screened = screen.inward.screen(bytes);
            assert!(screened.broken.is_some() && screened.to_debugger.is_empty(), "{screened:?}");
        }
    }

    #[test]
    fn capabilities_are_cut_on_their_way_out() {
        let answer = json!({"seq": 0, "type": "response", "command": "initialize",
            "body": {"supportsSetVariable": true, "supportsConfigurationDoneRequest": true}});
        let event = json!({"seq": 0, "type": "event", "event": "capabilities",
            "body": {"capabilities": {"supportTerminateDebuggee": true}}});
        let other = json!({"seq": 0, "type": "response", "command": "evaluate",
            "body": {"result": "\"initialize\" supportsSetVariable"}});
        let mut screen = dap(Mode::Step);
        let screened = |screen: &mut Screen, message: &Value| {
            let message = dap::framed(message);
            let bytes = screen.outward.screen(&message).unwrap();
            String::from_utf8(bytes.into_owned()).unwrap()
        };
        let told = screened(&mut screen, &answer);
        assert!(!told.contains("supportsSetVariable") && told.contains("ConfigurationDone"));
        assert!(!screened(&mut screen, &event).contains("supportTerminateDebuggee"));
        assert_eq!(screened(&mut screen, &other).into_bytes(), dap::framed(&other));
    }

    #[test]
    fn a_refused_command_with_events_is_over_for_dlvs_client() {
        let mut screen = screen(Protocol::JsonRpc, Mode::Step);
        let call = json!({"method": "RPCServer.Command", "id": 2,
            "params": [{"name": "call", "expr": "f()", "WithEvents": true}]});
        let events = json!({"method": "RPCServer.GetEvents", "params": [{}], "id": 3});
        let screened = screen.inward.screen(format!("{events}{call}").as_bytes());
        let told = String::from_utf8(screened.to_client).unwrap();
        assert!(screened.to_debugger.is_empty());
        assert!(
            told.contains("--mode modify") && told.contains(r#""Events":[{"Kind":1}]"#),
            "{told}"
        );
    }

    #[test]
    fn what_may_leave_the_target_standing_is_remembered() {
        let mut screen = dap(Mode::Step);
        screen.inward.screen(&message(1, "threads", json!({})));
        assert!(!screen.inward.judge.person.hand.is_on());
        screen.inward.screen(&message(2, "setVariable", json!({})));
        assert!(!screen.inward.judge.person.hand.is_on(), "it was refused");
        screen.inward.screen(&message(3, "attach", json!({"mode": "remote"})));
        assert!(screen.inward.judge.person.hand.is_on());
    }
}
