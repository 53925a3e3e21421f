//! godebugd: decides, takes grants, gives them back, records. Started by the bus when it is asked
//! for, gone again when there is nothing to do; sessions outlive it.

use godebug::bus::{Activity, Manager, publish};
use godebug::config::Config;
use godebug::host::RealHost;
use godebug::sessions::Sessions;
use godebug::{hooks, logging, paths, watch};
use godebug_api::{BUS_NAME, MANAGER_PATH};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use zbus::Connection;

fn main() -> ExitCode {
    logging::start();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("godebugd cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("godebugd ends: {error}");
            ExitCode::FAILURE
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn serve() -> Result<(), AnyError> {
    let connection = Connection::system().await?;
    let host = RealHost::on_bus(&connection).await?;
    let group = nix::unistd::Group::from_name(paths::SESSION_GROUP)?.ok_or_else(|| {
        format!("there is no group {}; systemd-sysusers makes it", paths::SESSION_GROUP)
    })?;
    let (news, heard) = mpsc::unbounded_channel();
    let sessions = Sessions::new(host, connection.clone(), group.gid.as_raw(), news);
    let activity = Activity::new();
    let manager = Manager::new(sessions.clone(), activity.clone());
    connection.object_server().at(MANAGER_PATH, manager).await?;
    connection.object_server().at(MANAGER_PATH, zbus::fdo::ObjectManager).await?;
    let lost = watch::start(&connection, &sessions).await?;
    tokio::spawn(publish(connection.clone(), heard));
    // Before the name is taken: nobody is answered with half of the truth.
    sessions.recover().await;
    connection.request_name(BUS_NAME).await?;
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    let idle_exit = Config::load().unwrap_or_default().idle_exit;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = idle(&sessions, &activity, idle_exit) => {}
        _ = terminate.recv() => {}
        // Without its bus it can neither be asked nor watch; the next one takes the sessions over.
        () = lost => return Err("the system bus is gone".into()),
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    connection.release_name(BUS_NAME).await?;
    // Calls that came before the name was released are answered still.
    while activity.idle_for().is_zero() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _ = tokio::task::spawn_blocking(hooks::wait_for_all).await;
    Ok(())
}

/// Returns when there is no session and nobody has asked for anything for this long.
async fn idle(sessions: &Sessions, activity: &Activity, long: Duration) {
    loop {
        let rest = long.saturating_sub(activity.idle_for());
        if rest.is_zero() && sessions.is_empty() {
            return;
        }
        tokio::time::sleep(rest.max(Duration::from_secs(1))).await;
    }
}
