//! The words that every part of godebug shares, each parsed once where it enters and trusted after.
//!
//! A value of one of these types is valid: a [`UnitName`] can be put into a bus call, a
//! [`SessionId`] into a path, a [`Reason`] into a terminal, without being looked at again.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

/// Why a word was not accepted. The text is one sentence for a person, with the offending value
/// made safe for a terminal and cut short.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WordError(String);

impl WordError {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// `value` as it may be shown in an error: escaped, and no longer than a line.
pub(crate) fn shown(value: &str) -> String {
    const LONGEST: usize = 60;
    let mut text: String =
        value.chars().take(LONGEST).flat_map(char::escape_default).collect::<String>();
    if value.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    format!("\"{text}\"")
}

/// Implements serde by way of `FromStr` and `Display`, so that nothing unparsed gets in by JSON.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The name of an SELinux boolean: 1 to 100 letters, digits and underscores.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BooleanName(String);

impl BooleanName {
    /// The boolean that decides whether any gateway has a network.
    pub const GATEWAY: &str = "debugger_can_network";

    pub fn gateways() -> Self {
        Self(Self::GATEWAY.to_owned())
    }

    pub fn is_gateways(&self) -> bool {
        self.0 == Self::GATEWAY
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BooleanName {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if text.is_empty() || text.len() > 100 || !text.chars().all(allowed) {
            let why = "is no name of an SELinux boolean: letters, digits and _ make one";
            return Err(WordError::new(format!("{} {why}", shown(text))));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for BooleanName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(BooleanName);

/// For how long whoever holds a session may be away before it ends, in seconds: none, or up to ten minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Absence(u32);

impl Absence {
    const LONGEST: u32 = 600;

    pub fn is_none(&self) -> bool {
        self.0 == 0
    }

    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl FromStr for Absence {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let duration = humantime::parse_duration(text).map_err(|error| {
            WordError::new(format!("{} is no duration such as 3m: {error}", shown(text)))
        })?;
        u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).try_into()
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.duration()).fmt(f)
    }
}

impl TryFrom<u32> for Absence {
    type Error = WordError;

    fn try_from(seconds: u32) -> Result<Self, WordError> {
        if seconds > Self::LONGEST {
            let why = format!("nobody may be away for more than {} s", Self::LONGEST);
            return Err(WordError::new(why));
        }
        Ok(Self(seconds))
    }
}

impl From<Absence> for u32 {
    fn from(absence: Absence) -> Self {
        absence.0
    }
}

/// The name of a systemd service or scope, with its suffix: `shop.service`, `app@1.service`.
///
/// At most 255 bytes (systemd's `UNIT_NAME_MAX` is 256 with the terminator) of the characters that
/// systemd allows. `..` is refused although systemd would take it: no real unit has it, and every
/// attempt at a path does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitName(String);

impl UnitName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the unit is a scope, whose processes systemd did not start and has no main PID for.
    pub fn is_scope(&self) -> bool {
        self.0.ends_with(".scope")
    }

    /// The name without its suffix, as people write it.
    pub fn stem(&self) -> &str {
        self.0.rsplit_once('.').map_or(self.0.as_str(), |(stem, _)| stem)
    }
}

impl FromStr for UnitName {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        const OTHER_TYPES: [&str; 9] = [
            ".socket",
            ".timer",
            ".target",
            ".mount",
            ".automount",
            ".path",
            ".slice",
            ".swap",
            ".device",
        ];
        let bad = |why: &str| Err(WordError::new(format!("{} {why}", shown(text))));
        if text.is_empty() {
            return Err(WordError::new("the name of a unit cannot be empty"));
        }
        if text.len() > 255 {
            return bad("is no unit name: it is longer than 255 bytes");
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if let Some(c) = text.chars().find(|c| !allowed(*c)) {
            return bad(&format!("is no unit name: it contains {c:?}"));
        }
        if OTHER_TYPES.iter().any(|suffix| text.ends_with(suffix)) {
            return bad("is neither a service nor a scope; only those have a process to debug");
        }
        let full = if text.ends_with(".service") || text.ends_with(".scope") {
            text.to_owned()
        } else {
            format!("{text}.service")
        };
        // With the suffix: `x.` has two of them then.
        if full.contains("..") {
            return bad("is no unit name: it contains \"..\"");
        }
        let stem = full.rsplit_once('.').map_or("", |(stem, _)| stem);
        if stem.is_empty() || stem.starts_with('@') {
            return bad("is no unit name: there is nothing before the suffix");
        }
        if stem.ends_with('@') {
            return bad("is a template; name an instance of it, such as app@1");
        }
        if full.len() > 255 {
            return bad("is no unit name: it is longer than 255 bytes with its suffix");
        }
        Ok(Self(full))
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(UnitName);

/// A session's name: eight characters of Crockford's base 32 in lower case, 40 random bits.
///
/// It stands in unit names, paths, table names and certificates, so it has no other character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(String);

impl SessionId {
    const LENGTH: usize = 8;
    const ALPHABET: &'static [u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

    /// The ID that these random bytes spell; five of their bits make a character.
    pub fn from_random(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes.iter().map(|b| char::from(Self::ALPHABET[usize::from(b & 31)])).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        if text.len() == Self::LENGTH && text.bytes().all(|b| Self::ALPHABET.contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(WordError::new(format!(
                "{} is no session ID; `godebugctl list` shows them",
                shown(text)
            )))
        }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(SessionId);

/// systemd's name for one run of a unit: 128 bits, new at every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvocationId([u8; 16]);

impl InvocationId {
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl FromStr for InvocationId {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let wrong = || WordError::new(format!("{} is no invocation ID", shown(text)));
        if text.len() != 32 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut bytes = [0; 16];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

serde_as_text!(InvocationId);

/// A process ID as the kernel gives them: 2 to 2^22 (PID 1 is nobody's debugging target).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Pid(u32);

impl Pid {
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Pid {
    type Error = WordError;

    fn try_from(value: u32) -> Result<Self, WordError> {
        // PID_MAX_LIMIT is 4 Mi on 64-bit kernels (proc_sys_kernel(5)).
        if (2..=4_194_304).contains(&value) {
            Ok(Self(value))
        } else {
            Err(WordError::new(format!("{value} is no process ID of a service")))
        }
    }
}

impl From<Pid> for u32 {
    fn from(pid: Pid) -> u32 {
        pid.0
    }
}

impl FromStr for Pid {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        text.parse::<u32>()
            .map_err(|_| WordError::new(format!("{} is no process ID", shown(text))))?
            .try_into()
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A TCP port that a process without capabilities may bind: 1024 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Port(u16);

impl Port {
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Port {
    type Error = WordError;

    fn try_from(value: u16) -> Result<Self, WordError> {
        if value >= 1024 {
            Ok(Self(value))
        } else {
            Err(WordError::new(format!(
                "port {value} is reserved; the gateway has no privilege and needs 1024 to 65535"
            )))
        }
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> u16 {
        port.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long a session may last: one second to 31 days, in whole seconds.
///
/// The site's own bound (`max_ttl`) is lower and is applied by the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(Duration);

impl Default for Ttl {
    /// What a session has when nobody says anything else.
    fn default() -> Self {
        Self(Duration::from_secs(30 * 60))
    }
}

impl Ttl {
    const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

    pub fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<Duration> for Ttl {
    type Error = WordError;

    fn try_from(duration: Duration) -> Result<Self, WordError> {
        let whole = Duration::from_secs(duration.as_secs());
        if whole.is_zero() {
            return Err(WordError::new("a session needs at least one second of time to live"));
        }
        if whole > Self::LONGEST {
            return Err(WordError::new("a session lives 31 days at most"));
        }
        Ok(Self(whole))
    }
}

impl FromStr for Ttl {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let duration = humantime::parse_duration(text).map_err(|error| {
            WordError::new(format!("{} is no duration such as 30m or 1h30m: {error}", shown(text)))
        })?;
        duration.try_into()
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

serde_as_text!(Ttl);

/// What a session may do to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Look at images of the process; the process goes on.
    Observe,
    /// Stop, step and read the live process; change nothing.
    Step,
    /// Anything that dlv can do.
    Modify,
}

impl FromStr for Mode {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "observe" => Ok(Self::Observe),
            "step" => Ok(Self::Step),
            "modify" => Ok(Self::Modify),
            _ => Err(WordError::new(format!(
                "{} is no mode; there are observe, step and modify",
                shown(text)
            ))),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Observe => "observe",
            Self::Step => "step",
            Self::Modify => "modify",
        })
    }
}

/// Where a program that is started for a session stands when its debugger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    /// At its first instruction, before any of Go's or its own code has run.
    Entry,
    /// At its main function: what packages do at their start is done.
    Main,
    /// Nowhere; it runs on.
    Nowhere,
}

impl StartAt {
    /// As `godebug-dlvctl ready` knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Main => "main",
            Self::Nowhere => "nowhere",
        }
    }
}

impl FromStr for StartAt {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let all = [Self::Entry, Self::Main, Self::Nowhere];
        let found = all.into_iter().find(|at| at.as_str() == text);
        found.ok_or_else(|| {
            WordError::new(format!("{} is none of entry, main, nowhere", shown(text)))
        })
    }
}

impl fmt::Display for StartAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a person opens a session: one line of at most 400 characters without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(String);

impl FromStr for Reason {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(WordError::new("the reason is empty"));
        }
        if text.chars().count() > 400 {
            return Err(WordError::new("the reason is longer than 400 characters"));
        }
        // Control and format characters (bidirectional overrides among them) could make the record
        // read as something else than was typed.
        let hides = |c: char| {
            c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
        };
        if text.chars().any(hides) {
            return Err(WordError::new(
                "the reason contains a line break or an invisible character",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(Reason);

/// A network that clients may come from, as `ADDRESS` or `ADDRESS/LENGTH`, host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    pub const LOOPBACK_4: Self = Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), length: 32 };
    pub const LOOPBACK_6: Self = Self { address: IpAddr::V6(Ipv6Addr::LOCALHOST), length: 128 };

    /// The network that holds just this address.
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn length(&self) -> u8 {
        self.length
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether every address in it is a loopback address.
    pub fn is_loopback(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => address.is_loopback() && self.length >= 8,
            IpAddr::V6(address) => address.is_loopback() && self.length == 128,
        }
    }

    /// Whether `address` lies in it; an IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                u32::from(address) & mask == u32::from(network)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                u128::from(address) & mask == u128::from(network)
            }
            _ => false,
        }
    }

    /// Whether every address of `other` lies in it.
    pub fn holds(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// `sources` without repetitions and without those that lie inside another.
    pub fn without_overlaps(sources: &[Self]) -> Vec<Self> {
        let mut kept: Vec<Self> = Vec::new();
        let mut widest_first = sources.to_vec();
        widest_first.sort_by_key(|cidr| (cidr.length, cidr.address));
        for cidr in widest_first {
            if !kept.iter().any(|wider| wider.contains(cidr.address)) {
                kept.push(cidr);
            }
        }
        kept.sort();
        kept
    }
}

impl FromStr for Cidr {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let wrong = |why: &str| WordError::new(format!("{} {why}", shown(text)));
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| wrong("is no address or network such as 10.1.2.3 or 10.1.0.0/16"))?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => widest,
            Some(digits) => digits
                .parse::<u8>()
                .ok()
                .filter(|length| *length <= widest)
                .ok_or_else(|| wrong(&format!("needs a prefix length of 0 to {widest}")))?,
        };
        if length == 0 {
            return Err(wrong("means the whole internet; name the network that you come from"));
        }
        let cidr = Self { address, length };
        let host_bits_zero = match address {
            IpAddr::V4(a) => u32::from(a).trailing_zeros() >= 32 - u32::from(length),
            IpAddr::V6(a) => u128::from(a).trailing_zeros() >= 128 - u32::from(length),
        };
        if host_bits_zero { Ok(cidr) } else { Err(wrong("has bits set beyond its prefix length")) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

serde_as_text!(Cidr);

/// What somebody is called who is let into another's session. Not their user name: nobody has checked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestName(String);

impl FromStr for GuestName {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        // It stands in a certificate beside the name of whoever lets them in.
        let known = |c: char| c.is_ascii_alphanumeric() || "._-@+".contains(c);
        if text.is_empty() || text.len() > 24 || !text.chars().all(known) {
            return Err(WordError::new(format!(
                "{} is no name for a guest: at most 24 letters, digits and . _ - @ +",
                shown(text)
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for GuestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(GuestName);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unit_names_get_their_suffix_and_hostile_ones_are_refused() {
        assert_eq!("myapp".parse::<UnitName>().unwrap().as_str(), "myapp.service");
        assert_eq!("app@1".parse::<UnitName>().unwrap().as_str(), "app@1.service");
        assert_eq!("run-1.scope".parse::<UnitName>().unwrap().as_str(), "run-1.scope");
        for bad in ["", "a/b", "../x", "a..b", "a\nb", "x.socket", "app@", ".service", "a b", "ä"]
        {
            assert!(bad.parse::<UnitName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(10_000).parse::<UnitName>().is_err());
        assert!("x".repeat(250).parse::<UnitName>().is_err());
    }

    #[test]
    fn an_error_shows_a_hostile_value_harmlessly() {
        let text = "a\u{1b}[2Jb".parse::<UnitName>().unwrap_err().to_string();
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!("x".repeat(10_000).parse::<UnitName>().unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn ttl_has_bounds() {
        assert_eq!("30m".parse::<Ttl>().unwrap().get(), Duration::from_secs(1800));
        for bad in ["0", "0s", "400d", "10ms", "-5m", "nonsense", ""] {
            assert!(bad.parse::<Ttl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cidr_parses_and_contains() {
        let net: Cidr = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.200.3".parse().unwrap()));
        assert!(net.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!net.contains("10.2.0.1".parse().unwrap()));
        for bad in ["nonsense", "10.1.2.3/8", "1.2.3.4/33", "0.0.0.0/0", "::/0", "1.2.3.4/", "/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn overlapping_sources_are_folded() {
        let all: Vec<Cidr> = ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "fd00::1"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let kept = Cidr::without_overlaps(&all);
        assert_eq!(
            kept.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.0/8", "fd00::1/128"]
        );
    }

    proptest! {
        #[test]
        fn a_unit_name_that_parses_is_safe_in_a_path(text in ".{0,300}") {
            if let Ok(unit) = text.parse::<UnitName>() {
                prop_assert!(unit.as_str().len() <= 255);
                prop_assert!(!unit.as_str().contains('/') && !unit.as_str().contains(".."));
                prop_assert_eq!(unit.as_str().parse::<UnitName>().unwrap(), unit);
            }
        }

        #[test]
        fn session_ids_read_back(bytes: [u8; 8]) {
            let id = SessionId::from_random(bytes);
            prop_assert_eq!(id.as_str().parse::<SessionId>().unwrap(), id);
        }

        #[test]
        fn a_cidr_contains_its_own_address(a: u32, length in 1u8..=32) {
            let mask = u32::MAX << (32 - u32::from(length));
            let cidr: Cidr = format!("{}/{length}", Ipv4Addr::from(a & mask)).parse().unwrap();
            prop_assert!(cidr.contains(IpAddr::V4(Ipv4Addr::from(a))));
            prop_assert_eq!(cidr.to_string().parse::<Cidr>().unwrap(), cidr);
        }
    }
}
