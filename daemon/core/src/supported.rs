//! What godebug needs of a host and on what it was tried: the one table that `doctor` holds a host against and
//! docs/targets.md shows.

use std::fmt::Write;

/// One part of a host.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub name: &'static str,
    /// Older ones lack something that is needed; `None` where no version decides.
    pub least: Option<&'static str>,
    /// The versions that the scenarios have run on.
    pub tried: &'static [&'static str],
    pub why: &'static str,
}

pub const TABLE: &[Part] = &[
    Part {
        name: "distribution",
        least: None,
        tried: &["debian 12", "debian 13", "debian 14"],
        why: "packages and units; others with the same parts should do",
    },
    Part {
        name: "kernel",
        least: Some("5.10"),
        tried: &["6.12", "6.18"],
        why: "pidfds, cgroup v2 with its freezer, fanotify (`exec`)",
    },
    Part {
        name: "glibc",
        least: Some("2.34"),
        tried: &["2.36", "2.41", "2.43"],
        why: "what the package is linked against",
    },
    Part {
        name: "systemd",
        least: Some("252"),
        tried: &["252", "257", "262"],
        why: "transient units with SocketBindAllow= and streams by descriptor",
    },
    Part {
        name: "polkit",
        least: Some("0.105"),
        tried: &["122", "126", "128"],
        why: "rules hold the part that is about units, so pkla is enough",
    },
    Part {
        name: "firewalld",
        least: Some("0.9"),
        tried: &["1.3", "2.3", "2.5"],
        why: "rich rules with a timeout; it need not be there",
    },
    Part {
        name: "nftables",
        least: Some("0.9.3"),
        tried: &["1.0", "1.1"],
        why: "sets with timeouts",
    },
    Part {
        name: "Delve",
        least: Some("1.22.1"),
        tried: &["1.24", "1.27"],
        why: "a Unix socket to listen on; each supports some versions of Go",
    },
    Part {
        name: "Go",
        least: Some("1.19"),
        tried: &["1.21", "1.22", "1.23", "1.24", "1.25", "1.26", "1.27"],
        why: "of the programs; what a Delve supports",
    },
];

/// What is to be said of a version that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It, or one between two that were, was tried.
    Tried,
    NotTried,
    /// It is older than what is needed.
    TooOld,
}

/// The row of a part.
pub fn part(name: &str) -> Option<&'static Part> {
    TABLE.iter().find(|part| part.name == name)
}

impl Part {
    /// How a version stands, by its first two numbers; a distribution by its name and number.
    pub fn standing(&self, found: &str) -> Standing {
        let Some(found_numbers) = numbers(found).filter(|_| self.least.is_some()) else {
            let is_known = self.tried.contains(&found);
            return if is_known { Standing::Tried } else { Standing::NotTried };
        };
        if self.least.and_then(numbers).is_some_and(|least| found_numbers < least) {
            return Standing::TooOld;
        }
        let tried: Vec<_> = self.tried.iter().filter_map(|text| numbers(text)).collect();
        let two = (found_numbers.0, found_numbers.1);
        let within = tried.iter().any(|it| (it.0, it.1) <= two)
            && tried.iter().any(|it| (it.0, it.1) >= two);
        if within { Standing::Tried } else { Standing::NotTried }
    }

    /// The versions that were tried, for people.
    pub fn tried(&self) -> String {
        self.tried.join(", ")
    }
}

/// The first three numbers of a version, with what is missing as 0: `257 (257.9-1)`, `v1.1.3`, `6.18.44-x`.
fn numbers(text: &str) -> Option<(u32, u32, u32)> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let end = text[start..].find(|c: char| !c.is_ascii_digit() && c != '.');
    let version = &text[start..end.map_or(text.len(), |end| start + end)];
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    Some((parts.next()?, parts.next().unwrap_or(0), parts.next().unwrap_or(0)))
}

/// The table as the docs show it.
pub fn as_markdown() -> String {
    let mut text = "| part | at least | tried with | |\n|---|---|---|---|\n".to_owned();
    for part in TABLE {
        let least = part.least.unwrap_or("–");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {} | {least} | {} | {} |", part.name, part.tried(), part.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_tried_too_old_or_neither() {
        let stands = |name: &str, found: &str| part(name).unwrap().standing(found);
        assert_eq!(stands("systemd", "257 (257.9-1~deb13u1)"), Standing::Tried);
        assert_eq!(stands("systemd", "255.4-1ubuntu8"), Standing::Tried);
        assert_eq!(stands("systemd", "249"), Standing::TooOld);
        assert_eq!(stands("systemd", "999"), Standing::NotTried);
        assert_eq!(stands("kernel", "6.18.44-fc-v1"), Standing::Tried);
        assert_eq!(stands("kernel", "5.4.0-1"), Standing::TooOld);
        assert_eq!(stands("nftables", "nftables v1.0.6 (Lester Gooch)"), Standing::Tried);
        assert_eq!(stands("distribution", "debian 13"), Standing::Tried);
        assert_eq!(stands("distribution", "ubuntu 24.04"), Standing::NotTried);
        assert_eq!(stands("Delve", "1.22.0"), Standing::TooOld);
    }

    #[test]
    fn the_docs_show_this_table() {
        let docs = include_str!("../../../docs/targets.md");
        assert!(docs.contains(&as_markdown()), "put it into docs/targets.md:\n{}", as_markdown());
    }
}
