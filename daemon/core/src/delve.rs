//! Which dlv can debug which Go program.
//!
//! dlv does not check this itself when it attaches (`--check-go-version` covers launches only), and
//! an unfit one attaches and then fails at the first breakpoint, with the target stopped. The table
//! is that of Delve's `pkg/goversion/compat.go` at each release, read up to v1.27.1.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A version of dlv: `1.24.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DelveVersion {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl DelveVersion {
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

/// A Go release, `go1.24.4` or `go1.25rc1`; what follows the minor number does not decide anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GoVersion {
    pub major: u32,
    pub minor: u32,
}

impl GoVersion {
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

/// A text that is not the version it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a version")]
pub struct NotAVersion;

impl FromStr for DelveVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        // Pre-releases (`1.25.0-rc.1`) count as the release they lead to.
        let text = text.split(['-', '+', '~']).next().unwrap_or("");
        let mut parts = text.split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), patch, None) => match patch {
                None => Ok(Self { major, minor, patch: 0 }),
                Some(Ok(patch)) => Ok(Self { major, minor, patch }),
                Some(Err(_)) => Err(NotAVersion),
            },
            _ => Err(NotAVersion),
        }
    }
}

impl FromStr for GoVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        // Also seen: `go1.24.4 X:nocoverageredesign`, `devel go1.28-0123abcd Mon …`.
        let start = text.find("go").ok_or(NotAVersion)? + 2;
        let mut parts = text[start..].splitn(3, '.');
        let major = parts.next().and_then(|part| part.parse().ok()).ok_or(NotAVersion)?;
        let minor = parts.next().ok_or(NotAVersion)?;
        let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        let minor = minor[..digits].parse().map_err(|_| NotAVersion)?;
        Ok(Self { major, minor })
    }
}

impl fmt::Display for DelveVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

macro_rules! string_conversions {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = NotAVersion;
            fn try_from(text: String) -> Result<Self, NotAVersion> {
                text.parse()
            }
        }
    };
}

string_conversions!(DelveVersion);
string_conversions!(GoVersion);

impl From<DelveVersion> for String {
    fn from(version: DelveVersion) -> Self {
        version.to_string()
    }
}

impl From<GoVersion> for String {
    fn from(version: GoVersion) -> Self {
        format!("go{version}")
    }
}

/// The first version that listens on a Unix socket (delve#3655, #3658).
pub const FIRST_WITH_UNIX_SOCKET: DelveVersion = DelveVersion::new(1, 22, 1);

/// Go's minor versions supported from each release of Delve on: (from, oldest, newest).
const SUPPORTED: &[(DelveVersion, u32, u32)] = &[
    (DelveVersion::new(1, 20, 0), 18, 20),
    (DelveVersion::new(1, 21, 0), 18, 21),
    (DelveVersion::new(1, 21, 1), 19, 21),
    (DelveVersion::new(1, 22, 0), 19, 22),
    (DelveVersion::new(1, 23, 0), 21, 23),
    (DelveVersion::new(1, 24, 0), 21, 24),
    (DelveVersion::new(1, 25, 0), 21, 24),
    (DelveVersion::new(1, 25, 1), 22, 25),
    (DelveVersion::new(1, 26, 0), 24, 26),
    (DelveVersion::new(1, 27, 0), 25, 27),
];

/// The last release of each minor version, and the last that supports an old Go where a later one of the
/// same minor version does not; oldest first.
pub const RELEASES: [DelveVersion; 7] = [
    FIRST_WITH_UNIX_SOCKET,
    DelveVersion::new(1, 23, 1),
    DelveVersion::new(1, 24, 2),
    DelveVersion::new(1, 25, 0),
    DelveVersion::new(1, 25, 2),
    DelveVersion::new(1, 26, 3),
    DelveVersion::new(1, 27, 1),
];

/// The Go versions that `delve` supports, oldest and newest; `None` before 1.20, whose Unix socket
/// is missing anyway.
///
/// Since 1.26 each release supports the Go release of its own number and the two before it; a
/// release newer than this table is taken to do the same.
pub fn supported_go(delve: DelveVersion) -> Option<(GoVersion, GoVersion)> {
    if delve >= DelveVersion::new(1, 28, 0) {
        let newest = delve.minor;
        return Some((GoVersion::new(1, newest - 2), GoVersion::new(1, newest)));
    }
    let row = SUPPORTED.iter().rev().find(|(from, ..)| delve >= *from)?;
    Some((GoVersion::new(1, row.1), GoVersion::new(1, row.2)))
}

