//! The words that only rules have: patterns for names, slices, times of the week, commands.

use crate::words::{WordError, shown};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

macro_rules! serde_by_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A name in which `*` stands for any text and `?` for one character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    pub fn matches(&self, text: &str) -> bool {
        fits(&self.0, text, |pattern, c| pattern == '?' || pattern == c)
    }

    /// The same, whether a letter is large or small.
    pub fn matches_in_any_case(&self, text: &str) -> bool {
        fits(&self.0, text, |pattern, c| pattern == '?' || pattern.eq_ignore_ascii_case(&c))
    }

    /// Whether everything that `other` fits, this fits too. Says no where it cannot tell.
    pub fn covers(&self, other: &Self) -> bool {
        // The other's own stars are text here, so that only a star fits them.
        fits(&self.0, &other.0, |pattern, c| (pattern == '?' && c != '*') || pattern == c)
    }

    fn has_wildcards(&self) -> bool {
        self.0.contains(['*', '?'])
    }
}

/// In time proportional to the product of the lengths, whatever the pattern.
fn fits(pattern: &str, text: &str, one: impl Fn(char, char) -> bool) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if one(*c, text[t]) => {
                p += 1;
                t += 1;
            }
            _ => {
                // The last star takes one character more.
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

impl FromStr for Glob {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        if text.is_empty() {
            return Err(WordError::new("an empty text fits nothing"));
        }
        if text.len() > 255 || text.chars().any(char::is_control) {
            return Err(WordError::new(format!("{} is too long, or no name", shown(text))));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_by_text!(Glob);

/// A unit's name in a rule: `shop`, `web-*`, `app@?.service`. Without a suffix, and without a star
/// at its end, it is a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPattern(Glob);

impl UnitPattern {
    pub fn matches(&self, unit: &str) -> bool {
        self.0.matches(unit)
    }

    pub fn covers(&self, other: &Self) -> bool {
        self.0.covers(&other.0)
    }

    /// The one unit that it fits, if it has no wildcards.
    pub fn exact(&self) -> Option<&str> {
        (!self.0.has_wildcards()).then_some(self.0.0.as_str())
    }
}

impl FromStr for UnitPattern {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?".contains(c);
        if let Some(c) = text.chars().find(|c| !allowed(*c)) {
            let why = format!("{} fits no unit: no name of one contains {c:?}", shown(text));
            return Err(WordError::new(why));
        }
        if text.ends_with(".slice") {
            let why = format!("{} is a slice; name it under `slices`", shown(text));
            return Err(WordError::new(why));
        }
        let suffixed = [".service", ".scope", "*"].iter().any(|suffix| text.ends_with(suffix));
        let suffix = if suffixed || text.is_empty() { "" } else { ".service" };
        format!("{text}{suffix}").parse().map(Self)
    }
}

impl fmt::Display for UnitPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A slice, with all slices below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice(String);

impl Slice {
    /// Whether `slice` is this one or lies below it: `a-b.slice` lies in `a.slice`, and every one
    /// in `-.slice`.
    pub fn holds(&self, slice: &str) -> bool {
        let (own, other) = (self.0.trim_end_matches(".slice"), slice.trim_end_matches(".slice"));
        own == "-" || own == other || other.strip_prefix(own).is_some_and(|it| it.starts_with('-'))
    }
}

impl FromStr for Slice {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\".contains(c);
        let stem = text.strip_suffix(".slice").unwrap_or(text);
        if stem.is_empty() || text.len() > 255 || !stem.chars().all(allowed) {
            return Err(WordError::new(format!("{} is no slice such as web.slice", shown(text))));
        }
        Ok(Self(format!("{stem}.slice")))
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A regular expression, found anywhere unless it says otherwise. Its matching takes time
/// proportional to the text, whatever it is.
#[derive(Debug, Clone)]
pub struct Pattern(regex_lite::Regex);

impl Pattern {
    pub fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The text with something else wherever this was found.
    pub fn replaced<'t>(&self, text: &'t str, with: &str) -> Cow<'t, str> {
        self.0.replace_all(text, regex_lite::NoExpand(with))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl FromStr for Pattern {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let wrong = |why: &str| WordError::new(format!("{} is no pattern: {why}", shown(text)));
        if text.len() > 1000 {
            return Err(wrong("it is longer than 1000 bytes"));
        }
        regex_lite::RegexBuilder::new(text)
            .size_limit(1 << 20)
            .build()
            .map(Self)
            .map_err(|error| wrong(&error.to_string()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

serde_by_text!(Pattern);

/// What somebody wants to do to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    Attach,
    Exec,
    Core,
    Snapshot,
}

impl Command {
    pub const ALL: [Self; 4] = [Self::Attach, Self::Exec, Self::Core, Self::Snapshot];
}

impl FromStr for Command {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let found = Self::ALL.into_iter().find(|command| command.to_string() == text);
        found.ok_or_else(|| {
            WordError::new(format!("{} is none of attach, exec, core, snapshot", shown(text)))
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attach => "attach",
            Self::Exec => "exec",
            Self::Core => "core",
            Self::Snapshot => "snapshot",
        })
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Weekday {
    pub const ALL: [Self; 7] =
        [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    pub fn name(self) -> &'static str {
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][self as usize]
    }

    fn before(self) -> Self {
        Self::ALL[(self as usize + 6) % 7]
    }
}

/// A minute of the week, by the host's own clock on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub day: Weekday,
    /// Since midnight, 0 to 1439.
    pub minute: u16,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:02}:{:02}", self.day.name(), self.minute / 60, self.minute % 60)
    }
}

/// Times of the week. A window that goes over midnight belongs to the day on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// By number of the day.
    days: [bool; 7],
    /// Beginning and end in minutes; none is the whole day.
    windows: Vec<(u16, u16)>,
}

impl Times {
    /// Of these days and hours; an empty list is all of them.
    ///
    /// # Errors
    /// The text that is no day, no range of days, or no range of hours.
    pub fn parse(days: &[impl AsRef<str>], hours: &[impl AsRef<str>]) -> Result<Self, WordError> {
        let mut times = Self { days: [days.is_empty(); 7], windows: Vec::new() };
        for text in days {
            times.add_days(text.as_ref())?;
        }
        times.windows = hours.iter().map(|text| window(text.as_ref())).collect::<Result<_, _>>()?;
        Ok(times)
    }

    fn add_days(&mut self, text: &str) -> Result<(), WordError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (mut at, last) = (day(first)? as usize, day(last)? as usize);
        loop {
            self.days[at] = true;
            if at == last {
                return Ok(());
            }
            at = (at + 1) % 7;
        }
    }

    pub fn hold(&self, moment: Moment) -> bool {
        let on = |day: Weekday| self.days[day as usize];
        let Moment { day, minute } = moment;
        if self.windows.is_empty() {
            return on(day);
        }
        self.windows.iter().any(|(begin, end)| {
            if begin < end {
                on(day) && (*begin..*end).contains(&minute)
            } else {
                (on(day) && minute >= *begin) || (on(day.before()) && minute < *end)
            }
        })
    }

    /// Whether every moment of `other` is one of this.
    pub fn cover(&self, other: &Self) -> bool {
        let week = Weekday::ALL
            .iter()
            .flat_map(|day| (0..24 * 60).map(move |minute| Moment { day: *day, minute }));
        week.filter(|moment| other.hold(*moment)).all(|moment| self.hold(moment))
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> = Weekday::ALL
            .into_iter()
            .filter(|day| self.days[*day as usize])
            .map(Weekday::name)
            .collect();
        f.write_str(&days.join(", "))?;
        for (index, (begin, end)) in self.windows.iter().enumerate() {
            let before = if index == 0 { " " } else { ", " };
            let (b, e) = (begin, end);
            write!(f, "{before}{:02}:{:02}-{:02}:{:02}", b / 60, b % 60, e / 60, e % 60)?;
        }
        Ok(())
    }
}

fn day(text: &str) -> Result<Weekday, WordError> {
    let wanted = text.trim().to_ascii_lowercase();
    let found = Weekday::ALL.into_iter().find(|day| day.name() == wanted);
    found.ok_or_else(|| WordError::new(format!("{} is no day such as mon or mon-fri", shown(text))))
}

fn window(text: &str) -> Result<(u16, u16), WordError> {
    let wrong = || WordError::new(format!("{} are no hours such as 08:00-18:00", shown(text)));
    let minute = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let two_digits = |text: &str| {
            (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit()))
                .then(|| text.parse().ok())?
        };
        let (hour, minute): (u16, u16) = (two_digits(hour)?, two_digits(minute)?);
        (hour * 60 + minute <= 24 * 60 && minute < 60).then_some(hour * 60 + minute)
    };
    let (begin, end) = text.split_once('-').ok_or_else(wrong)?;
    let (begin, end) = (minute(begin).ok_or_else(wrong)?, minute(end).ok_or_else(wrong)?);
    if begin == end || begin == 24 * 60 {
        return Err(WordError::new(format!("{} hold no minute", shown(text))));
    }
    Ok((begin, end))
}
