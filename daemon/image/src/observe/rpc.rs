//! One client that speaks dlv's JSON-RPC: GoLand, `dlv connect`. It begins with an image; `continue` is
//! answered when there is the next one, at its breakpoints if it has some, and `halt` takes one now.
//!
//! The gateway asks for news in the same way, on a connection of its own.

use super::Office;
use super::desk::{Order, Taken};
use super::finder::Finder;
use super::lines::{HitCondition, Line, Lines, MOST_LINES};
use super::view::View;
use crate::target::Image;
use godebug_api::Refusal;
use godebug_api::image::{NEWS_METHOD, NEWS_PATIENCE, NewsAnswer};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// The gateway lets no longer request through, and dlv writes no longer answer.
const LONGEST_LINE: u64 = 64 << 20;
/// What a client may ask before there is the first image.
const MOST_HELD: usize = 64;
/// `EventStopped` of dlv's service/api/types.go.
const STOPPED: u8 = 1;

enum Event {
    Client(io::Result<Option<Value>>),
    /// A line of dlv's, for the client; `None` when it has ended.
    Dlv(u64, Option<Vec<u8>>),
    Taken(u64, Taken),
}

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
            let said = line(&mut reader).and_then(|line| {
                line.map(|line| serde_json::from_slice(&line)).transpose().map_err(Into::into)
            });
            let is_last = !matches!(said, Ok(Some(_)));
            if from_client.send(Event::Client(said)).is_err() || is_last {
                return;
            }
        }
    });
    let mut person = Person {
        office: Arc::clone(office),
        number,
        folder: folder.to_owned(),
        client,
        events,
        finder: Finder::new(folder.join("finder")),
        seen: None,
        lines: Lines::default(),
        hit: None,
        held: Some(Vec::new()),
        waiting: Vec::new(),
        about_events: Vec::new(),
        round: 0,
    };
    let ended = person.talk(&incoming);
    let _ = person.client.shutdown(Shutdown::Both);
    ended
}

