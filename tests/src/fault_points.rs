//! The product with fault points: a build in which a test can have godebugd, godebug-revoke or godebug-image
//! killed, stopped or held at a named place (daemon/image/src/points.rs).

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Where the programs look for the point that is armed, and leave their trace.
pub const FOLDER: &str = "/run/godebug-faults";
const OUTPUT: &str = "target/faults";
/// All of the product's programs, so that what is broken is one build, whatever was installed.
pub const PROGRAMS: [&str; 7] = [
    "usr/lib/godebug/godebugd",
    "usr/lib/godebug/godebug-revoke",
    "usr/lib/godebug/godebug-image",
    "usr/lib/godebug/godebug-gateway",
    "usr/lib/godebug/godebug-dlvctl",
    "usr/lib/godebug/godebug-toolchain",
    "usr/bin/godebugctl",
];

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Where everything is that has to do with faults: programs, results, journals.
pub fn output() -> PathBuf {
    workspace().join(OUTPUT)
}

/// One of the programs that [`build`] has made, by where a host has it.
pub fn built(program: &str) -> PathBuf {
    output().join("debug").join(Path::new(program).file_name().unwrap_or_default())
}

/// Builds the programs, with fault points where there are any. Dependencies are shared with the ordinary
/// build, the programs themselves are not touched by it nor touch it.
///
/// # Errors
/// When cargo cannot.
pub fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--quiet", "--locked", "-p", "godebug", "-p", "godebug-image"])
        .args(["-p", "godebug-gateway", "-p", "godebug-dlvctl", "-p", "godebugctl"])
        .args(["--features", "godebug/fault-points,godebug-image/fault-points"])
        .args(["--target-dir", OUTPUT, "--config", "build.build-dir=\"target\""])
        .status()
        .context("starting cargo")?;
    ensure!(built.success(), "the programs with fault points cannot be built");
    Ok(())
}
