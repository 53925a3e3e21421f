//! Runs a program as a user that the host's database does not know, such as one of a container's image:
//! systemd starts nothing as one of those, and /proc lets nobody else read what dlv needs of a process.

use rustix::fs::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// All that is left: what dlv's unit has for every other user too.
const KEPT: CapabilitySet = CapabilitySet::SYS_PTRACE;
/// Only needed to become somebody else.
const DROPPED: [CapabilitySet; 3] =
    [CapabilitySet::SETUID, CapabilitySet::SETGID, CapabilitySet::SETPCAP];

/// Becomes this user, keeps the group by which sessions' halves meet and no capability but
/// CAP_SYS_PTRACE, and runs the program. Returns only when that fails.
///
/// This process has one thread, so what is changed for the thread is changed for all of it.
pub(crate) fn run(uid: u32, gid: u32, command: &[OsString]) -> io::Error {
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no program is named");
    };
    match become_user(uid, gid) {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    }
}

fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    if uid == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "root needs none of this"));
    }
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let groups = rustix::process::getgroups()?;
    let kept: Vec<Gid> = groups.into_iter().filter(|group| !group.is_root()).collect();
    set_thread_groups(&kept)?;
    set_thread_res_gid(group, group, group)?;
    for capability in DROPPED {
        remove_capability_from_bounding_set(capability)?;
    }
    set_keep_capabilities(true)?;
    set_thread_res_uid(user, user, user)?;
    set_capabilities(None, CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: KEPT })?;
    configure_capability_in_ambient_set(KEPT, true)?;
    Ok(())
}
