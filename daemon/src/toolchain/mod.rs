//! The dlv's that an administrator has godebug keep beside each other, one for each generation of Go: put
//! there from a module proxy, a package or a file, pinned by hash, and told apart from what changed since.

mod add;
mod pins;
mod plan;

pub use add::{Origin, add};
pub use pins::{Pinned, check};
pub use plan::plan;

use crate::paths;
use crate::sessions::all_debuggers;
use godebug_api::Refusal;
use godebug_api::toolchain::{Dlv, DlvState};
use godebug_core::delve::{DelveVersion, supported_go};
use std::path::{Path, PathBuf};

/// Where they lie, each in a folder with its version for a name.
pub fn folder() -> PathBuf {
    Path::new(paths::VENDOR).join("delve")
}

fn place_of(version: DelveVersion) -> PathBuf {
    folder().join(version.to_string())
}

/// Every dlv of this host, with what is known of it.
pub async fn list() -> Vec<Dlv> {
    let search = all_debuggers().await;
    let used = search.found.into_iter().map(|debugger| {
        let (state, pin, why) = match pins::check(Path::new(&debugger.path)) {
            Ok(Pinned::As(pin)) => (DlvState::Pinned, Some(pin), None),
            Ok(Pinned::Not) => (DlvState::NotPinned, None, None),
            // The program is what godebugd has looked at, so it is the pin that was changed since.
            Err(why) => (DlvState::Changed, None, Some(why)),
        };
        Dlv {
            path: debugger.path,
            version: Some(debugger.version),
            go: supported_go(debugger.version),
            built_with: debugger.built_with,
            state,
            pin,
            why,
        }
    });
    let unused = search.skipped.into_iter().map(|(path, why)| {
        let changed = pins::check(&path).is_err();
        Dlv {
            path: path.display().to_string(),
            version: None,
            go: None,
            built_with: None,
            state: if changed { DlvState::Changed } else { DlvState::Unusable },
            pin: pins::read(&path).ok().flatten(),
            why: Some(why),
        }
    });
    used.chain(unused).collect()
}

/// Takes one away that was added.
///
/// # Errors
/// When there is none, or when it was not added but put there by somebody else.
pub fn remove(version: DelveVersion) -> Result<PathBuf, Refusal> {
    let place = place_of(version);
    let dlv = place.join("dlv");
    match pins::read(&dlv) {
        Ok(Some(_)) => {}
        _ if !dlv.exists() => {
            return Err(Refusal::usage(
                format!("there is no Delve {version} in {}", folder().display()),
                "`godebugctl toolchain list` shows those that there are",
            ));
        }
        Ok(None) | Err(_) => {
            return Err(Refusal::host(
                format!("{} was not added by `godebugctl toolchain add`", dlv.display()),
                "remove it the way in which it came there",
            ));
        }
    }
    std::fs::remove_dir_all(&place).map_err(|error| {
        Refusal::host(format!("{} cannot be removed: {error}", place.display()), "be root")
    })?;
    Ok(place)
}
