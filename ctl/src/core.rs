//! `core`: lists the core dumps of a unit, or opens a session on one.

use crate::attach;
use crate::cli::Core;
use crate::manager::{answer, manager};
use crate::output::Output;
use crate::terminal::{safe, table};
use godebug_api::documents::KeptDump;
use godebug_api::forecast::megabytes;
use godebug_api::{Pid, Refusal, UnitName};

pub(crate) async fn core(output: &Output, arguments: &Core) -> Result<(), Refusal> {
    let which = match arguments.which.parse::<Pid>() {
        Ok(pid) => pid.to_string(),
        Err(_) => {
            let unit = arguments.which.parse::<UnitName>().map_err(not_a_unit)?;
            if !arguments.list {
                // godebugd finds it: who may read one need not be told of all.
                let attach = arguments.as_attach(&unit, arguments.pid);
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
    attach::open(output, &arguments.as_attach(&dump.unit, Some(dump.dump.pid)), None).await
}

fn not_a_unit(error: godebug_api::WordError) -> Refusal {
    Refusal::usage(error.to_string(), "name a unit, or the PID of the process that crashed")
}

fn listed(dumps: &[KeptDump]) -> String {
    if dumps.is_empty() {
        return "no core dumps".to_owned();
    }
    let mut rows =
        vec![["TIME", "UNIT", "PID", "SIGNAL", "SIZE", "PROGRAM"].map(str::to_owned).to_vec()];
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
            safe(&dump.signal),
            size,
            safe(&dump.executable),
        ]
    }));
    table(&rows)
}
