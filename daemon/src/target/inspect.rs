//! `inspect`: what there is to know about a target before anybody attaches to it.

use super::find::{self, Target};
use super::place::Place;
use crate::freeze;
use crate::host::confinement;
use crate::host::systemd::Systemd;
use crate::sessions;
use crate::target::process;
use godebug_api::documents::{DebugInformation, Inspection};
use godebug_api::{Pid, Refusal};

/// The target in `unit`, and what would make attaching to it fail.
///
/// # Errors
/// When there is no Go process in it to look at.
pub async fn inspect(
    systemd: &Systemd,
    place: &Place,
    pid: Option<Pid>,
) -> Result<Inspection, Refusal> {
    let target = find::find(systemd, &place.unit, place.part.as_ref(), pid).await?;
    let debugger = sessions::fitting_debugger(&target).await;
    // In the order in which attaching asks.
    let traceable = find::traceable(&target).and_then(|()| {
        let confinement = confinement::of_this_host()?;
        confinement::lets_debug(target.process.pid, target.unit.as_str(), confinement)
    });
    let tracer = target.process.status().ok().and_then(|status| status.tracer_pid);
    let (path, deleted) = target.process.exe_link().map_err(|error| {
        Refusal::target(format!("{} is just ending: {error}", target.unit), "try again")
    })?;
    let image = match &traceable {
        Ok(()) => sessions::foretell_image(systemd, &target).await,
        Err(refusal) => sessions::no_image(&target, refusal.clone()),
    };
    let refusal = traceable
        .err()
        .or_else(|| debugger.as_ref().err().cloned())
        .or_else(|| without_symbols(&target));
    let executable = &target.executable;
    let work = target.work(None);
    Ok(Inspection {
        pid: target.process.pid,
        others: target.others.iter().map(|pid| find::described(*pid)).collect(),
        user: target.user.name(),
        executable: path.display().to_string(),
        deleted,
        go_version: executable.go_version_text.clone(),
        module: executable.module.clone(),
        module_version: executable.module_version.clone(),
        vcs_revision: executable.vcs_revision().map(str::to_owned),
        vcs_time: executable.vcs_time().map(str::to_owned),
        vcs_modified: executable.vcs_modified(),
        build_settings: executable.build_settings.clone(),
        trimpath: executable.trimpath(),
        sources: executable.sources.clone(),
        optimised: executable.optimised(),
        pie: executable.pie,
        cgo: executable.cgo(),
        debug_information: executable.debug_information,
        debug_bytes: executable.debug_size.expanded,
        freeze_forecast_ms: work.map(freeze::forecast),
        build_id: executable.build_ids.gnu.clone(),
        debugger: debugger.as_ref().ok().map(|d| format!("dlv {} ({})", d.version, d.path)),
        debugger_refusal: debugger.as_ref().err().map(|refusal| refusal.message.clone()),
        traced_by: tracer.map(process::tracer_description),
        watchdog_ms: target.watchdog_usec.map(|usec| usec / 1000),
        refusal,
        image: Some(image),
        unit: target.unit,
        target: target.part,
    })
}

fn without_symbols(target: &Target) -> Option<Refusal> {
    (target.executable.debug_information == DebugInformation::None).then(|| {
        Refusal::target(
            format!("the program of {} has no debug information", target.unit),
            "give the unstripped file of the same build with --symbols FILE",
        )
    })
}
