//! From what a person names to the unit of the system that it is in, which authority is asked for, and
//! to the part of it that is meant.

use super::containers;
use super::find::{self, properties};
use crate::authority::user_name;
use crate::host::systemd::Systemd;
use crate::paths;
use godebug_api::{Part, Refusal, TargetName, UnitName, UserName};
use std::path::{Path, PathBuf};

/// A unit, and what in it is meant if not all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// By the name that systemd has for it, so that a rule about a unit cannot be passed by under its alias.
    pub unit: UnitName,
    pub part: Option<Part>,
}

impl Place {
    /// As people name it.
    pub fn name(&self) -> TargetName {
        let part = self.part.as_ref().map(|part| part.name.clone());
        part.unwrap_or_else(|| TargetName::Unit(self.unit.clone()))
    }
}

/// Finds it.
///
/// # Errors
/// When there is no such container or unit, several, or one that is in no unit; when systemd does not
/// answer.
pub async fn find(systemd: &Systemd, name: &TargetName, asker: u32) -> Result<Place, Refusal> {
    match name {
        TargetName::Unit(unit) => {
            Ok(Place { unit: find::canonical(systemd, unit).await?, part: None })
        }
        TargetName::Container(wanted) => {
            let wanted = wanted.clone();
            let found = tokio::task::spawn_blocking(move || containers::find(&wanted, asker)).await;
            let (name, group) =
                found.map_err(|error| Refusal::failed(error.to_string(), "try again"))??;
            let unit = unit_of(&group).ok_or_else(|| in_no_unit(&name))?;
            let unit = find::canonical(systemd, &unit).await?;
            Ok(Place { unit, part: Some(Part { name, group }) })
        }
        TargetName::OfUser { user, unit } => of_user(systemd, (user, asker), unit).await,
    }
}

/// The unit that a control group belongs to: the first on the way down that is no slice.
pub(crate) fn unit_of(group: &str) -> Option<UnitName> {
    let first = group.split('/').find(|part| !part.is_empty() && !part.ends_with(".slice"))?;
    let is_unit = first.ends_with(".service") || first.ends_with(".scope");
    first.parse().ok().filter(|_| is_unit)
}

fn in_no_unit(name: &TargetName) -> Refusal {
    Refusal::target(
        format!("{name} is in no unit of systemd, so no session can end with it"),
        "let its engine use systemd's control groups: native.cgroupdriver=systemd for Docker, SystemdCgroup = true for containerd",
    )
}

/// A unit of a user's own manager, which is the system's unit user@UID.service.
async fn of_user(
    systemd: &Systemd,
    (user, asker): (&UserName, u32),
    unit: &UnitName,
) -> Result<Place, Refusal> {
    let (uid, user) = known_user(user, asker).await?;
    let manager: UnitName = format!("user@{uid}.service")
        .parse()
        .map_err(|error: godebug_api::WordError| Refusal::usage(error.to_string(), ""))?;
    let facts = properties(systemd, &manager).await?;
    let (active, group) = (facts.text("ActiveState"), facts.text("ControlGroup"));
    if group.is_empty() || !matches!(active.as_str(), "active" | "reloading") {
        return Err(Refusal::target(
            format!("{user} has no manager of their own running here ({manager} is {active})"),
            format!(
                "it runs while they are logged in, and always after: loginctl enable-linger {user}"
            ),
        ));
    }
    let name = TargetName::OfUser { user, unit: unit.clone() };
    let wanted = unit.clone();
    let found = tokio::task::spawn_blocking(move || {
        below(Path::new(paths::CGROUP), &group, wanted.as_str())
    });
    let found = found.await.map_err(|error| Refusal::failed(error.to_string(), "try again"))?;
    let Some(group) = found else {
        return Err(Refusal::target(
            format!("{name} is not running"),
            format!("start it: systemctl --user start {unit}"),
        ));
    };
    Ok(Place { unit: manager, part: Some(Part { name, group }) })
}

/// A user by the name that the host's database has, with the number.
async fn known_user(wanted: &UserName, asker: u32) -> Result<(u32, UserName), Refusal> {
    let text = wanted.as_str().to_owned();
    let is_asker = wanted.is_whoever_asks();
    let found = tokio::task::spawn_blocking(move || match text.parse::<u32>() {
        _ if is_asker => Ok(Some(asker)),
        Ok(uid) => Ok(Some(uid)),
        Err(_) => nix::unistd::User::from_name(&text).map(|it| it.map(|user| user.uid.as_raw())),
    });
    let found = found.await.map_err(|error| Refusal::failed(error.to_string(), "try again"))?;
    let uid = found
        .map_err(|error| Refusal::host(format!("users cannot be looked up: {error}"), "see `id`"))?
        .ok_or_else(|| Refusal::usage("there is no such user on this host", "see `id USER`"))?;
    Ok((uid, user_name(uid).parse().unwrap_or_else(|_| wanted.clone())))
}

/// The control group called `name` below `top` that has processes. What is below belongs to the user, who
/// can call it anything, but cannot put others' processes there.
fn below(root: &Path, top: &str, name: &str) -> Option<String> {
    const MOST: usize = 4096;
    let start = root.join(top.trim_start_matches('/'));
    let mut waiting: Vec<PathBuf> = vec![start];
    let mut looked_at = 0;
    while let Some(group) = waiting.pop() {
        let children = std::fs::read_dir(&group).into_iter().flatten().flatten();
        for child in children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())) {
            looked_at += 1;
            if looked_at > MOST {
                return None;
            }
            if child.file_name() == *name
                && let Some(group) = inhabited(root, &child.path())
            {
                return Some(group);
            }
            waiting.push(child.path());
        }
    }
    None
}

/// The group as systemd writes it, if a process is in it or below it.
fn inhabited(root: &Path, group: &Path) -> Option<String> {
    let events = std::fs::read_to_string(group.join("cgroup.events")).ok()?;
    let path = group.strip_prefix(root).ok()?.to_str()?;
    events.lines().any(|line| line == "populated 1").then(|| format!("/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_unit_is_the_first_that_is_no_slice() {
        let unit = |group: &str| unit_of(group).map(|unit| unit.to_string());
        for (group, wanted) in [
            ("/machine.slice/libpod-0a.scope/container", Some("libpod-0a.scope")),
            ("/system.slice/web.service/libpod-payload-0a", Some("web.service")),
            ("/system.slice/system-app.slice/app@1.service", Some("app@1.service")),
            ("/docker/0a", None),
            ("/", None),
            ("/user.slice/user-7.slice/user@7.service/app.slice/a.service", Some("user@7.service")),
        ] {
            assert_eq!(unit(group).as_deref(), wanted, "{group}");
        }
    }

    #[test]
    fn a_users_unit_is_found_at_any_depth_if_something_runs_in_it() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, populated: bool| {
            let path = root.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            let events = format!("populated {}\nfrozen 0\n", u8::from(populated));
            std::fs::write(path.join("cgroup.events"), events).unwrap();
        };
        group("u/app.slice/old/notes.service", false);
        group("u/app.slice/app-x.slice/notes.service", true);
        group("v/notes.service", true);
        let found = below(root.path(), "/u", "notes.service");
        assert_eq!(found.as_deref(), Some("/u/app.slice/app-x.slice/notes.service"));
        assert_eq!(below(root.path(), "/u", "other.service"), None);
        assert_eq!(below(root.path(), "/none", "notes.service"), None);
    }
}
