//! `--symbols`: the debug information of a stripped program: a file, a folder in which it lies by build ID, or
//! what the site's debuginfod has.

use crate::manager::{answer, manager};
use crate::request::open_symbols;
use godebug_api::documents::Inspection;
use godebug_api::{Pid, Refusal, TargetName};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What stands in the place of a path.
const DEBUGINFOD: &str = "debuginfod";

/// Opens it with the rights of the person, so that nobody reads by way of the daemon what they may not read.
///
/// # Errors
/// When there is none.
pub(crate) async fn open(
    path: Option<&Path>,
    unit: &TargetName,
    pid: Option<Pid>,
) -> Result<Option<OwnedFd>, Refusal> {
    let Some(path) = path else { return Ok(None) };
    let found = if path.is_dir() {
        let id = build_id(unit, pid).await?;
        in_folder(path, &id)?
    } else if path == Path::new(DEBUGINFOD) && !path.exists() {
        from_debuginfod(&build_id(unit, pid).await?)?
    } else {
        path.to_owned()
    };
    open_symbols(&found).map(Some)
}

async fn build_id(unit: &TargetName, pid: Option<Pid>) -> Result<String, Refusal> {
    let (unit, pid) = (unit.to_string(), pid.map_or(0, Pid::get));
    let target: Inspection = answer(manager().await?.inspect(&unit, pid).await)?;
    let id = target.build_id.filter(|id| id.len() > 2 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    id.ok_or_else(|| {
        Refusal::target(
            format!(
                "the program of {unit} has no GNU build ID, by which debug information is found"
            ),
            "name its file: --symbols FILE; or build with -ldflags=-B=gobuildid",
        )
    })
}

/// As distributions lay them out below /usr/lib/debug, and as debuginfod's own cache does.
fn in_folder(folder: &Path, id: &str) -> Result<PathBuf, Refusal> {
    let (first, rest) = id.split_at(2);
    let places = [
        folder.join(format!(".build-id/{first}/{rest}.debug")),
        folder.join(format!("{first}/{rest}.debug")),
        folder.join(format!("{id}.debug")),
        folder.join(format!("{id}/debuginfo")),
    ];
    places.into_iter().find(|place| place.is_file()).ok_or_else(|| {
        Refusal::usage(
            format!("{} has nothing for the build ID {id}", folder.display()),
            format!("it is looked for as .build-id/{first}/{rest}.debug, {id}.debug or {id}/debuginfo there"),
        )
    })
}

/// By elfutils' own client, with the servers that DEBUGINFOD_URLS names.
fn from_debuginfod(id: &str) -> Result<PathBuf, Refusal> {
    let asked = Command::new("debuginfod-find")
        .args(["debuginfo", id])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Refusal::host(
                format!("debuginfod-find cannot be run: {error}"),
                "install elfutils' client of debuginfod: apt install debuginfod",
            )
        })?;
    let path = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    if asked.status.success() && !path.is_empty() {
        return Ok(PathBuf::from(path));
    }
    let why = String::from_utf8_lossy(&asked.stderr).trim().to_owned();
    Err(Refusal::host(
        format!("debuginfod has nothing for the build ID {id}: {why}"),
        "does DEBUGINFOD_URLS name a server that has this build?",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layout_is_looked_into() {
        let folder = tempfile::tempdir().unwrap();
        let id = "0123456789abcdef";
        assert!(in_folder(folder.path(), id).unwrap_err().message.contains(id));
        for place in [
            "0123456789abcdef/debuginfo",
            "0123456789abcdef.debug",
            "01/23456789abcdef.debug",
            ".build-id/01/23456789abcdef.debug",
        ] {
            let place = folder.path().join(place);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(&place, "").unwrap();
            assert_eq!(in_folder(folder.path(), id).unwrap(), place);
        }
    }
}
