//! One IDE. Towards it there is one debugging session from its first to its last message; behind it one dlv
//! after the other, each with a newer image.
//!
//! What only shows something goes to the dlv of the image that the IDE looks at. What runs, stops, or sets
//! breakpoints is done here.

use super::Office;
use super::desk::{Order, Taken};
use super::finder::Finder;
use super::lines::{HitCondition, Line, Lines, LogMessage, MOST_LINES, Verdict, substitute};
use super::past::{Past, Shown};
use super::view::{Joined, View};
use super::wire::{self, Request, event};
use crate::milliseconds;
use crate::target::Image;
use godebug_api::Refusal;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The name of the set that all functions are in; no path is so called.
const FUNCTIONS: &str = "\0functions";
/// For IDEs that show it in the place of why the program stands.
const NOT_STOPPED: &str = "on an image; the service runs";

/// What happens to a conversation.
enum Event {
    /// The IDE has said something, or is gone.
    Client(io::Result<Option<Value>>),
    /// The same of the dlv that reads the image of this round.
    Dlv(u64, Option<Value>),
    /// What was ordered in this round.
    Taken(u64, Taken),
}

/// Serves an IDE to its end.
///
/// # Errors
/// When the connection breaks.
pub(super) fn serve(
    office: &Arc<Office>,
    number: u64,
    folder: &Path,
    client: UnixStream,
) -> io::Result<()> {
    let (events, incoming) = channel();
    let (from_client, reader) = (events.clone(), client.try_clone()?);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        loop {
            let said = wire::read(&mut reader);
            let is_last = !matches!(said, Ok(Some(_)));
            if from_client.send(Event::Client(said)).is_err() || is_last {
                return;
            }
        }
    });
    let mut ide = Ide {
        office: Arc::clone(office),
        number,
        folder: folder.to_owned(),
        client,
        events,
        finder: Finder::new(folder.join("finder")),
        seen: None,
        past: Past::default(),
        lines: Lines::default(),
        initialize: json!({}),
        attach: json!({}),
        rules: Vec::new(),
        course: Course::Begins,
        round: 0,
    };
    let ended = ide.talk(&incoming);
    // Wakes the thread that reads from it.
    let _ = ide.client.shutdown(Shutdown::Both);
    ended
}

/// Where a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// The IDE tells of its breakpoints.
    Begins,
    /// There is no image to look at. `wants_one`: the next is to come as soon as can be.
    Runs { wants_one: bool },
    /// The IDE looks at an image.
    Stands,
}

struct Ide {
    office: Arc<Office>,
    number: u64,
    folder: PathBuf,
    client: UnixStream,
    events: Sender<Event>,
    /// The dlv that finds lines in the program.
    finder: Finder,
    seen: Option<Seen>,
    past: Past,
    lines: Lines,
    /// What the IDE has said to begin with, for each dlv.
    initialize: Value,
    attach: Value,
    /// From the IDE's paths to the program's.
    rules: Vec<(String, String)>,
    course: Course,
    /// Counts what was ordered; what comes for an older order is of no use any more.
    round: u64,
}

/// An image that the IDE looks at.
struct Seen {
    /// dlv ends with it.
    view: View,
    to_dlv: UnixStream,
    last_seq: u64,
    /// What dlv was asked in the IDE's name.
    asked: HashMap<u64, Request>,
}

/// Whether the conversation goes on.
#[derive(PartialEq, Eq)]
enum Goes {
    On,
    ToItsEnd,
}

impl Ide {
    fn talk(&mut self, incoming: &Receiver<Event>) -> io::Result<()> {
        // Never without a sender: it has one itself.
        while let Ok(event) = incoming.recv() {
            match event {
                Event::Client(said) => match said? {
                    None => return Ok(()),
                    Some(message) => {
                        if let Some(request) = Request::of(message)
                            && self.request(request)? == Goes::ToItsEnd
                        {
                            return Ok(());
                        }
                    }
                },
                Event::Dlv(round, said) if round == self.round => self.dlv_says(said)?,
                Event::Taken(round, taken) if round == self.round => self.taken(taken)?,
                Event::Dlv(..) | Event::Taken(..) => {}
            }
        }
        Ok(())
    }

    fn send(&mut self, message: &Value) -> io::Result<()> {
        wire::write(&mut self.client, message)
    }

    /// A line in the IDE's debug console.
    fn say(&mut self, category: &str, text: &str) -> io::Result<()> {
        let text = format!("godebug: {text}\n");
        self.send(&event("output", json!({ "category": category, "output": text })))
    }

