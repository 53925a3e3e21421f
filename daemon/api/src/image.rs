//! What is asked of an image of a process, and the lines that answer it. They go from the image's
//! unit to the client as they are; godebugd passes the pipe on and reads nothing of it.

use godebug_core::rules::{RedactRules, TranscriptValues};
use godebug_core::{Copying, Part, Pid, Reason, Refusal, UnitName, WordError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// No line is longer, in bytes.
pub const LONGEST_LINE: usize = 16 * 1024 * 1024;

/// What a person asks for. The unit is an argument of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRequest {
    pub task: ImageTask,
    #[serde(default)]
    pub reason: Option<Reason>,
    /// Which process, for a unit that has several.
    #[serde(default)]
    pub pid: Option<Pid>,
    #[serde(default, rename = "max_pause_ms")]
    pub max_pause: PauseLimit,
    /// How long a line may be waited at.
    #[serde(default, rename = "patience_s")]
    pub patience: Patience,
    /// Without the consent of others that the rule wants, as an alarm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
    /// A file with the program's debug information comes along.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub symbols: bool,
    /// Where in the unit the target is. Filled in by godebugd; whatever a client says is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// What the image is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageTask {
    /// The stack and the values of one goroutine, now or whenever a line is reached.
    Snapshot {
        /// The lines; now, without one.
        #[serde(default, deserialize_with = "one_or_more")]
        at: Vec<Phrase>,
        #[serde(default)]
        expressions: Vec<Phrase>,
        #[serde(default)]
        condition: Option<Phrase>,
        count: Count,
        stack: Depth,
        /// As often as once in this time.
        #[serde(default, rename = "every_ms")]
        every: Every,
        /// For how long the images are kept after that, in seconds; without it they are not.
        #[serde(default, rename = "keep_s", skip_serializing_if = "Option::is_none")]
        keep: Option<Keep>,
    },
    /// What all goroutines are doing.
    Goroutines,
    /// What fills the memory.
    Heap {
        /// How many of those that hold most are named.
        top: Count,
    },
}

/// Earlier clients name one line or none.
fn one_or_more<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Phrase>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Named {
        None(()),
        One(Phrase),
        More(Vec<Phrase>),
    }
    Ok(match Named::deserialize(from)? {
        Named::None(()) => Vec::new(),
        Named::One(one) => vec![one],
        Named::More(all) => all,
    })
}

/// Something that dlv reads: a location or an expression. One line of at most 1024 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Phrase(String);

