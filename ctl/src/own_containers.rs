//! A person's own containers, which run without root: Podman and Docker are asked for the control group that one is
//! in, which names the unit of the person's manager. godebugd could not: it has no access to anybody's home.

use godebug_api::{ContainerName, Refusal, UnitName};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long an engine may think about it.
const LIMIT: Duration = Duration::from_secs(20);

/// Why an engine names no control group.
#[derive(Debug)]
enum Silent {
    /// Its program is not there.
    Absent,
    /// It knows no such container, or cannot tell: its own words.
    Unknown(String),
}

/// The unit of one's own manager in which that container runs.
///
/// # Errors
/// When neither engine knows one that runs, or it is in no unit of one's own.
pub(crate) fn unit_of(name: &ContainerName) -> Result<UnitName, Refusal> {
    let of_podman = match of_podman(name) {
        Ok(group) => return in_group(name, &group),
        Err(silent) => silent,
    };
    match of_docker(name) {
        Ok((id, group)) => in_own_scope(name, &id, &group),
        Err(of_docker) => Err(unknown(name, &of_podman, &of_docker)),
    }
}

fn unknown(name: &ContainerName, of_podman: &Silent, of_docker: &Silent) -> Refusal {
    let name = name.as_str();
    let whys: Vec<String> = [("podman", of_podman), ("docker", of_docker)]
        .into_iter()
        .filter_map(|(engine, silent)| match silent {
            Silent::Absent => None,
            Silent::Unknown(why) => Some(format!("{engine}: {}", why.trim().escape_debug())),
        })
        .collect();
    if whys.is_empty() {
        return Refusal::host(
            format!("nobody can be asked for container:{name}: podman and docker are not here"),
            "name the unit that it runs in: systemctl --user list-units --type=scope",
        );
    }
    Refusal::target(
        format!("you have no container \"{name}\" that runs without root ({})", whys.join("; ")),
        "see yours: podman ps, docker ps; one of the host's is debugged without --user",
    )
}

/// The control group of one of Podman's; empty when it does not run.
fn of_podman(name: &ContainerName) -> Result<String, Silent> {
    let mut podman = Command::new("podman");
    podman.args(["container", "inspect", "--format", "{{.State.CgroupPath}}", "--", name.as_str()]);
    answer(podman)
}

/// The ID and the control group of one of Docker's.
fn of_docker(name: &ContainerName) -> Result<(String, String), Silent> {
    let mut docker = Command::new("docker");
    docker.args([
        "container",
        "inspect",
        "--format",
        "{{.Id}} {{.State.Pid}}",
        "--",
        name.as_str(),
    ]);
    // The person's own one, where nothing else is said: its client would ask the host's.
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_default();
    let socket = Path::new(&runtime).join("docker.sock");
    let is_said = ["DOCKER_HOST", "DOCKER_CONTEXT"].iter().any(|it| std::env::var_os(it).is_some());
    if !is_said && socket.is_absolute() && socket.exists() {
        docker.env("DOCKER_HOST", format!("unix://{}", socket.display()));
    }
    let answered = answer(docker)?;
    let unclear = || Silent::Unknown(format!("its answer is not understood: {answered}"));
    let (id, pid) = answered.split_once(' ').ok_or_else(unclear)?;
    let pid: u32 = pid.parse().map_err(|_| unclear())?;
    if pid == 0 {
        return Ok((id.to_owned(), String::new()));
    }
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .map_err(|error| Silent::Unknown(format!("of its process {pid}: {error}")))?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::")).ok_or_else(unclear)?;
    Ok((id.to_owned(), group.to_owned()))
}

fn answer(mut engine: Command) -> Result<String, Silent> {
    engine.stdin(Stdio::null());
    let (said, answered) = mpsc::channel();
    std::thread::spawn(move || said.send(engine.output()));
    let output = answered
        .recv_timeout(LIMIT)
        .map_err(|_| Silent::Unknown(format!("no answer in {} s", LIMIT.as_secs())))?;
    match output {
        Ok(Output { status, stdout, .. }) if status.success() => {
            Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
        }
        Ok(Output { stderr, .. }) => {
            Err(Silent::Unknown(String::from_utf8_lossy(&stderr).into_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Silent::Absent),
        Err(error) => Err(Silent::Unknown(error.to_string())),
    }
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
    below_manager(group).ok_or_else(|| {
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

/// The same of Docker's, which makes a scope for each, or else has all of them in its own unit.
fn in_own_scope(name: &ContainerName, id: &str, group: &str) -> Result<UnitName, Refusal> {
    let name = name.as_str();
    if group.is_empty() {
        return Err(Refusal::target(
            format!("your container \"{name}\" does not run"),
            format!("start it: docker start {name}"),
        ));
    }
    // Without root Docker's are called runc-ID.scope, with it docker-ID.scope.
    let is_its_own = |unit: &UnitName| unit.as_str().ends_with(&format!("-{id}.scope"));
    below_manager(group).filter(is_its_own).ok_or_else(|| {
        Refusal::target(
            format!(
                "your container \"{name}\" has no unit of its own below your manager, but is in {}",
                group.escape_debug()
            ),
            "one of the host's is debugged without --user; for yours let dockerd use systemd's control groups \
             (--exec-opt native.cgroupdriver=systemd)",
        )
    })
}

fn below_manager(group: &str) -> Option<UnitName> {
    let is_manager = |part: &&str| part.starts_with("user@") && part.ends_with(".service");
    let mut parts = group.split('/').skip_while(|part| !is_manager(part)).skip(1);
    let unit = parts.find(|part| !part.ends_with(".slice")).filter(|part| {
        // What is below the manager without being a unit is its own.
        part.ends_with(".scope") || part.ends_with(".service")
    });
    unit.and_then(|unit| unit.parse().ok())
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

    #[test]
    fn a_container_of_dockers_is_in_its_own_scope_or_not_found() {
        let id = "0a".repeat(32);
        let found = |group: &str| in_own_scope(&"web".parse().unwrap(), &id, group);
        let own = format!("runc-{id}.scope");
        assert_eq!(found(&format!("{MANAGER}/user.slice/{own}")).unwrap().as_str(), own);
        for group in [
            // The host's own Docker; without systemd's control groups; another one's.
            format!("/system.slice/docker-{id}.scope"),
            format!("{MANAGER}/app.slice/docker.service/{id}"),
            format!("{MANAGER}/user.slice/runc-{}.scope", "0b".repeat(32)),
        ] {
            let refusal = found(&group).unwrap_err();
            assert!(refusal.message.contains("no unit of its own"), "{refusal:?}");
        }
        assert!(found("").unwrap_err().remedy.contains("docker start web"));
    }

    #[test]
    fn who_does_not_know_it_is_told_in_their_own_words() {
        let name = "web".parse().unwrap();
        let told = unknown(&name, &Silent::Absent, &Silent::Absent);
        assert!(told.message.contains("podman and docker are not here"), "{told:?}");
        let said = Silent::Unknown("no such\u{1b}[2J container\n".to_owned());
        let told = unknown(&name, &said, &Silent::Absent);
        assert!(told.message.contains("podman: no such") && !told.message.contains("docker:"));
        assert!(!told.message.contains(char::is_control), "{told:?}");
    }
}
