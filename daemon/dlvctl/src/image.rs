//! Becomes the dlv that reads an image. The image stays in memory: dlv opens it by the descriptor that it
//! inherits. The program, which is no secret but may be one that only its own user can open, is copied.

use godebug_api::handover;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Returns only when that fails.
pub(crate) fn read(dlv: &Path, program: &Path, options: &[OsString]) -> io::Error {
    match given(program) {
        Ok(image) => Command::new(dlv)
            .arg("core")
            .arg(program)
            .arg(format!("/proc/self/fd/{}", image.as_raw_fd()))
            .args(["--headless", "--accept-multiclient", "--api-version=2"])
            .args(options)
            .stdin(Stdio::null())
            .exec(),
        Err(error) => error,
    }
}

/// The image, as a descriptor that dlv inherits; the program is where it is to be.
fn given(path: &Path) -> io::Result<OwnedFd> {
    let [image, program] = handover::receive_dump(io::stdin().as_fd())?;
    let mut copy = File::create_new(path)?;
    let mut program = File::from(program);
    program.rewind()?;
    io::copy(&mut program, &mut copy)?;
    rustix::io::fcntl_setfd(&image, rustix::io::FdFlags::empty())?;
    Ok(image)
}
