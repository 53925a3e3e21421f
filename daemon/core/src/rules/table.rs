//! TOML tables taken apart key by key, so that every complaint has its line, and a key that nobody
//! asked for is one.

use super::suggest::did_you_mean;
use super::{Place, Problem, Severity};
use crate::words::shown;
use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file while it is read.
pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, problems: RefCell::default() }
    }

    pub(super) fn place(&self, at: &Range<usize>) -> Place {
        let before = self.text.as_bytes().get(..at.start).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Place { file: self.file.to_owned(), line }
    }

    pub(super) fn wrong(&self, at: &Range<usize>, message: impl Display, help: impl Display) {
        self.problems.borrow_mut().push(Problem {
            severity: Severity::Error,
            place: self.place(at),
            message: message.to_string(),
            help: help.to_string(),
        });
    }

    pub(super) fn problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// A table whose keys are taken one by one.
pub(super) struct Section<'s, 'i> {
    source: &'s Source<'i>,
    at: Range<usize>,
    known: &'static [&'static str],
    left: DeTable<'i>,
}

impl<'s, 'i> Section<'s, 'i> {
    pub(super) fn new(
        source: &'s Source<'i>,
        at: Range<usize>,
        table: DeTable<'i>,
        known: &'static [&'static str],
    ) -> Self {
        Self { source, at, known, left: table }
    }

    /// Where the table begins.
    pub(super) fn at(&self) -> &Range<usize> {
        &self.at
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.left.contains_key(key)
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Spanned<DeValue<'i>>> {
        debug_assert!(self.known.contains(&key), "{key} is not told to those who mistype it");
        self.left.remove(key)
    }

    fn wanted<T>(&self, key: &str, value: &Spanned<DeValue<'_>>, what: &str) -> Option<T> {
        let found = value.get_ref().type_str();
        self.source.wrong(&value.span(), format!("{key} must be {what}, and is a {found}"), "");
        None
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.take(key)?;
        value.get_ref().as_bool().or_else(|| self.wanted(key, &value, "true or false"))
    }

    pub(super) fn number(&mut self, key: &str) -> Option<u32> {
        let value = self.take(key)?;
        let number = value.get_ref().as_integer();
        let number = number.and_then(|it| u32::from_str_radix(it.as_str(), it.radix()).ok());
        number.filter(|number| *number > 0).or_else(|| {
            self.source.wrong(&value.span(), format!("{key} must be a number from 1 on"), "");
            None
        })
    }

    /// A part of a whole.
    pub(super) fn percent(&mut self, key: &str) -> Option<u8> {
        let value = self.take(key)?;
        let number = value.get_ref().as_integer();
        let number = number.and_then(|it| u8::from_str_radix(it.as_str(), it.radix()).ok());
        number.filter(|number| (1..=100).contains(number)).or_else(|| {
            self.source.wrong(&value.span(), format!("{key} must be a number from 1 to 100"), "");
            None
        })
    }

    /// A text, as the word that it is.
    pub(super) fn word<T: FromStr<Err: Display>>(&mut self, key: &str) -> Option<T> {
        let value = self.take(key)?;
        self.parse(key, &value)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, all: &[(&str, T)]) -> Option<T> {
        let value = self.take(key)?;
        self.chosen(key, &value, all)
    }

    pub(super) fn choices<T: Copy>(&mut self, key: &str, all: &[(&str, T)]) -> Option<Vec<T>> {
        let values = self.list(key)?;
        Some(values.iter().filter_map(|value| self.chosen(key, value, all)).collect())
    }

    /// Texts, as the words that they are.
    pub(super) fn words<T: FromStr<Err: Display>>(&mut self, key: &str) -> Option<Vec<T>> {
        let values = self.list(key)?;
        Some(values.iter().filter_map(|value| self.parse(key, value)).collect())
    }

    pub(super) fn duration(&mut self, key: &str) -> Option<Duration> {
        let value = self.take(key)?;
        let Some(text) = value.get_ref().as_str() else {
            return self.wanted(key, &value, "a duration such as \"30m\"");
        };
        match humantime::parse_duration(text) {
            Ok(duration) if duration >= Duration::from_secs(1) => Some(duration),
            _ => {
                let message = format!("{key} = {} is no duration of a second or more", shown(text));
                self.source.wrong(&value.span(), message, "write it as \"30m\" or \"1h30m\"");
                None
            }
        }
    }

    /// A table inside this one.
    pub(super) fn section(
        &mut self,
        key: &str,
        known: &'static [&'static str],
    ) -> Option<Section<'s, 'i>> {
        let value = self.take(key)?;
        let at = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(Section::new(self.source, at, table, known)),
            other => self.wanted(key, &Spanned::new(at, other), "a table { … }"),
        }
    }

    /// Everything was taken: what is left is not known.
    pub(super) fn finish(self) {
        for (key, _) in &self.left {
            let word = key.get_ref();
            let help = did_you_mean(word, self.known.iter().copied());
            self.source.wrong(&key.span(), format!("{} is no key here", shown(word)), help);
        }
    }

    fn list(&mut self, key: &str) -> Option<Vec<Spanned<DeValue<'i>>>> {
        let value = self.take(key)?;
        let at = value.span();
        match value.into_inner() {
            DeValue::Array(array) if array.is_empty() => {
                let help = "leave the key out where it does not matter";
                self.source.wrong(&at, format!("{key} = [] would fit nothing"), help);
                None
            }
            DeValue::Array(array) => Some(array.into_iter().collect()),
            other => {
                self.wanted(key, &Spanned::new(at, other), "a list such as [\"one\", \"two\"]")
            }
        }
    }

    fn parse<T: FromStr<Err: Display>>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            return self.wanted(key, value, "a text in quotation marks");
        };
        match text.parse() {
            Ok(word) => Some(word),
            Err(why) => {
                self.source.wrong(&value.span(), format!("{key}: {why}"), "");
                None
            }
        }
    }

    fn chosen<T: Copy>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        all: &[(&str, T)],
    ) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            return self.wanted(key, value, "a text in quotation marks");
        };
        let found = all.iter().find(|(name, _)| *name == text);
        found.map(|(_, word)| *word).or_else(|| {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            let message = format!("{key}: {} is none of {}", shown(text), names.join(", "));
            self.source.wrong(&value.span(), message, did_you_mean(text, names.iter().copied()));
            None
        })
    }
}
