//! Whether a process is in a user namespace that a user has made, as those of rootless containers are: over
//! what is in there the kernel gives that user every capability, tracing included.

use super::process::{Ids, Process};
use godebug_image::raw;
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// Namespaces lie in one another, 32 deep at most (`create_user_ns`, kernel/user_namespace.c).
const DEEPEST: usize = 33;

/// Whether the kernel lets this user do anything with the process, because of where it is, and the process
/// can do nothing outside of there: whoever holds it is nobody there who is not mapped.
///
/// # Errors
/// When the process or its namespace cannot be read.
pub(super) fn belongs_to(process: &Process, uid: u32) -> Result<bool, Box<dyn Error>> {
    let status = process.status()?;
    let is_theirs = outermost_owner(process.open("ns/user")?)? == Some(uid);
    let mapped = |ids: Ids, map: &str| {
        [ids.real, ids.effective, ids.saved].into_iter().all(|id| is_mapped(map, id))
    };
    Ok(is_theirs
        && mapped(status.uid, &process.text("uid_map")?)
        && mapped(status.gid, &process.text("gid_map")?))
}

/// Who made the namespace that lies in this process's own and around the given one. `None` for this
/// process's own.
fn outermost_owner(namespace: File) -> io::Result<Option<u32>> {
    let own = File::open("/proc/self/ns/user")?.metadata()?.ino();
    let mut namespace = OwnedFd::from(namespace);
    if inode(&namespace)? == own {
        return Ok(None);
    }
    for _ in 0..DEEPEST {
        let parent = raw::parent_of_namespace(namespace.as_fd())?;
        if inode(&parent)? == own {
            return Ok(Some(raw::owner_of_namespace(namespace.as_fd())?));
        }
        namespace = parent;
    }
    Ok(None)
}

fn inode(namespace: &OwnedFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(namespace)?.st_ino)
}

/// Whether a user of the host is one of the namespace's: `INSIDE OUTSIDE COUNT` in each line of the map.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (_, Some(Ok(outside)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        let id = u64::from(id);
        id >= outside && id - outside < count
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_tell_who_is_there() {
        const ROOTLESS: &str =
            "         0       1000          1\n         1     100000      65536\n";
        for (id, there) in
            [(1000, true), (100_999, true), (165_536, false), (0, false), (999, false)]
        {
            assert_eq!(is_mapped(ROOTLESS, id), there, "{id}");
        }
        for broken in ["", "0", "0 0", "a b c", "0 -1 5", "0 0 0"] {
            assert!(!is_mapped(broken, 0), "{broken}");
        }
        assert!(is_mapped("0 0 4294967295", u32::MAX - 1));
        assert!(!is_mapped("0 18446744073709551615 1", 0));
    }

    #[test]
    fn ones_own_namespace_is_nobodys() {
        let own = File::open("/proc/self/ns/user").unwrap();
        assert_eq!(outermost_owner(own).unwrap(), None);
        let me = Process::pin(std::process::id().try_into().unwrap()).unwrap();
        let uid = rustix::process::getuid().as_raw();
        assert!(!belongs_to(&me, uid).unwrap());
    }
}
