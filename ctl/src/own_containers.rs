//! A person's own containers, which run without root: Podman is asked for the unit of the person's manager
//! that one is in. godebugd could not: it has no access to anybody's home.

use godebug_api::{ContainerName, Refusal, UnitName};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long Podman may think about it.
const LIMIT: Duration = Duration::from_secs(20);

/// The unit of one's own manager in which that container runs.
///
/// # Errors
/// When Podman knows none that runs, or it is in no unit of one's own.
pub(crate) fn unit_of(name: &ContainerName) -> Result<UnitName, Refusal> {
    let mut podman = Command::new("podman");
    podman.args(["container", "inspect", "--format", "{{.State.CgroupPath}}", "--", name.as_str()]);
    podman.stdin(Stdio::null());
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || answer.send(podman.output()));
    let unasked = |why: String| {
        Refusal::host(
            format!("podman cannot be asked for container:{}: {why}", name.as_str()),
            "name the unit that it runs in: systemctl --user list-units 'libpod-*'",
        )
    };
    let asked = answered
        .recv_timeout(LIMIT)
        .map_err(|_| unasked(format!("no answer in {} s", LIMIT.as_secs())))?
        .map_err(|error| unasked(error.to_string()))?;
    if !asked.status.success() {
        let why = String::from_utf8_lossy(&asked.stderr);
        let why = why.trim().escape_debug();
        return Err(Refusal::target(
            format!("podman has no container \"{}\" of yours: {why}", name.as_str()),
            "see yours: podman ps; one of the host's is debugged without --user",
        ));
    }
    in_group(name, String::from_utf8_lossy(&asked.stdout).trim())
}

/// The unit below a person's own manager that a control group is in, or is.
fn in_group(name: &ContainerName, group: &str) -> Result<UnitName, Refusal> {
    let name = name.as_str();
    if group.is_empty() {
        return Err(Refusal::target(
            format!("your container \"{name}\" does not run"),
            format!("start it: podman start {name}"),
        ));
    }
    let is_manager = |part: &&str| part.starts_with("user@") && part.ends_with(".service");
    let mut parts = group.split('/').skip_while(|part| !is_manager(part)).skip(1);
    let unit = parts.find(|part| !part.ends_with(".slice")).filter(|part| {
        // What is below the manager without being a unit is its own.
        part.ends_with(".scope") || part.ends_with(".service")
    });
    unit.and_then(|unit| unit.parse().ok()).ok_or_else(|| {
        Refusal::target(
            format!(
                "your container \"{name}\" is in no unit of your own manager, but in {}",
                group.escape_debug()
            ),
            "let podman use systemd's control groups (--cgroup-manager=systemd), which it does where you have \
             a manager with a bus: loginctl enable-linger, and the package dbus-user-session",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGER: &str = "/user.slice/user-1000.slice/user@1000.service";

    fn found(group: &str) -> Result<String, Refusal> {
        in_group(&"web".parse().unwrap(), group).map(|unit| unit.to_string())
    }

    #[test]
    fn the_unit_is_the_first_below_the_manager_that_is_no_slice() {
        for (group, unit) in [
            ("user.slice/libpod-0a.scope", "libpod-0a.scope"),
            ("user.slice/libpod-0a.scope/container", "libpod-0a.scope"),
            ("app.slice/web.service/libpod-payload-0a", "web.service"),
            ("app.slice/app-pods.slice/web.service", "web.service"),
        ] {
            assert_eq!(found(&format!("{MANAGER}/{group}")).unwrap(), unit);
        }
    }

    #[test]
    fn what_is_in_none_is_told_with_a_remedy() {
        assert!(found("").unwrap_err().remedy.contains("podman start web"));
        for group in [
            "/machine.slice/libpod-0a.scope",
            "/user.slice/user-1000.slice/session-2.scope/libpod-0a",
            &format!("{MANAGER}/init.scope.d"),
            &format!("{MANAGER}/user.slice"),
            "/a\u{1b}[2J",
        ] {
            let refusal = found(group).unwrap_err();
            assert!(refusal.message.contains("in no unit of your own"), "{refusal:?}");
            assert!(!refusal.message.contains(char::is_control), "{refusal:?}");
        }
    }
}