impl Phrase {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Phrase {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > 1024 || text.chars().any(char::is_control) {
            return Err(WordError::new("it must be one line of 1 to 1024 characters"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Phrase {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<Phrase> for String {
    fn from(phrase: Phrase) -> Self {
        phrase.0
    }
}

impl fmt::Display for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number with a lowest and a highest value.
macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident, $range:expr, $default:expr, $why:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "u32", into = "u32")]
        pub struct $name(u32);

        impl $name {
            pub fn get(self) -> u32 {
                self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self($default)
            }
        }

        impl TryFrom<u32> for $name {
            type Error = WordError;

            fn try_from(value: u32) -> Result<Self, WordError> {
                if $range.contains(&value) { Ok(Self(value)) } else { Err(WordError::new($why)) }
            }
        }

        impl From<$name> for u32 {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

/// Parses and prints a bounded number as it is.
macro_rules! as_number {
    ($($name:ident),*) => {$(
        impl FromStr for $name {
            type Err = WordError;

            fn from_str(text: &str) -> Result<Self, WordError> {
                text.parse::<u32>().map_err(|_| WordError::new("it is no number"))?.try_into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

/// Parses and prints a bounded number as a time; the number counts `$unit` nanoseconds.
macro_rules! as_duration {
    ($name:ident, $unit:literal) => {
        impl FromStr for $name {
            type Err = WordError;

            fn from_str(text: &str) -> Result<Self, WordError> {
                let duration = humantime::parse_duration(text).map_err(|error| {
                    WordError::new(format!("it is no duration such as 20ms or 30s: {error}"))
                })?;
                let units = duration.as_nanos().div_ceil($unit);
                u32::try_from(units).unwrap_or(u32::MAX).try_into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                humantime::format_duration(self.duration()).fmt(f)
            }
        }

        impl $name {
            pub fn duration(self) -> Duration {
                Duration::from_nanos(u64::from(self.0) * $unit)
            }
        }
    };
}

bounded!(
    /// How often a line may be imaged.
    Count, 1..=1000, 1, "it must be 1 to 1000"
);
bounded!(
    /// How many frames of a stack.
    Depth, 1..=200, 20, "it must be 1 to 200"
);
bounded!(
    /// For how many milliseconds one image may stop the program.
    PauseLimit, 1..=10_000, 50, "it must be 1ms to 10s"
);
bounded!(
    /// How many milliseconds are between two images of lines, at least.
    Every, 100..=600_000, 100, "it must be 100ms to 10m"
);
bounded!(
    /// For how many seconds a line is waited at.
    Patience, 1..=3600, 30, "it must be 1s to 1h"
);
bounded!(
    /// For how many seconds images are kept after the last of them.
    Keep, 1..=14_400, 1800, "it must be 1s to 4h"
);
impl Count {
    pub const MOST: Self = Self(1000);
}

impl PauseLimit {
    /// Whether it is what holds without a word of anybody.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

as_number!(Count, Depth);
as_duration!(PauseLimit, 1_000_000);
as_duration!(Every, 1_000_000);
as_duration!(Patience, 1_000_000_000);
as_duration!(Keep, 1_000_000_000);

/// dlv looks for the name of the program, with this at its end; in an image's unit the program has this name.
pub const PROGRAM: &str = "program";
pub const SYMBOLS: &str = "program.debug";

/// What the image's unit is told, on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    pub unit: UnitName,
    pub pid: Pid,
    /// With the PID it names one process.
    pub start_ticks: u64,
    /// The dlv that fits.
    pub debugger: String,
    /// The folder with the program's debug information, as [`SYMBOLS`], where it has none itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbols: Option<PathBuf>,
    #[serde(default)]
    pub copying: Copying,
    /// A guard watches over this process, and must be there before the target is touched.
    pub guarded: bool,
    pub work: ImageWork,
    /// What nobody is shown. Where debuggers are served, the gateway hides it.
    #[serde(default)]
    pub redact: RedactRules,
    /// What goes into the transcript that comes with this; nothing where debuggers are served, whose gateway writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<ImageRecord>,
}

/// For the transcript of a session that takes images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// Who looks.
    pub client: String,
    pub host: String,
    pub boot: String,
    /// What is kept of the values that are shown.
    pub values: TranscriptValues,
}

/// What that unit does. No client can ask for the second: it is how a session of mode `observe` is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageWork {
    /// Answers one request on standard output, and ends.
    Answer(ImageRequest),
    /// Listens in dlv's place, and shows debuggers one image after the other.
    Serve {
        socket: PathBuf,
        #[serde(rename = "max_pause_ms")]
        max_pause: PauseLimit,
    },
}

impl ImageRequest {
    /// For how long the images are to be kept, if they are.
    pub fn keep(&self) -> Option<Keep> {
        match &self.task {
            ImageTask::Snapshot { keep, .. } => *keep,
            ImageTask::Goroutines | ImageTask::Heap { .. } => None,
        }
    }
}

impl ImageWork {
    /// For how long its images are to be kept, if they are.
    pub fn keep(&self) -> Option<Keep> {
        match self {
            Self::Answer(request) => request.keep(),
            Self::Serve { .. } => None,
        }
    }

    pub fn max_pause(&self) -> PauseLimit {
        match self {
            Self::Answer(request) => request.max_pause,
            Self::Serve { max_pause, .. } => *max_pause,
        }
    }
}

/// What has become of the target meanwhile, for the record of a session of mode `observe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct News {
    /// For how long it stood still for an image.
    pub pause_ms: f64,
    /// The line, or empty for one that somebody wanted at once.
    #[serde(default)]
    pub place: String,
}

/// How that is asked for, on the same socket and in dlv's JSON-RPC: with the number of the last answer; it
/// takes as long as there is nothing to tell, up to [`NEWS_PATIENCE`].
pub const NEWS_METHOD: &str = "Observer.News";
pub const NEWS_PATIENCE: Duration = Duration::from_secs(20);

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NewsAnswer {
    /// To ask with next.
    pub number: u64,
    pub news: Vec<News>,
}

/// What goes with an image that is kept, from the unit that took it to godebugd: beside its file, on the socket
/// through which the unit got its configuration (`crate::handover`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageNote {
    pub number: u32,
    /// RFC 3339 in UTC.
    pub time: String,
    pub place: String,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Refused {
        error: Refusal,
    },
    /// The line is waited at; nothing has reached it yet.
    Armed {
        armed: Armed,
    },
    Hit(Box<Hit>),
    Goroutines(Box<Goroutines>),
    Heap(Box<Heap>),
    /// The end of a snapshot at a line.
    Done {
        done: Done,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// As it was asked for.
    pub location: String,
    /// Where in the program that is: more than one where the compiler has copied a function.
    pub places: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub hits: u32,
    /// Images whose condition was not true.
    pub dropped: u32,
    /// Why it is over, where not all that was asked for has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// A place in the program's source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub function: String,
    pub file: String,
    pub line: u64,
}

/// One goroutine in one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// RFC 3339 in UTC: when the program stood still.
    pub time: String,
    pub unit: UnitName,
    pub location: Place,
    pub goroutine: i64,
    /// For how long the program stood still.
    pub pause_ms: f64,
    /// The number by which the image is kept, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<u32>,
    pub stack: Vec<Frame>,
    /// The expressions that were asked for, else the arguments and locals of the first frame of the
    /// program's own code.
    pub variables: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    #[serde(flatten)]
    pub place: Place,
}

/// A value as dlv shows it, in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub value: String,
    /// Why there is no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

impl Value {
    /// One that cannot be shown.
    pub fn unreadable(why: String) -> Self {
        let (name, kind, value) = (String::new(), String::new(), String::new());
        Self { name, kind, value, unreadable: Some(why) }
    }
}

/// What filled the memory. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heap {
    pub time: String,
    pub unit: UnitName,
    pub pause_ms: f64,
    /// Of all objects that are allocated, garbage that was not collected yet among them.
    pub in_use_bytes: u64,
    pub objects: u64,
    /// Of the stacks of goroutines.
    pub stack_bytes: u64,
    /// Objects that nothing was found to hold: garbage, and what Go's runtime holds in its own way.
    pub unheld_bytes: u64,
    pub unheld_objects: u64,
    /// Those that hold most first.
    pub holders: Vec<Holder>,
    /// Holders that are not named.
    #[serde(default)]
    pub left_out: usize,
    /// The types of objects that take most first, those whose type nothing tells among them. None where the
    /// program's types were not understood.
    #[serde(default)]
    pub types: Vec<TypeUse>,
    /// Of the objects that somebody holds, those whose type nothing tells.
    #[serde(default)]
    pub untyped_bytes: u64,
    #[serde(default)]
    pub untyped_objects: u64,
    /// The sizes of objects that take most first.
    pub sizes: Vec<ObjectSize>,
}

/// All objects of one type that somebody holds, and who holds most of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeUse {
    /// As the program's runtime calls it.
    #[serde(rename = "type")]
    pub kind: String,
    pub bytes: u64,
    pub objects: u64,
    /// A variable, or the function that goroutines began in.
    pub held_by: String,
    /// How many goroutines; 0 for a variable.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub goroutines: u64,
    /// How many of the bytes that one holds.
    pub held_bytes: u64,
}

/// A variable of a package, or the goroutines that began in one function, with all objects that are
/// reached from there and from no other holder before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub name: String,
    /// Of a variable.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    pub bytes: u64,
    pub objects: u64,
    /// How many goroutines; 0 for a variable.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub goroutines: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// All objects of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSize {
    pub size: u64,
    pub bytes: u64,
    pub objects: u64,
}

/// What all goroutines were doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Goroutines {
    pub time: String,
    pub unit: UnitName,
    pub pause_ms: f64,
    pub goroutines: usize,
    /// Goroutines of which no stack was read, since there were too many.
    #[serde(default)]
    pub left_out: usize,
    /// Those that wait longest first.
    pub groups: Vec<Group>,
    /// Where several are held up, locks first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<Wait>,
    /// Goroutines that probably wait for each other, in a circle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deadlocks: Vec<Vec<i64>>,
}

/// A lock or a channel at which goroutines wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    pub kind: WaitKind,
    pub address: u64,
    pub count: usize,
    /// A few of them.
    pub goroutines: Vec<i64>,
    /// Who probably has the lock: they have its address on their stack and do not wait for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitKind {
    Lock,
    Channel,
}

/// Goroutines that do the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub count: usize,
    /// What they wait for, or that they run.
    pub doing: String,
    /// How long the one that waits longest has waited, as far as the garbage collector has noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_s: Option<f64>,
    /// A few of them.
    pub ids: Vec<i64>,
    pub stack: Vec<Frame>,
    /// Where they were started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Place>,
    /// Goroutines that Go's runtime has for itself.
    #[serde(default)]
    pub system: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_bounds_wherever_they_come_from() {
        assert_eq!("50ms".parse::<PauseLimit>(), Ok(PauseLimit::default()));
        assert_eq!("1s".parse::<Patience>().map(Patience::get), Ok(1));
        for bad in ["0", "11s", "x", ""] {
            assert!(bad.parse::<PauseLimit>().is_err(), "{bad}");
        }
        assert!("0".parse::<Count>().is_err() && "1001".parse::<Count>().is_err());
        assert!(serde_json::from_str::<Depth>("0").is_err());
        assert!("a\u{1b}[2J".parse::<Phrase>().is_err() && " ".parse::<Phrase>().is_err());
    }

