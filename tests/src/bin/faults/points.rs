//! The points of a session's life, found by a session with nothing broken, and what part of the life
//! each belongs to.

use std::fs;

use anyhow::{Context, Result, ensure};
use godebug_tests::{
    Host, Snapshot, fault_points::FOLDER, nothing_left, nothing_left_but_targets_ended,
};
use serde_json::{Value, json};

use crate::scene::{MYAPP, SCRIPTED, SOON, Scene, TARGETS, Ttl};

/// The state between points: the session is active, a client is connected, its breakpoint is set.
pub(crate) const IDLE: &str = "active, idle";

/// A part of a session's life: a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    Opening,
    /// Idle, or just being extended.
    Active,
    /// godebugd gives everything back, since somebody asked it to.
    Closing,
    /// godebug-revoke does, at the end of the time, with no godebugd.
    DeadMan,
    /// All of another kind of session: an image is taken at a line.
    Image,
    /// All of a third kind: the service is started under a debugger, and stands at main until its time is over.
    Exec,
    /// The same of a service that stands while its memory is read.
    Standing,
    /// A session of mode observe is opened.
    Observe,
    /// One is open, its client is shown an image at a line, and its time passes.
    Observing,
}

/// What the names of points begin with that belong to such sessions.
const OF_IMAGE: &str = "image: ";
const OF_STANDING: &str = "standing: ";
const OF_EXEC: &str = "exec: ";
const OF_OBSERVE: &str = "observe: ";
const OF_OBSERVING: &str = "observing: ";
const PREFIXES: [&str; 5] = [OF_IMAGE, OF_STANDING, OF_EXEC, OF_OBSERVE, OF_OBSERVING];

impl Group {
    pub(crate) const ALL: [Self; 9] = [
        Self::Opening,
        Self::Active,
        Self::Closing,
        Self::DeadMan,
        Self::Image,
        Self::Standing,
        Self::Exec,
        Self::Observe,
        Self::Observing,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Active => "active",
            Self::Closing => "closing",
            Self::DeadMan => "dead man",
            Self::Image => "image",
            Self::Standing => "standing",
            Self::Exec => "exec",
            Self::Observe => "observe",
            Self::Observing => "observing",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.name() == name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Point {
    /// `PROGRAM/POINT`, as the program writes it into its trace, or [`IDLE`].
    pub(crate) name: String,
    pub(crate) group: Group,
}

impl Point {
    /// As the program itself names it.
    pub(crate) fn traced(&self) -> &str {
        let name = self.name.as_str();
        PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
    }

    /// Whether it is one of this program's.
    pub(crate) fn is_in(&self, program: &str) -> bool {
        self.traced().split_once('/').is_some_and(|(of, _)| of == program)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.name == IDLE
    }

    /// Whether anything has happened since the point before it: between the end of one step and the writing of the next
    /// nothing does, nor between the writing and the act, and to read back changes nothing.
    pub(crate) fn is_new(&self) -> bool {
        !["read-back", "ledger.before", "ledger.after.intent"]
            .iter()
            .any(|part| self.name.contains(part))
    }

    /// Whether no other kind of session has it too: what godebugd does is the same in all of them, but that in
    /// `exec` the service stands meanwhile.
    pub(crate) fn is_of_its_kind(&self) -> bool {
        match self.group {
            Group::Standing | Group::Observe | Group::Observing => self.is_in("godebug-image"),
            _ => true,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "point": self.name, "group": self.group.name() })
    }

    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let group = Group::parse(value["group"].as_str()?)?;
        Some(Self { name: value["point"].as_str()?.to_owned(), group })
    }
}

/// Goes once through a session that is extended, one that is stopped, one that the dead man ends, one that
/// takes an image, one that shows images to a debugger, and one that starts the service under a debugger.
pub(crate) fn discover(host: &Host) -> Result<Vec<Point>> {
    let before = Snapshot::take(host, &TARGETS)?;
    let mut found = Vec::new();
    let mut scene = Scene::new(host)?;
    scene.open_and_connect(Ttl::Long)?;
    add(&mut found, trace(host)?, Group::Opening);
    found.push(Point { name: IDLE.to_owned(), group: Group::Active });
    scene.extend()?.wait(SOON)?.ok()?;
    add(&mut found, trace(host)?, Group::Active);
    scene.stop()?.wait(SOON)?.ok()?;

    let mut scene = Scene::new(host)?;
    scene.open_and_connect(Ttl::Long)?;
    trace(host)?;
    scene.stop()?.wait(SOON)?.ok()?;
    add(&mut found, trace(host)?, Group::Closing);

    let mut scene = Scene::new(host)?;
    scene.open_and_connect(Ttl::Middle)?;
    trace(host)?;
    scene.end_godebugd()?;
    host.wait_until("the dead man has ended the session", SOON, || {
        Ok(scene.sessions().is_empty())
    })?;
    let dead_man = trace(host)?;
    scene.let_godebugd_come_back()?;
    ensure!(dead_man.iter().all(|name| name.starts_with("godebug-revoke/")), "{dead_man:?}");
    add(&mut found, dead_man, Group::DeadMan);

    for (service, prefix, group) in
        [(MYAPP, OF_IMAGE, Group::Image), (SCRIPTED, OF_STANDING, Group::Standing)]
    {
        let mut scene = Scene::new(host)?;
        scene.look(service)?;
        scene.running.pop().context("nobody looks")?.wait(SOON)?.ok()?;
        host.wait_until("the image is closed", SOON, || Ok(scene.sessions().is_empty()))?;
        add(&mut found, prefixed(prefix, trace(host)?), group);
        drop(scene);
        nothing_left(host, &before)?;
    }

    let mut scene = Scene::new(host)?;
    scene.observe_and_connect(Ttl::Middle)?;
    // What the client's breakpoint has begun is no part of the opening; an image goes through it again.
    let mut opening = trace(host)?;
    opening.retain(|name| name.starts_with("godebugd/"));
    add(&mut found, prefixed(OF_OBSERVE, opening), Group::Observe);
    scene.watch_its_line()?;
    scene.client()?.wait_for_stop()?;
    host.wait_until("its time is over", SOON, || Ok(scene.sessions().is_empty()))?;
    add(&mut found, prefixed(OF_OBSERVING, trace(host)?), Group::Observing);
    drop(scene);
    nothing_left(host, &before)?;

    let mut scene = Scene::new(host)?;
    scene.exec(Ttl::Middle)?;
    scene.running.pop().context("nothing is started")?.wait(SOON)?.ok()?;
    host.wait_until("its time is over", SOON, || Ok(scene.sessions().is_empty()))?;
    add(&mut found, prefixed(OF_EXEC, trace(host)?), Group::Exec);
    nothing_left_but_targets_ended(host, &scene.before)?;
    Ok(found)
}

/// What was reached since the last call.
fn trace(host: &Host) -> Result<Vec<String>> {
    let path = host.path(FOLDER).join("trace");
    let text = fs::read_to_string(&path).context("no point was reached")?;
    fs::remove_file(&path).context("removing the trace")?;
    Ok(text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect())
}

fn prefixed(prefix: &str, names: Vec<String>) -> Vec<String> {
    names.into_iter().map(|name| format!("{prefix}{name}")).collect()
}

fn add(found: &mut Vec<Point>, names: Vec<String>, group: Group) {
    for name in names {
        if !found.iter().any(|point| point.name == name) {
            found.push(Point { name, group });
        }
    }
}
