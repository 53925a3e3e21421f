//! polkit asks for a password through an agent of the person's session. Over ssh there is none, so
//! godebugctl brings one along that asks on its own terminal, as systemctl does.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use std::io::IsTerminal;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = "/usr/bin/pkttyagent";
/// How long it may take to be known to polkit.
const PATIENCE: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };

/// An agent for this process, until it is dropped.
pub(crate) struct Agent(Option<Child>);

impl Agent {
    /// Where somebody can be asked: not root, who never is, nor a script. Another agent that the session
    /// has goes first (`--fallback`).
    pub(crate) fn on_this_terminal() -> Self {
        let person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        let asked = person && !rustix::process::geteuid().is_root() && Path::new(PROGRAM).exists();
        Self(asked.then(start).flatten())
    }
}

/// Without one polkit says itself that there was nobody to ask.
fn start() -> Option<Child> {
    let (known, tells) = std::io::pipe().ok()?;
    fcntl_setfd(&tells, FdFlags::empty()).ok()?;
    let child = Command::new(PROGRAM)
        .args(["--fallback", "--notify-fd", &tells.as_raw_fd().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    drop(tells);
    // It closes its end when polkit knows it.
    let _ = poll(&mut [PollFd::new(&known, PollFlags::IN)], Some(&PATIENCE));
    Some(child)
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
