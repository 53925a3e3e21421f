//! Which processes are in a control group and in the groups below it.

use super::read_at_most;
use godebug_core::Pid;
use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

/// A delegated unit makes groups of its own below its group, so their number is the target's
/// choice. More than these is refused rather than cut short: half a list would make an ambiguous
/// unit look like a clear one.
const DEEPEST: usize = 16;
const MOST_GROUPS: usize = 4096;
const MOST_PROCESSES: usize = 65_536;
/// Seven digits and a line break for each process.
const LONGEST_LIST: u64 = 8 * MOST_PROCESSES as u64;

/// The processes of `control_group` (as systemd names it: `/system.slice/shop.service`) and its
/// descendants, below `root`, which is /sys/fs/cgroup outside tests. In ascending order.
pub fn processes_in_cgroup(root: &Path, control_group: &str) -> io::Result<Vec<Pid>> {
    let top = inside(root, control_group)?;
    let mut found = BTreeSet::new();
    add_processes(&top, &mut found)?;
    let mut waiting = vec![(top, 0)];
    let mut groups = 0;
    while let Some((group, depth)) = waiting.pop() {
        for child in child_groups(&group)? {
            groups += 1;
            if depth == DEEPEST || groups > MOST_GROUPS {
                return Err(too_many("control groups"));
            }
            match add_processes(&child, &mut found) {
                Ok(()) => waiting.push((child, depth + 1)),
                // It was removed meanwhile, which it can only be when it is empty.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// The group's folder. An empty name or one with `..` would lead to other units' processes.
fn inside(root: &Path, control_group: &str) -> io::Result<PathBuf> {
    let relative = Path::new(control_group.trim_start_matches('/'));
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if relative.as_os_str().is_empty() || !plain {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a control group"));
    }
    Ok(root.join(relative))
}

fn add_processes(group: &Path, found: &mut BTreeSet<Pid>) -> io::Result<()> {
    let list = match read_at_most(&group.join("cgroup.procs"), LONGEST_LIST) {
        Ok(list) => list,
        // A threaded group has no list of its own; its processes are in that of the group above.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
        Err(error) => return Err(error),
    };
    found.extend(parse_list(&list));
    if found.len() > MOST_PROCESSES { Err(too_many("processes")) } else { Ok(()) }
}

/// The list's numbers. 0 stands for a process outside the reader's PID namespace.
fn parse_list(list: &[u8]) -> impl Iterator<Item = Pid> {
    list.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok())
}

fn child_groups(group: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
        if children.len() > MOST_GROUPS {
            return Err(too_many("control groups"));
        }
    }
    Ok(children)
}

fn is_gone(error: &io::Error) -> bool {
    // ENODEV is what an open cgroup.procs answers once its group is removed.
    let no_device = error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error());
    error.kind() == io::ErrorKind::NotFound || no_device
}

fn too_many(what: &str) -> io::Error {
    io::Error::other(format!("the unit has too many {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::{create_dir_all, write};

    fn numbers(pids: Vec<Pid>) -> Vec<u32> {
        pids.into_iter().map(Pid::get).collect()
    }

    #[test]
    fn the_group_and_all_below_it_are_listed_and_no_neighbour() {
        let root = tempfile::tempdir().unwrap();
        let unit = root.path().join("system.slice/shop.service");
        create_dir_all(unit.join("a/b")).unwrap();
        create_dir_all(root.path().join("system.slice/other.service")).unwrap();
        write(root.path().join("system.slice/other.service/cgroup.procs"), "99\n").unwrap();
        write(unit.join("cgroup.procs"), "30\n0\n1\n").unwrap();
        write(unit.join("a/cgroup.procs"), "").unwrap();
        write(unit.join("a/b/cgroup.procs"), "20\n30\n").unwrap();
        let found = processes_in_cgroup(root.path(), "/system.slice/shop.service").unwrap();
        assert_eq!(numbers(found), [20, 30]);
    }

    #[test]
    fn a_path_out_of_the_unit_or_a_missing_unit_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        write(root.path().join("cgroup.procs"), "99\n").unwrap();
        for path in ["", "/", "/a/../..", "..", "/gone.service"] {
            assert!(processes_in_cgroup(root.path(), path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_group_nested_too_deeply_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut path = root.path().join("u");
        for _ in 0..=DEEPEST + 1 {
            create_dir_all(&path).unwrap();
            write(path.join("cgroup.procs"), "").unwrap();
            path.push("x");
        }
        let error = processes_in_cgroup(root.path(), "/u").unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
    }

    proptest! {
        #[test]
        fn no_list_makes_it_panic(list: Vec<u8>) {
            parse_list(&list).for_each(drop);
        }
    }
}
