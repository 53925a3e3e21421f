//! systemd over D-Bus: units started, stopped and read.
//!
//! For godebugd, which is on the bus; godebug-revoke, which must do without, has `systemctl`.

use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::Duration;
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant, Variant};

/// The properties of a transient unit, in the order they are set.
pub type Properties = Vec<(&'static str, Variant<'static>)>;

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    #[error("systemd cannot be reached: {0}")]
    Unreachable(zbus::Error),
    #[error("systemd refused {what}: {why}")]
    Refused { what: String, why: String },
    #[error("{unit} did not start: its job ended as \"{result}\"")]
    Job { unit: String, result: String },
    #[error("systemd gave no answer about {unit} within {} s", .after.as_secs())]
    TimedOut { unit: String, after: Duration },
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<
        Vec<(
            String,
            String,
            String,
            String,
            String,
            String,
            OwnedObjectPath,
            u32,
            String,
            OwnedObjectPath,
        )>,
    >;
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn userspace_timestamp_monotonic(&self) -> zbus::Result<u64>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
    #[zbus(signal)]
    fn unit_removed(&self, id: &str, unit: ObjectPath<'_>) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.DBus.Properties",
    default_service = "org.freedesktop.systemd1"
)]
trait UnitProperties {
    fn get(&self, interface: &str, name: &str) -> zbus::Result<OwnedVariant>;
    fn get_all(&self, interface: &str) -> zbus::Result<HashMap<String, OwnedVariant>>;
}

/// A connection to systemd.
#[derive(Clone)]
pub struct Systemd {
    manager: ManagerProxy<'static>,
    connection: Connection,
}

impl Systemd {
    /// Over a bus that the caller is already on.
    ///
    /// # Errors
    /// When systemd does not answer there.
    pub async fn on_bus(connection: &Connection) -> Result<Self, SystemdError> {
        let systemd = Self::new(connection).await?;
        // Without a subscriber systemd sends no JobRemoved.
        systemd.manager.subscribe().await.map_err(SystemdError::Unreachable)?;
        Ok(systemd)
    }

    async fn new(connection: &Connection) -> Result<Self, SystemdError> {
        let manager = ManagerProxy::builder(connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(SystemdError::Unreachable)?;
        Ok(Self { manager, connection: connection.clone() })
    }

    pub fn manager(&self) -> &ManagerProxy<'static> {
        &self.manager
    }

    /// Starts a transient unit and waits until its job is done: for a service of `Type=exec` or
    /// `notify` that means it runs, with its ExecStartPost finished.
    ///
    /// # Errors
    /// When systemd refuses, when the job fails, or after `timeout`.
    pub async fn start_transient(
        &self,
        name: &str,
        properties: Properties,
        aux: Vec<(&str, Properties)>,
        timeout: Duration,
    ) -> Result<(), SystemdError> {
        // Subscribed before the call: the job may be done before its path is known here.
        let mut removed =
            self.manager.receive_job_removed().await.map_err(SystemdError::Unreachable)?;
        let job = self
            .manager
            .start_transient_unit(name, "fail", &properties, &aux)
            .await
            .map_err(|error| refused(&format!("to start {name}"), error))?;
        let waited = tokio::time::timeout(timeout, async {
            while let Some(signal) = removed.next().await {
                let Ok(arguments) = signal.args() else { continue };
                if arguments.job == *job {
                    return Some(arguments.result.to_owned());
                }
            }
            None
        });
        match waited.await {
            Ok(Some(result)) if result == "done" => Ok(()),
            Ok(Some(result)) => Err(SystemdError::Job { unit: name.to_owned(), result }),
            Ok(None) => Err(SystemdError::Unreachable(zbus::Error::InputOutput(
                std::io::Error::from(std::io::ErrorKind::ConnectionReset).into(),
            ))),
            Err(_) => Err(SystemdError::TimedOut { unit: name.to_owned(), after: timeout }),
        }
    }