/// The next line; `None` at the end.
fn line(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if Read::take(&mut *from, LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    match line.last() {
        Some(b'\n') => Ok(Some(line)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a line breaks off")),
    }
}

struct Person {
    office: Arc<Office>,
    number: u64,
    folder: PathBuf,
    client: UnixStream,
    events: Sender<Event>,
    finder: Finder,
    seen: Option<Seen>,
    lines: Lines,
    /// The breakpoint at which the image was taken.
    hit: Option<i64>,
    /// What was asked before the first image; `None` when there has been one.
    held: Option<Vec<Value>>,
    /// Questions that the next image answers, by their numbers.
    waiting: Vec<Value>,
    /// The same of `GetEvents`.
    about_events: Vec<Value>,
    round: u64,
}

struct Seen {
    view: View,
    to_dlv: UnixStream,
}

impl Person {
    fn talk(&mut self, incoming: &Receiver<Event>) -> io::Result<()> {
        while let Ok(event) = incoming.recv() {
            match event {
                Event::Client(said) => match said? {
                    None => return Ok(()),
                    Some(request) => self.request(request)?,
                },
                Event::Dlv(round, said) if round == self.round => match said {
                    Some(line) => self.client.write_all(&line)?,
                    // What it has not answered it never will.
                    None => return Err(io::Error::other("dlv has ended")),
                },
                Event::Taken(round, taken) if round == self.round => self.taken(taken)?,
                Event::Dlv(..) | Event::Taken(..) => {}
            }
        }
        Ok(())
    }

    fn answer(&mut self, id: &Value, result: &Value) -> io::Result<()> {
        let answer = json!({ "id": id, "result": result, "error": null });
        self.client.write_all(format!("{answer}\n").as_bytes())
    }

    fn refuse(&mut self, id: &Value, why: &str) -> io::Result<()> {
        let answer = json!({ "id": id, "result": null, "error": why });
        self.client.write_all(format!("{answer}\n").as_bytes())
    }

    fn request(&mut self, request: Value) -> io::Result<()> {
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        if method == NEWS_METHOD {
            let since = request["params"][0]["since"].as_u64().unwrap_or(0);
            let by = Instant::now() + NEWS_PATIENCE;
            let (number, news) = self.office.desk.news_since(since, by);
            let answer = serde_json::to_value(NewsAnswer { number, news })?;
            return self.answer(&request["id"], &answer);
        }
        if let Some(held) = &mut self.held {
            let is_first = held.is_empty();
            if held.len() >= MOST_HELD {
                return self.refuse(&request["id"], "there is no image yet");
            }
            held.push(request);
            if is_first {
                self.order(Order::Now);
            }
            return Ok(());
        }
        self.decide(method.trim_start_matches("RPCServer."), request)
    }

    fn decide(&mut self, method: &str, mut request: Value) -> io::Result<()> {
        let id = request["id"].take();
        let parameters = request["params"][0].take();
        let has_image = self.seen.is_some();
        match (method, parameters["name"].as_str().unwrap_or_default()) {
            ("Command", "continue" | "directionCongruentContinue") => {
                self.seen = None;
                self.waiting.push(id);
                self.order_next();
                Ok(())
            }
            ("Command", "halt") if !has_image => {
                self.waiting.push(id);
                self.order(Order::Now);
                Ok(())
            }
            ("Command", "halt") => self.answer_state(&id),
            ("Command", "switchThread" | "switchGoroutine") if has_image => {
                self.pass_on(&request, &id, &parameters)
            }
            ("Command", _) => self.refuse(
                &id,
                "an image does not run; `continue` takes the next one, at the breakpoints if there are some",
            ),
            ("State", _) if !has_image && parameters["NonBlocking"] == true => {
                self.answer(&id, &json!({ "State": { "Running": true } }))
            }
            ("State", _) if !has_image => {
                self.waiting.push(id);
                Ok(())
            }
            ("State", _) => self.answer_state(&id),
            ("GetEvents", _) if has_image => self.answer(&id, &over()),
            ("GetEvents", _) => {
                self.about_events.push(id);
                Ok(())
            }
            ("CreateBreakpoint", _) => self.create(&id, &parameters),
            ("AmendBreakpoint", _) => self.amend(&id, &parameters),
            ("ClearBreakpoint", _) => self.clear(&id, &parameters),
            ("ToggleBreakpoint", _) => self.toggle(&id, &parameters),
            ("GetBreakpoint", _) => self.get(&id, &parameters),
            ("ListBreakpoints", _) => {
                let all: Vec<Value> = self.lines.iter().map(|line| self.told(line)).collect();
                self.answer(&id, &json!({ "Breakpoints": all }))
            }
            ("CancelNext" | "Detach", _) => self.answer(&id, &json!({})),
            _ if has_image => self.pass_on(&request, &id, &parameters),
            _ => self.refuse(&id, "the service runs; `halt` (Ctrl-C) takes an image of it"),
        }
    }

    fn pass_on(&mut self, request: &Value, id: &Value, parameters: &Value) -> io::Result<()> {
        let Some(seen) = &mut self.seen else { return Ok(()) };
        let line = json!({ "method": request["method"], "params": [parameters], "id": id });
        seen.to_dlv.write_all(format!("{line}\n").as_bytes())
    }

    fn order_next(&mut self) {
        let places = self.lines.by_address();
        self.order(if places.is_empty() { Order::Now } else { Order::At(places) });
    }

    fn order(&mut self, order: Order) {
        self.round += 1;
        let (round, events) = (self.round, self.events.clone());
        self.office.desk.order(self.number, order, move |taken| {
            let _ = events.send(Event::Taken(round, taken));
        });
    }

    fn taken(&mut self, taken: Taken) -> io::Result<()> {
        let shown = match taken {
            Taken::Image(image, address) => self.look(&image, address),
            Taken::Refused(refusal) => Err(refusal),
        };
        match shown {
            Ok(true) => self.show(),
            Ok(false) => {
                self.order_next();
                Ok(())
            }
            Err(refusal) => {
                let why = format!("no image was taken: {refusal}");
                // Before the first there is nothing that the client could do.
                for request in self.held.take().unwrap_or_default() {
                    self.refuse(&request["id"], &why)?;
                }
                for id in std::mem::take(&mut self.waiting) {
                    self.refuse(&id, &why)?;
                }
                self.end_events()
            }
        }
    }

    /// Whether the client is to see it.
    fn look(&mut self, image: &Image, address: Option<u64>) -> Result<bool, Refusal> {
        let broken =
            |error: io::Error| Refusal::failed(format!("dlv does not show the image: {error}"), "");
        let mut view = View::open(&self.office, &self.folder.join("view"), image)?;
        self.hit = None;
        if let Some(address) = address {
            let verdict = self.lines.judge(address, view.goroutine, &mut view.dlv)?;
            self.hit = verdict.stops.first().copied();
            if self.hit.is_none() {
                return Ok(false);
            }
        }
        let to_dlv = UnixStream::connect(view.dlv.socket()).map_err(broken)?;
        let mut reader = BufReader::new(to_dlv.try_clone().map_err(broken)?);
        let (round, events) = (self.round, self.events.clone());
        std::thread::spawn(move || {
            loop {
                let said = line(&mut reader).ok().flatten();
                let is_last = said.is_none();
                if events.send(Event::Dlv(round, said)).is_err() || is_last {
                    return;
                }
            }
        });
        self.seen = Some(Seen { view, to_dlv });
        Ok(true)
    }

    fn show(&mut self) -> io::Result<()> {
        for id in std::mem::take(&mut self.waiting) {
            self.answer_state(&id)?;
        }
        self.end_events()?;
        for request in self.held.take().unwrap_or_default() {
            self.request(request)?;
        }
        Ok(())
    }

    fn end_events(&mut self) -> io::Result<()> {
        for id in std::mem::take(&mut self.about_events) {
            self.answer(&id, &over())?;
        }
        Ok(())
    }

    /// dlv's word for how the image stands, with the breakpoint that dlv does not know of.
    fn answer_state(&mut self, id: &Value) -> io::Result<()> {
        let breakpoint = self.hit.and_then(|hit| self.lines.get(hit)).map(|line| self.told(line));
        let Some(seen) = &mut self.seen else { return Ok(()) };
        let asked = seen.view.dlv.ask::<Value>("RPCServer.State", json!({ "NonBlocking": true }));
        let mut state = match asked {
            Ok(state) => state,
            Err(why) => return self.refuse(id, &Refusal::from(why).to_string()),
        };
        if let Some(breakpoint) = breakpoint
            && state["State"]["currentThread"].is_object()
        {
            let thread = state["State"]["currentThread"]["id"].clone();
            state["State"]["currentThread"]["breakPoint"] = breakpoint.clone();
            // dlv's client looks for it there, where a goroutine is selected.
            for other in state["State"]["Threads"].as_array_mut().into_iter().flatten() {
                if other["id"] == thread {
                    other["breakPoint"] = breakpoint.clone();
                }
            }
        }
        self.answer(id, &state)
    }

    fn create(&mut self, id: &Value, parameters: &Value) -> io::Result<()> {
        if self.lines.len() >= MOST_LINES {
            return self.refuse(id, &format!("there are {MOST_LINES} breakpoints already"));
        }
        match self.find(parameters) {
            Err(why) => self.refuse(id, &why),
            Ok(line) => {
                let line = self.lines.add(line).clone();
                self.answer(id, &json!({ "Breakpoint": self.told(&line) }))
            }
        }
    }

    /// In the order in which dlv takes what it is told (service/debugger/debugger.go, `CreateBreakpoint`).
    fn find(&mut self, parameters: &Value) -> Result<Line, String> {
        let told = &parameters["Breakpoint"];
        let text = |name: &str| told[name].as_str().unwrap_or_default();
        let addresses: Vec<u64> =
            told["addrs"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let single = told["addr"].as_u64().unwrap_or(0);
        let name = match (addresses.first(), text("file"), text("functionName")) {
            (Some(address), _, _) => format!("*{address:#x}"),
            (None, file, _) if !file.is_empty() => format!("{file}:{}", told["line"]),
            (None, _, function) if !function.is_empty() => function.to_owned(),
            _ => format!("*{single:#x}"),
        };
        let mut found = self.finder.find(&self.office, &name)?;
        for address in addresses.iter().skip(1) {
            found
                .addresses
                .extend(self.finder.find(&self.office, &format!("*{address:#x}"))?.addresses);
        }
        let hit_condition = HitCondition::parse(text("HitCond"))?;
        let first = found.places.first().cloned().unwrap_or_default();
        Ok(Line {
            set: text("name").to_owned(),
            place: format!("{}:{}", first.file, first.line),
            line: first.line,
            path: first.file,
            addresses: found.addresses,
            condition: text("Cond").trim().to_owned(),
            hit_condition,
            is_off: told["disabled"] == true,
            as_told: {
                let mut as_told = told.clone();
                as_told["functionName"] = first.function.into();
                as_told
            },
            ..Line::default()
        })
    }

    /// A breakpoint as dlv would list it.
    fn told(&self, line: &Line) -> Value {
        let mut told = line.as_told.clone();
        let pid = self.office.target.pid().as_raw();
        told["id"] = line.id.into();
        told["name"] = line.set.clone().into();
        told["addr"] = line.addresses.first().copied().into();
        told["addrs"] = line.addresses.clone().into();
        told["addrpid"] = vec![pid; line.addresses.len()].into();
        told["file"] = line.path.clone().into();
        told["line"] = line.line.into();
        told["Cond"] = line.condition.clone().into();
        told["disabled"] = line.is_off.into();
        told["hitCount"] = json!({});
        told["totalHitCount"] = line.hits.into();
        told
    }

    /// The line that a request names by its number, or its name.
    fn which(&self, parameters: &Value) -> Option<i64> {
        let name = parameters["Name"].as_str().unwrap_or_default();
        match self.lines.iter().find(|line| !name.is_empty() && line.set == name) {
            Some(line) => Some(line.id),
            None => self.lines.get(parameters["Id"].as_i64()?).map(|line| line.id),
        }
    }

    fn no_such(&mut self, id: &Value) -> io::Result<()> {
        self.refuse(id, "there is no such breakpoint")
    }

    fn get(&mut self, id: &Value, parameters: &Value) -> io::Result<()> {
        let found = self.which(parameters).and_then(|line| self.lines.get(line));
        match found.map(|line| self.told(line)) {
            Some(told) => self.answer(id, &json!({ "Breakpoint": told })),
            None => self.no_such(id),
        }
    }

    fn clear(&mut self, id: &Value, parameters: &Value) -> io::Result<()> {
        match self.which(parameters).and_then(|line| self.lines.remove(line)) {
            Some(line) => self.answer(id, &json!({ "Breakpoint": self.told(&line) })),
            None => self.no_such(id),
        }
    }

    fn toggle(&mut self, id: &Value, parameters: &Value) -> io::Result<()> {
        let which = self.which(parameters);
        match which.and_then(|line| self.lines.get_mut(line)) {
            Some(line) => line.is_off = !line.is_off,
            None => return self.no_such(id),
        }
        let told = which.and_then(|line| self.lines.get(line)).map(|line| self.told(line));
        self.answer(id, &json!({ "Breakpoint": told }))
    }

    fn amend(&mut self, id: &Value, parameters: &Value) -> io::Result<()> {
        let told = &parameters["Breakpoint"];
        let text = |name: &str| told[name].as_str().unwrap_or_default();
        let hit_condition = match HitCondition::parse(text("HitCond")) {
            Ok(condition) => condition,
            Err(why) => return self.refuse(id, &why),
        };
        let line = told["id"].as_i64().and_then(|number| self.lines.get_mut(number));
        let Some(line) = line else { return self.no_such(id) };
        text("Cond").trim().clone_into(&mut line.condition);
        line.hit_condition = hit_condition;
        line.is_off = told["disabled"] == true;
        let function = line.as_told["functionName"].take();
        line.as_told = told.clone();
        line.as_told["functionName"] = function;
        self.answer(id, &json!({}))
    }
}

/// The answer to `GetEvents` when a command is over.
fn over() -> Value {
    json!({ "Events": [{ "Kind": STOPPED }] })
}