    fn request(&mut self, request: Request) -> io::Result<Goes> {
        match request.command.as_str() {
            "initialize" => {
                self.initialize = request.arguments.clone();
                self.send(&request.done(capabilities()))?;
            }
            "attach" => self.attach(&request)?,
            "setBreakpoints" => self.set_lines(&request)?,
            "setFunctionBreakpoints" => self.set_functions(&request)?,
            "setExceptionBreakpoints" => self.send(&request.done(json!({ "breakpoints": [] })))?,
            "configurationDone" => self.configured(&request)?,
            "continue" => {
                self.send(&request.done(json!({ "allThreadsContinued": true })))?;
                let stands = self.course == Course::Stands;
                match stands.then(|| self.past.forward()).flatten() {
                    Some(shown) => self.look_again(&shown)?,
                    None => self.go_on()?,
                }
            }
            "reverseContinue" | "stepBack" => self.go_back(&request)?,
            "pause" => {
                self.send(&request.done(Value::Null))?;
                if matches!(self.course, Course::Runs { .. }) {
                    self.order_one();
                }
            }
            "restart" => {
                self.send(&request.done(Value::Null))?;
                self.leave_the_image()?;
                self.order_one();
            }
            "next" | "stepIn" | "stepOut" => self.send(&request.refused(
                "an image does not run; `continue` takes the next one, at the breakpoints if there are some",
            ))?,
            "disconnect" | "terminate" => {
                self.send(&request.done(Value::Null))?;
                return Ok(Goes::ToItsEnd);
            }
            "threads" if self.course != Course::Stands => {
                // As dlv does it for a program that runs.
                let threads = json!([{ "id": 1, "name": "Dummy" }]);
                self.send(&request.done(json!({ "threads": threads })))?;
            }
            _ => self.pass_on(request)?,
        }
        Ok(Goes::On)
    }

    fn attach(&mut self, request: &Request) -> io::Result<()> {
        self.attach = request.arguments.clone();
        let rules = request.arguments["substitutePath"].as_array().into_iter().flatten();
        let text = |rule: &Value, name: &str| rule[name].as_str().unwrap_or_default().to_owned();
        self.rules = rules.map(|rule| (text(rule, "from"), text(rule, "to"))).collect();
        self.send(&event("initialized", json!({})))?;
        self.send(&request.done(Value::Null))
    }

    fn configured(&mut self, request: &Request) -> io::Result<()> {
        self.send(&request.done(Value::Null))?;
        self.say(
            "console",
            "mode observe: the service is not stopped. Breakpoints are lines at which an image of it is \
             taken; `pause` takes one now, `continue` the next, and reverse goes back to those that you have seen.",
        )?;
        self.course = Course::Runs { wants_one: false };
        if self.attach["stopOnEntry"] == true {
            self.order_one();
            return Ok(());
        }
        self.go_on()
    }

    /// From here on the next image: at the lines if there are some, else at once.
    fn go_on(&mut self) -> io::Result<()> {
        self.leave_the_image()?;
        if self.lines.by_address().is_empty() {
            self.order_one()
        } else {
            self.order_lines()
        }
        Ok(())
    }

    /// To the image that was shown before. At the earliest it stands where it is.
    fn go_back(&mut self, request: &Request) -> io::Result<()> {
        let Some(thread) = self.seen.as_ref().map(|seen| seen.view.goroutine) else {
            let why = "the service runs and no image is looked at; `pause` takes one";
            return self.send(&request.refused(why));
        };
        self.send(&request.done(Value::Null))?;
        if let Some(shown) = self.past.back() {
            return self.look_again(&shown);
        }
        self.say("console", "no earlier image is kept")?;
        self.send(&stopped("entry", thread, &[]))
    }

    fn look_again(&mut self, shown: &Shown) -> io::Result<()> {
        self.leave_the_image()?;
        self.round += 1;
        match View::open(&self.office, &self.folder.join("view"), &shown.image) {
            Ok(view) => self.show(view, shown),
            Err(refusal) => self.unreadable(&refusal),
        }
    }

    fn unreadable(&mut self, refusal: &Refusal) -> io::Result<()> {
        self.course = Course::Runs { wants_one: false };
        self.say("important", &format!("the image cannot be read: {refusal}"))
    }

    fn order_one(&mut self) {
        self.course = Course::Runs { wants_one: true };
        self.order(Order::Now);
    }

    fn order_lines(&mut self) {
        self.course = Course::Runs { wants_one: false };
        let places = self.lines.by_address();
        if places.is_empty() {
            return self.office.desk.withdraw(self.number);
        }
        self.order(Order::At(places));
    }

    fn order(&mut self, order: Order) {
        self.round += 1;
        let (round, events) = (self.round, self.events.clone());
        self.office.desk.order(self.number, order, move |taken| {
            // Nobody is there to get it when the conversation has ended.
            let _ = events.send(Event::Taken(round, taken));
        });
    }

