//! `core`: lists the core dumps of a unit and the images that are kept of it, or opens a session on one.

use crate::attach;
use crate::cli::Core;
use crate::manager::{answer, manager};
use crate::output::Output;
use crate::terminal::{safe, table};
use godebug_api::documents::{KeptDump, SessionInfo};
use godebug_api::forecast::megabytes;
use godebug_api::{Dump, ImageName, Pid, Refusal, UnitName, WordError};

pub(crate) async fn core(output: &Output, arguments: &Core) -> Result<(), Refusal> {
    if arguments.which.contains('#') {
        return image(output, arguments).await;
    }
    let which = match arguments.which.parse::<Pid>() {
        Ok(pid) => pid.to_string(),
        Err(_) => {
            let unit = arguments.which.parse::<UnitName>().map_err(not_a_unit)?;
            if !arguments.list {
                // godebugd finds it: who may read one need not be told of all.
                let attach = arguments.as_attach(&unit, (arguments.pid, None));
                return attach::open(output, &attach, None).await;
            }
            unit.to_string()
        }
    };
    let dumps: Vec<KeptDump> = answer(manager().await?.dumps(&which).await)?;
    if arguments.list {
        return output.result(&dumps, &listed(&dumps));
    }
    let Some(dump) = dumps.first() else {
        return Err(Refusal::target(
            format!("systemd-coredump has no dump of {which}"),
            "see `coredumpctl list`; a Go program dumps core with GOTRACEBACK=crash, and where LimitCORE= lets it",
        ));
    };
    let which = (Some(dump.dump.pid), None);
    attach::open(output, &arguments.as_attach(&dump.unit, which), None).await
}

/// One that a session has kept: its unit is that session's.
async fn image(output: &Output, arguments: &Core) -> Result<(), Refusal> {
    let wrong = |why: String| {
        Refusal::usage(
            why,
            "`godebugctl core UNIT --list` shows the images of a unit that are kept",
        )
    };
    let name: ImageName =
        arguments.which.parse().map_err(|error: WordError| wrong(error.to_string()))?;
    if arguments.list || arguments.pid.is_some() || arguments.executable.is_some() {
        return Err(wrong(format!(
            "{name} is one image: --list, --pid and --executable are for dumps"
        )));
    }
    let session: SessionInfo = answer(manager().await?.get(name.session.as_str()).await)?;
    let attach = arguments.as_attach(&session.unit, (None, Some(name)));
    attach::open(output, &attach, None).await
}

fn not_a_unit(error: godebug_api::WordError) -> Refusal {
    Refusal::usage(error.to_string(), "name a unit, or the PID of the process that crashed")
}

fn listed(dumps: &[KeptDump]) -> String {
    if dumps.is_empty() {
        return "no core dumps, and no images".to_owned();
    }
    let mut rows =
        vec![["TIME", "UNIT", "PID", "WHAT", "SIZE", "PROGRAM"].map(str::to_owned).to_vec()];
    rows.extend(dumps.iter().map(|kept| {
        let dump = &kept.dump;
        let size = match &kept.missing {
            None => megabytes(dump.stored_bytes),
            Some(why) => safe(why),
        };
        vec![
            dump.time.clone(),
            kept.unit.to_string(),
            dump.pid.to_string(),
            what(dump),
            size,
            safe(&dump.executable),
        ]
    }));
    table(&rows)
}

/// The signal, or the image by the name that opens it.
fn what(dump: &Dump) -> String {
    match &dump.image {
        None => safe(&dump.signal),
        Some(image) => format!("image {} at {}", image.name, safe(&image.place)),
    }
}
