//! What a person names to have it debugged: a unit of the system, a container, or a unit of a user's
//! own manager. The last two are parts of a unit of the system, which authority is asked for.

use crate::words::{UnitName, WordError, shown};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `shop`, `container:web`, `user:alice/shop`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TargetName {
    Unit(UnitName),
    Container(ContainerName),
    /// A unit that a user's own manager runs.
    OfUser {
        user: UserName,
        unit: UnitName,
    },
}

const CONTAINER: &str = "container:";
const OF_USER: &str = "user:";

impl TargetName {
    /// The unit itself, unless it is a part of one.
    pub fn unit(&self) -> Option<&UnitName> {
        match self {
            Self::Unit(unit) => Some(unit),
            Self::Container(_) | Self::OfUser { .. } => None,
        }
    }

    /// The container's name, as rules see it.
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::Container(name) => Some(name.as_str()),
            Self::Unit(_) | Self::OfUser { .. } => None,
        }
    }

    /// Whose manager runs it.
    pub fn owner(&self) -> Option<&str> {
        match self {
            Self::OfUser { user, .. } => Some(user.as_str()),
            Self::Unit(_) | Self::Container(_) => None,
        }
    }
}

impl FromStr for TargetName {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        if let Some(name) = text.strip_prefix(CONTAINER) {
            return name.parse().map(Self::Container);
        }
        let Some(rest) = text.strip_prefix(OF_USER) else { return text.parse().map(Self::Unit) };
        let Some((user, unit)) = rest.split_once('/') else {
            let why = format!("{} is no unit of a user; write user:NAME/UNIT", shown(text));
            return Err(WordError::new(why));
        };
        Ok(Self::OfUser { user: user.parse()?, unit: unit.parse()? })
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => unit.fmt(f),
            Self::Container(name) => write!(f, "{CONTAINER}{name}"),
            Self::OfUser { user, unit } => write!(f, "{OF_USER}{user}/{unit}"),
        }
    }
}

impl TryFrom<String> for TargetName {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<TargetName> for String {
    fn from(name: TargetName) -> Self {
        name.to_string()
    }
}

impl From<UnitName> for TargetName {
    fn from(unit: UnitName) -> Self {
        Self::Unit(unit)
    }
}

/// A container by the name that its engine has for it, or the beginning of its ID: `web`; in
/// Kubernetes `NAMESPACE/POD/CONTAINER`, of which the parts before a slash may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerName(String);

impl ContainerName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerName {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        // Names of Kubernetes have at most 63 or 253 bytes each.
        const LONGEST: usize = 600;
        let part = |part: &str| {
            let first = part.chars().next();
            first.is_some_and(|c| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
                && !part.contains("..")
        };
        let parts = text.split('/').count();
        if text.len() > LONGEST || parts > 3 || !text.split('/').all(part) {
            return Err(WordError::new(format!("{} is no name of a container", shown(text))));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A user by name or number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserName(String);

impl UserName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `.`, since far away nobody knows one's name.
    pub fn whoever_asks() -> Self {
        Self(".".to_owned())
    }

    pub fn is_whoever_asks(&self) -> bool {
        self.0 == "."
    }
}

impl FromStr for UserName {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        // What directories have: name@domain, DOMAIN\name.
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-@\\$+".contains(c);
        if text.is_empty()
            || text.len() > 255
            || text.starts_with('-')
            || !text.chars().all(allowed)
        {
            return Err(WordError::new(format!("{} is no name of a user", shown(text))));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where in a unit the target is: found by godebugd, and by nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// By its full name.
    pub name: TargetName,
    /// Its control group, as systemd writes them: `/machine.slice/libpod-ID.scope/container`.
    pub group: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> TargetName {
        text.parse().unwrap()
    }

    #[test]
    fn each_kind_is_written_as_it_is_read() {
        for (text, full) in [
            ("shop", "shop.service"),
            ("run-1.scope", "run-1.scope"),
            ("container:web", "container:web"),
            ("container:prod/shop-7d9f/app", "container:prod/shop-7d9f/app"),
            ("user:alice/notes", "user:alice/notes.service"),
            ("user:1000/app@1.service", "user:1000/app@1.service"),
        ] {
            assert_eq!(read(text).to_string(), full);
            assert_eq!(read(&read(text).to_string()), read(text));
            let json = serde_json::to_string(&read(text)).unwrap();
            assert_eq!(json, format!("\"{full}\""));
            assert_eq!(serde_json::from_str::<TargetName>(&json).unwrap(), read(text));
        }
        assert_eq!(read("container:web").container(), Some("web"));
        assert_eq!(read("user:alice/notes").owner(), Some("alice"));
        assert!(read("shop").unit().is_some());
    }

    #[test]
    fn hostile_names_are_refused() {
        for text in [
            "container:",
            "container:../../etc",
            "container:a/../b",
            "container:a/b/c/d",
            "container:-x",
            "container:a b",
            "container:a\u{1b}[2J",
            "container:a/",
            "user:alice",
            "user:/shop",
            "user:alice/",
            "user:alice/../x",
            "user:a b/shop",
            "user:-x/shop",
            "user:alice/shop.socket",
            ".",
            "shop.",
            "user:alice/shop.",
        ] {
            assert!(text.parse::<TargetName>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_taken_comes_back(text in "(container:|user:)?.{0,40}") {
            if let Ok(name) = text.parse::<TargetName>() {
                prop_assert_eq!(name.to_string().parse::<TargetName>().unwrap(), name);
            }
        }
    }
}