/// A dlv found on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debugger {
    pub path: String,
    pub version: DelveVersion,
    /// The Go release it was built with; decides whether it reads DWARF 5.
    pub built_with: Option<GoVersion>,
}

impl Debugger {
    /// Why it cannot debug a program built with `go`; `None` when it can.
    pub fn unfit_for(&self, go: GoVersion, dwarf5: bool) -> Option<String> {
        if self.version < FIRST_WITH_UNIX_SOCKET {
            return Some(format!(
                "it cannot listen on a Unix socket (since {FIRST_WITH_UNIX_SOCKET})"
            ));
        }
        let (oldest, newest) = supported_go(self.version)?;
        if go < oldest || go > newest {
            return Some(format!("it supports Go {oldest} to {newest}"));
        }
        // compat.go: "To debug executables using DWARFv5 or later Delve must be built with Go
        // version 1.25.0 or later".
        if dwarf5 && self.built_with.is_some_and(|built| built < GoVersion::new(1, 25)) {
            return Some(
                "it was built with a Go older than 1.25 and cannot read DWARF 5".to_owned(),
            );
        }
        None
    }
}

/// The newest of `found` that can debug a program built with `go`, or why each cannot.
pub fn choose(
    found: &[Debugger],
    go: GoVersion,
    dwarf5: bool,
) -> Result<&Debugger, Vec<(&Debugger, String)>> {
    let fitting = found.iter().filter(|debugger| debugger.unfit_for(go, dwarf5).is_none());
    fitting.max_by_key(|debugger| debugger.version).ok_or_else(|| {
        found
            .iter()
            .filter_map(|debugger| Some((debugger, debugger.unfit_for(go, dwarf5)?)))
            .collect()
    })
}

/// The newest release of Delve for programs of a Go, of those that godebug can work with.
pub fn release_for(go: GoVersion) -> Option<DelveVersion> {
    let fits = |version: &DelveVersion| {
        let probe = Debugger { path: String::new(), version: *version, built_with: None };
        probe.unfit_for(go, false).is_none()
    };
    RELEASES.iter().rev().copied().find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_for_a_go_is_named() {
        let named = |minor| release_for(GoVersion::new(1, minor)).map(|it| it.to_string());
        for (minor, wanted) in [
            (19, Some("1.22.1")),
            (21, Some("1.25.0")),
            (22, Some("1.25.2")),
            (24, Some("1.26.3")),
            (27, Some("1.27.1")),
            (17, None),
            (28, None),
        ] {
            assert_eq!(named(minor).as_deref(), wanted, "Go 1.{minor}");
        }
    }

    fn debugger(version: &str) -> Debugger {
        Debugger {
            path: format!("/d/{version}"),
            version: version.parse().unwrap(),
            built_with: Some(GoVersion::new(1, 24)),
        }
    }

    #[test]
    fn versions_parse_as_the_tools_print_them() {
        let go = |text: &str| text.parse::<GoVersion>().unwrap();
        assert_eq!(go("go1.19.8"), GoVersion::new(1, 19));
        assert_eq!(go("go1.25rc1"), GoVersion::new(1, 25));
        assert_eq!(go("devel go1.28-0123abcd Mon Nov 2"), GoVersion::new(1, 28));
        assert_eq!(go("go1.24.4 X:synctest"), GoVersion::new(1, 24));
        assert!("1.24".parse::<GoVersion>().is_err());
        assert_eq!("1.27.1".parse(), Ok(DelveVersion::new(1, 27, 1)));
        assert!("1.x".parse::<DelveVersion>().is_err());
    }

    #[test]
    fn the_newest_fitting_dlv_is_chosen() {
        let found = [debugger("1.20.2"), debugger("1.24.0"), debugger("1.27.1")];
        let chosen =
            |minor| choose(&found, GoVersion::new(1, minor), false).map(|d| d.path.as_str());
        assert_eq!(chosen(24), Ok("/d/1.24.0"));
        assert_eq!(chosen(25), Ok("/d/1.27.1"));
        let why = choose(&found, GoVersion::new(1, 19), false).unwrap_err();
        assert_eq!(why.len(), 3);
        assert!(why[0].1.contains("Unix socket"), "{why:?}");
    }

    #[test]
    fn dwarf5_needs_a_dlv_built_with_a_newer_go() {
        let mut dlv = debugger("1.27.1");
        assert!(dlv.unfit_for(GoVersion::new(1, 25), true).is_some());
        dlv.built_with = Some(GoVersion::new(1, 27));
        assert_eq!(dlv.unfit_for(GoVersion::new(1, 25), true), None);
    }
}
