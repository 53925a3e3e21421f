//! Starts a gateway: takes its configuration from standard input, tells systemd, serves to the end.
//!
//! Exit status: 0 the session is over (deadline or SIGTERM), 1 the gateway could not work, 2 it was
//! not given what it needs.

use godebug_gateway::configuration::{self, Given};
use godebug_gateway::{End, Gateway, Limits, notify};
use rustix::process::DumpableBehavior;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // No core dump and no debugger for the process that holds the key.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    log_to_stderr();
    let given = match configuration::from_stdin() {
        Ok(given) => given,
        Err(error) => return fail(&error, None, 2),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(given)),
        Err(error) => fail(&error, error.raw_os_error(), 1),
    }
}

async fn serve(given: Given) -> ExitCode {
    let (id, port) = (given.config.id.clone(), given.config.port);
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(signal) => signal,
        Err(error) => return fail(&error, error.raw_os_error(), 1),
    };
    let gateway = match Gateway::open(given, Limits::default()) {
        Ok(gateway) => gateway,
        Err(error) => return fail(&error, error.errno(), 1),
    };
    let text = format!("Session {id}: listening on port {port}");
    notify::ready(&text);
    tracing::info!("{text}");
    let stop = async {
        terminate.recv().await;
    };
    match gateway.run(stop).await {
        End::Deadline => tracing::info!("the session's deadline has passed"),
        End::Stopped => tracing::info!("stopped"),
        End::Stuck => {
            notify::failed("dlv does not let the service go on; the session ends", None);
            return ExitCode::FAILURE;
        }
        End::Unrecorded => {
            notify::failed("the transcript cannot be written; the session ends", None);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Says why on standard error and in the unit's status, where the daemon reads it.
fn fail(error: &dyn std::error::Error, errno: Option<i32>, status: u8) -> ExitCode {
    let text = error.to_string();
    tracing::error!("{text}");
    notify::failed(&text, errno);
    ExitCode::from(status)
}

/// The journal has its own time stamps and no use for colours.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("GODEBUG_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
}