    /// The dlv of the image goes, and whatever it has not answered is answered.
    fn leave_the_image(&mut self) -> io::Result<()> {
        let Some(seen) = self.seen.take() else { return Ok(()) };
        for request in seen.asked.into_values() {
            self.send(&request.refused("the image is gone"))?;
        }
        Ok(())
    }

    fn pass_on(&mut self, request: Request) -> io::Result<()> {
        let Some(seen) = &mut self.seen else {
            return self.send(
                &request
                    .refused("there is no image to look at: the service runs; `pause` takes one"),
            );
        };
        seen.last_seq += 1;
        let message = json!({
            "seq": seen.last_seq, "type": "request",
            "command": request.command, "arguments": request.arguments,
        });
        let written = wire::write(&mut seen.to_dlv, &message);
        seen.asked.insert(seen.last_seq, request);
        // A dlv that has ended says so by itself.
        drop(written);
        Ok(())
    }

    fn dlv_says(&mut self, said: Option<Value>) -> io::Result<()> {
        let Some(mut message) = said else {
            self.leave_the_image()?;
            return self
                .say("important", "dlv has ended; `restart` or `pause` takes another image");
        };
        match message["type"].as_str() {
            Some("response") => {
                let asked = message["request_seq"].as_u64();
                let request = self.seen.as_mut().and_then(|seen| seen.asked.remove(&asked?));
                let Some(request) = request else { return Ok(()) };
                message["request_seq"] = request.seq.into();
                self.send(&message)
            }
            // What a core does is of no interest, what dlv prints and has to say of variables is.
            Some("event")
                if matches!(message["event"].as_str(), Some("output" | "invalidated")) =>
            {
                self.send(&message)
            }
            _ => Ok(()),
        }
    }

    fn taken(&mut self, taken: Taken) -> io::Result<()> {
        let (image, address) = match taken {
            Taken::Image(image, address) => (image, address),
            Taken::Refused(refusal) => {
                self.course = Course::Runs { wants_one: false };
                return self.say("important", &format!("no image was taken: {refusal}"));
            }
        };
        match self.look(&image, address) {
            Ok(Some((view, verdict))) => {
                let places = verdict.stops.iter().filter_map(|id| self.lines.get(*id));
                let places = places.map(|line| line.place.clone()).collect();
                let (stops, is_hit) = (verdict.stops, address.is_some());
                let shown = Shown { image, is_hit, stops, places };
                self.past.add(shown.clone());
                self.show(view, &shown)
            }
            Ok(None) => {
                self.order_lines();
                Ok(())
            }
            Err(refusal) => self.unreadable(&refusal),
        }
    }

    /// What an image is for; `None` when nobody is to see it.
    fn look(
        &mut self,
        image: &Image,
        address: Option<u64>,
    ) -> Result<Option<(View, Verdict)>, Refusal> {
        let mut view = View::open(&self.office, &self.folder.join("view"), image)?;
        let Some(address) = address else { return Ok(Some((view, Verdict::default()))) };
        let verdict = self.lines.judge(address, view.goroutine, &mut view.dlv)?;
        // What cannot be written, the reader of the IDE's connection notices.
        let _ = self.report(&verdict, view.goroutine);
        Ok((!verdict.stops.is_empty()).then_some((view, verdict)))
    }

    fn report(&mut self, verdict: &Verdict, goroutine: i64) -> io::Result<()> {
        for (id, text) in &verdict.logs {
            let Some(line) = self.lines.get(*id) else { continue };
            let path = if line.set == FUNCTIONS { &line.path } else { &line.set };
            let body = json!({
                "category": "stdout", "output": format!("> [Go {goroutine}]: {text}\n"),
                "source": { "path": path }, "line": line.line,
            });
            self.send(&event("output", body))?;
        }
        for error in &verdict.errors {
            self.say("stderr", error)?;
        }
        Ok(())
    }

    fn show(&mut self, view: View, shown: &Shown) -> io::Result<()> {
        let joined = match view.join(&self.initialize, &self.attach) {
            Ok(joined) => joined,
            Err(error) => {
                self.course = Course::Runs { wants_one: false };
                return self.say("important", &format!("dlv does not show the image: {error}"));
            }
        };
        let Joined { mut reader, stream, seq } = joined;
        let (round, events) = (self.round, self.events.clone());
        std::thread::spawn(move || {
            loop {
                // A broken connection is an end like any other.
                let said = wire::read(&mut reader).ok().flatten();
                let is_last = said.is_none();
                if events.send(Event::Dlv(round, said)).is_err() || is_last {
                    return;
                }
            }
        });
        let goroutine = view.goroutine;
        self.seen = Some(Seen { view, to_dlv: stream, last_seq: seq, asked: HashMap::new() });
        self.course = Course::Stands;
        let image = &shown.image;
        let at = match shown.places.join(", ") {
            places if places.is_empty() => String::new(),
            places => format!(" at {places}"),
        };
        let which = match self.past.place() {
            (number, all) if number < all => format!("image {number} of {all} that are kept,"),
            _ => "an image".to_owned(),
        };
        let pause = milliseconds(image.pause);
        let time = &image.time;
        self.say(
            "console",
            &format!("{which} of {time}{at}; the service stood still for {pause} ms"),
        )?;
        let reason = if shown.is_hit { "breakpoint" } else { "pause" };
        self.send(&stopped(reason, goroutine, &shown.stops))
    }