    /// Starts a unit, or starts it again, and gives what becomes of that: `done`, or how it failed.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn restart(
        &self,
        name: &str,
    ) -> Result<impl Future<Output = Option<String>> + use<>, SystemdError> {
        let mut removed =
            self.manager.receive_job_removed().await.map_err(SystemdError::Unreachable)?;
        let restarted = self.manager.restart_unit(name, "replace").await;
        let job = restarted.map_err(|error| refused(&format!("to start {name}"), error))?;
        Ok(async move {
            while let Some(signal) = removed.next().await {
                let Ok(arguments) = signal.args() else { continue };
                if arguments.job == *job {
                    return Some(arguments.result.to_owned());
                }
            }
            None
        })
    }

    /// Stops a unit and waits until it is gone. A unit that is not there is a success.
    ///
    /// # Errors
    /// When systemd refuses, or after `timeout`.
    pub async fn stop(&self, name: &str, timeout: Duration) -> Result<(), SystemdError> {
        let mut removed =
            self.manager.receive_job_removed().await.map_err(SystemdError::Unreachable)?;
        let job = match self.manager.stop_unit(name, "replace").await {
            Ok(job) => job,
            Err(error) if is_no_such_unit(&error) => return Ok(()),
            Err(error) => return Err(refused(&format!("to stop {name}"), error)),
        };
        let waited = tokio::time::timeout(timeout, async {
            while let Some(signal) = removed.next().await {
                if signal.args().is_ok_and(|arguments| arguments.job == *job) {
                    break;
                }
            }
        });
        waited
            .await
            .map_err(|_| SystemdError::TimedOut { unit: name.to_owned(), after: timeout })?;
        // A transient unit that failed stays in memory until somebody has seen its failure; ours
        // are in the journal and the audit log. Not being there any more is fine.
        let _ = self.manager.reset_failed_unit(name).await;
        Ok(())
    }

    /// Lets a unit's processes go on that somebody has stopped; best effort.
    pub async fn continue_unit(&self, name: &str) {
        const SIGCONT: i32 = 18;
        // There is no such unit, or no process in it: both need nothing.
        let _ = self.manager.kill_unit(name, "all", SIGCONT).await;
    }

    /// The state of a unit, `None` when systemd has no unit of that name in memory.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn active_state(&self, name: &str) -> Result<Option<String>, SystemdError> {
        let listed = self
            .manager
            .list_units_by_patterns(&[], &[name])
            .await
            .map_err(SystemdError::Unreachable)?;
        Ok(listed
            .into_iter()
            .find(|unit| unit.0 == name && unit.2 != "not-found")
            .map(|unit| unit.3))
    }

    /// Whether a unit is being stopped, or is about to be, if only to be started again.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn is_stopping(&self, name: &str) -> Result<bool, SystemdError> {
        let listed = self
            .manager
            .list_units_by_patterns(&[], &[name])
            .await
            .map_err(SystemdError::Unreachable)?;
        // The job's type is the last but one.
        Ok(listed.into_iter().any(|unit| {
            unit.0 == name
                && (unit.3 == "deactivating" || matches!(unit.8.as_str(), "stop" | "restart"))
        }))
    }

    /// The names of all units that match.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn matching(&self, pattern: &str) -> Result<Vec<String>, SystemdError> {
        let listed = self
            .manager
            .list_units_by_patterns(&[], &[pattern])
            .await
            .map_err(SystemdError::Unreachable)?;
        Ok(listed.into_iter().map(|unit| unit.0).collect())
    }

    /// The properties of a unit: those of every unit, and those of its type.
    ///
    /// # Errors
    /// When systemd does not answer or knows no such name.
    pub async fn properties(&self, name: &str) -> Result<UnitFacts, SystemdError> {
        let path = self
            .manager
            .load_unit(name)
            .await
            .map_err(|error| refused(&format!("to load {name}"), error))?;
        let proxy = UnitPropertiesProxy::builder(&self.connection)
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(SystemdError::Unreachable)?;
        let kind = if name.ends_with(".scope") { "Scope" } else { "Service" };
        let mut all = proxy
            .get_all("org.freedesktop.systemd1.Unit")
            .await
            .map_err(SystemdError::Unreachable)?;
        let typed = proxy.get_all(&format!("org.freedesktop.systemd1.{kind}")).await;
        all.extend(typed.unwrap_or_default());
        Ok(UnitFacts { values: all })
    }
}

/// The properties of one unit, as systemd gave them.
#[derive(Debug)]
pub struct UnitFacts {
    values: HashMap<String, OwnedVariant>,
}

impl UnitFacts {
    pub fn text(&self, name: &str) -> String {
        self.values
            .get(name)
            .and_then(|value| <&str>::try_from(value).ok())
            .unwrap_or_default()
            .to_owned()
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        let value = self.values.get(name)?;
        u64::try_from(value).ok().or_else(|| u32::try_from(value).ok().map(u64::from))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| bool::try_from(value).unwrap_or(false))
    }

    /// A list that is one of what is allowed (true) or of what is not.
    pub fn list(&self, name: &str) -> (bool, Vec<String>) {
        self.values
            .get(name)
            .and_then(|value| value.try_clone().ok())
            .and_then(|value| <(bool, Vec<String>)>::try_from(value).ok())
            .unwrap_or_default()
    }

    /// Whether such a list, or a plain one, has anything in it.
    pub fn is_set(&self, name: &str) -> bool {
        let plain = || {
            let value = self.values.get(name)?.try_clone().ok()?;
            Vec::<String>::try_from(value).ok()
        };
        !self.list(name).1.is_empty() || plain().is_some_and(|list| !list.is_empty())
    }

    /// The program of each command of a unit's `Exec…=` property: a(sasbttttuii).
    pub fn programs(&self, name: &str) -> Vec<String> {
        type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);
        let commands = self.values.get(name).and_then(|value| value.try_clone().ok());
        let commands = commands.and_then(|value| Vec::<Command>::try_from(value).ok());
        commands.unwrap_or_default().into_iter().map(|command| command.0).collect()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.values
            .get(name)
            .and_then(|value| value.try_clone().ok())
            .and_then(|value| Vec::<u8>::try_from(value).ok())
            .unwrap_or_default()
    }
}

fn is_no_such_unit(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..)
        if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit")
}

/// An answer with an error is systemd's refusal; anything else is the connection's fault.
fn refused(what: &str, error: zbus::Error) -> SystemdError {
    match &error {
        zbus::Error::MethodError(name, text, _) => SystemdError::Refused {
            what: what.to_owned(),
            why: text.clone().unwrap_or_else(|| name.to_string()),
        },
        _ => SystemdError::Unreachable(error),
    }
}
