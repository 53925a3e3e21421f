//! What is kept of a process: the core dump of one that crashed, or an image of one that runs.

use crate::words::{Pid, SessionId, WordError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What systemd-coredump has noted of a crash, or a session of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// Of the process that crashed, or of which the image was taken.
    pub pid: Pid,
    /// When; RFC 3339 in UTC.
    pub time: String,
    /// The signal that ended it, such as `SIGABRT`; empty for an image, which ends nothing.
    #[serde(default)]
    pub signal: String,
    /// Where its program was.
    pub executable: String,
    /// The size of the file, which is compressed as a rule; 0 where there is none any more.
    pub stored_bytes: u64,
    /// It is an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<KeptImage>,
}

/// An image that is kept for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptImage {
    pub name: ImageName,
    /// Where the goroutine was that is looked at first, as a person reads it.
    pub place: String,
}

/// `SESSION#NUMBER`; numbers begin with 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    pub session: SessionId,
    pub number: u32,
}

impl FromStr for ImageName {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let wrong = || {
            WordError::new("an image is named by its session and its number, such as 7f3k2m9q#3")
        };
        let (session, number) = text.split_once('#').ok_or_else(wrong)?;
        // As it is printed and in no other way: no sign, no zeros before.
        let number = number.parse::<u32>().ok().filter(|it| *it > 0 && it.to_string() == number);
        Ok(Self { session: session.parse()?, number: number.ok_or_else(wrong)? })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.session, self.number)
    }
}

impl TryFrom<String> for ImageName {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_one_name() {
        let name: ImageName = "7f3k2m9q#3".parse().unwrap();
        assert_eq!((name.number, name.to_string().as_str()), (3, "7f3k2m9q#3"));
        for bad in [
            "7f3k2m9q",
            "7f3k2m9q#",
            "7f3k2m9q#0",
            "7f3k2m9q#03",
            "7f3k2m9q#+3",
            "#3",
            "../x#3",
            "7f3k2m9q#4294967296",
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }
}
