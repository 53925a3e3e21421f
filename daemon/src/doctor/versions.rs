//! The versions of this host's parts, held against the table of what was tried.

use super::{check, good};
use godebug_api::documents::{Check, Verdict};
use godebug_core::supported::{Standing, part};
use std::fs::File;
use std::io::Read;

/// Those that no other check tells.
pub(super) fn of_the_host() -> Vec<Check> {
    let found = [("distribution", distribution()), ("kernel", kernel()), ("glibc", glibc())];
    let known = found.into_iter().filter_map(|(name, version)| Some((name, version?)));
    known.map(|(name, version)| held_against_the_table(name, &version)).collect()
}

/// Good where it, or one between two that were, was tried; a word of warning else.
pub(super) fn held_against_the_table(name: &str, version: &str) -> Check {
    let Some(part) = part(name) else { return good(name, version) };
    match part.standing(version) {
        Standing::Tried => good(name, version),
        Standing::NotTried => check(
            name,
            Verdict::Warning,
            format!("{version}, which nobody has tried (tried: {})", part.tried()),
            "",
        ),
        Standing::TooOld => {
            let least = part.least.unwrap_or_default();
            let remedy = format!("upgrade it to {least} or later: {}", part.why);
            check(name, Verdict::Warning, format!("{version} is older than {least}"), remedy)
        }
    }
}

/// `debian 13`, as os-release(5) has it.
fn distribution() -> Option<String> {
    let text = text("/etc/os-release", 64 * 1024)?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches(['"', '\'']).to_owned())
    };
    let (id, codename) = (field("ID")?, field("VERSION_CODENAME"));
    // A release in the making has no number yet.
    let version = field("VERSION_ID")
        .or_else(|| codename.filter(|name| name == "forky").map(|_| "14".to_owned()));
    Some(format!("{id} {}", version.unwrap_or_default()).trim().to_owned())
}

fn kernel() -> Option<String> {
    Some(text("/proc/sys/kernel/osrelease", 4096)?.trim().to_owned())
}

/// As the library says of itself; `None` with another C library.
fn glibc() -> Option<String> {
    const WORDS: &[u8] = b"stable release version ";
    let maps = text("/proc/self/maps", 1 << 20)?;
    let path = maps.lines().find(|line| line.ends_with("/libc.so.6"))?.split_once('/')?.1;
    let mut library = Vec::new();
    File::open(format!("/{path}")).ok()?.take(16 << 20).read_to_end(&mut library).ok()?;
    let at = library.windows(WORDS.len()).position(|window| window == WORDS)? + WORDS.len();
    let version = library[at..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.');
    let version: String = version.map(|byte| char::from(*byte)).collect();
    Some(version.trim_end_matches('.').to_owned()).filter(|version| !version.is_empty())
}

/// A small file, as far as it is one.
fn text(path: &str, most: u64) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(most).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_tells_its_kernel_and_its_library() {
        let found: Vec<String> = of_the_host().into_iter().map(|check| check.name).collect();
        assert!(found.contains(&"kernel".to_owned()), "{found:?}");
        assert!(glibc().is_some_and(|version| version.starts_with("2.")), "{:?}", glibc());
    }

    #[test]
    fn what_is_old_or_unknown_is_told_with_a_remedy_or_what_was_tried() {
        let old = held_against_the_table("systemd", "249");
        assert_eq!(old.verdict, Verdict::Warning);
        assert!(old.remedy.contains("252"), "{old:?}");
        let new = held_against_the_table("systemd", "999");
        assert!(new.verdict == Verdict::Warning && new.found.contains("tried: 252"), "{new:?}");
        assert_eq!(held_against_the_table("systemd", "257").verdict, Verdict::Good);
    }
}