    #[test]
    fn a_line_is_one_of_several_or_none() {
        let at = |at: &str| {
            let text = format!(r#"{{"snapshot": {{"at": {at}, "count": 1, "stack": 1}}}}"#);
            match serde_json::from_str(&text).unwrap() {
                ImageTask::Snapshot { at, .. } => at.len(),
                _ => panic!(),
            }
        };
        assert_eq!((at("null"), at("\"main.f\""), at("[\"a\", \"b\"]")), (0, 1, 2));
    }

    #[test]
    fn lines_are_told_apart_by_their_fields() {
        let refused = r#"{"error":{"code":"usage","message":"m","remedy":"r"}}"#;
        assert!(matches!(serde_json::from_str(refused), Ok(Line::Refused { .. })));
        let done = r#"{"done":{"hits":1,"dropped":0}}"#;
        assert!(matches!(serde_json::from_str(done), Ok(Line::Done { .. })));
        let all = r#"{"time":"t","unit":"a.service","pause_ms":1.5,"goroutines":0,"groups":[]}"#;
        assert!(matches!(serde_json::from_str(all), Ok(Line::Goroutines(_))));
        let hit = r#"{"time":"t","unit":"a.service","location":{"function":"f","file":"a.go","line":1},
            "goroutine":1,"pause_ms":1.5,"stack":[],"variables":[]}"#;
        assert!(matches!(serde_json::from_str(hit), Ok(Line::Hit(_))));
    }
}