    fn set_lines(&mut self, request: &Request) -> io::Result<()> {
        let Some(path) = request.arguments["source"]["path"].as_str().filter(|it| !it.is_empty())
        else {
            return self.send(&request.refused("a breakpoint needs the path of its file"));
        };
        let in_program = substitute(path, &self.rules);
        let wanted = request.arguments["breakpoints"].as_array().cloned().unwrap_or_default();
        let places = wanted.iter().map(|it| format!("{in_program}:{}", it["line"])).collect();
        self.set(request, path, &wanted, places)
    }

    fn set_functions(&mut self, request: &Request) -> io::Result<()> {
        let wanted = request.arguments["breakpoints"].as_array().cloned().unwrap_or_default();
        let name = |it: &Value| it["name"].as_str().unwrap_or_default().to_owned();
        let places = wanted.iter().map(name).collect();
        self.set(request, FUNCTIONS, &wanted, places)
    }

    /// Puts these in the place of all of the set, and answers with what has become of each.
    fn set(
        &mut self,
        request: &Request,
        set: &str,
        wanted: &[Value],
        places: Vec<String>,
    ) -> io::Result<()> {
        let others = self.lines.iter().filter(|line| line.set != set).count();
        let found: Vec<Result<Line, String>> = wanted
            .iter()
            .zip(places)
            .enumerate()
            .map(|(index, (wanted, place))| match others + index < MOST_LINES {
                true => self.find(wanted, &place),
                false => Err(format!("there are {MOST_LINES} breakpoints already")),
            })
            .collect();
        let good = found.iter().filter_map(|it| it.as_ref().ok().cloned()).collect();
        let mut good = self.lines.replace(set, good).into_iter();
        let path = (set != FUNCTIONS).then_some(set);
        let answers: Vec<Value> = found
            .iter()
            .zip(wanted)
            .map(|(found, wanted)| match found {
                Ok(_) => good.next().map_or(Value::Null, |line| {
                    let path = path.unwrap_or(&line.path);
                    json!({
                        "id": line.id, "verified": true, "line": line.line,
                        "source": { "path": path, "name": path.rsplit('/').next() },
                    })
                }),
                Err(why) => {
                    json!({ "verified": false, "line": wanted["line"], "message": why })
                }
            })
            .collect();
        self.send(&request.done(json!({ "breakpoints": answers })))?;
        if self.course == (Course::Runs { wants_one: false }) {
            self.order_lines();
        }
        Ok(())
    }

    fn find(&mut self, wanted: &Value, place: &str) -> Result<Line, String> {
        let text = |name: &str| wanted[name].as_str().unwrap_or_default();
        let hit_condition = HitCondition::parse(text("hitCondition"))?;
        let log = LogMessage::parse(text("logMessage"))?;
        let found = self.finder.find(&self.office, place)?;
        let first = found.places.first().cloned().unwrap_or_default();
        Ok(Line {
            place: place.to_owned(),
            line: first.line,
            path: first.file,
            addresses: found.addresses,
            condition: text("condition").trim().to_owned(),
            hit_condition,
            log,
            ..Line::default()
        })
    }
}

fn stopped(reason: &str, goroutine: i64, breakpoints: &[i64]) -> Value {
    let body = json!({
        "reason": reason, "description": NOT_STOPPED, "threadId": goroutine,
        "allThreadsStopped": true, "hitBreakpointIds": breakpoints,
    });
    event("stopped", body)
}

/// What an IDE can do with images.
fn capabilities() -> Value {
    json!({
        "supportsConfigurationDoneRequest": true,
        "supportsConditionalBreakpoints": true,
        "supportsHitConditionalBreakpoints": true,
        "supportsLogPoints": true,
        "supportsFunctionBreakpoints": true,
        "supportsDelayedStackTraceLoading": true,
        "supportsExceptionInfoRequest": true,
        "supportsEvaluateForHovers": true,
        "supportsClipboardContext": true,
        "supportsDisassembleRequest": true,
        "supportsReadMemoryRequest": true,
        "supportsRestartRequest": true,
        "supportsStepBack": true,
    })
}
