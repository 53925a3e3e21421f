//! Adding a dlv: from a Go module proxy, where it is built by the host's own Go as nobody; from a package's
//! file; or from a file or folder. It is looked at before it is put in its place, and pinned then.

use super::{folder, pins, place_of};
use crate::target::debuggers;
use crate::target::executable::GoExecutable;
use godebug_api::toolchain::{Dlv, DlvState, Pin};
use godebug_api::{Refusal, clock};
use godebug_core::delve::{DelveVersion, FIRST_WITH_UNIX_SOCKET, supported_go};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The main package of Delve's command.
const PACKAGE: &str = "github.com/go-delve/delve/cmd/dlv";
/// More than any dlv has, in bytes.
const LARGEST: u64 = 512 << 20;

/// Where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `None` is what Go itself would ask.
    Proxy { url: Option<String>, checks_sums: bool },
    /// A program, or a folder with a program `dlv` in it.
    File(PathBuf),
    /// A distribution's package: a .deb or an .rpm.
    Package(PathBuf),
}

/// Puts Delve `version` beside the others.
///
/// # Errors
/// Why not, with the remedy; nothing is left of it then.
pub async fn add(version: DelveVersion, origin: &Origin) -> Result<Dlv, Refusal> {
    if version < FIRST_WITH_UNIX_SOCKET {
        return Err(Refusal::usage(
            format!("Delve {version} cannot listen on a Unix socket, so godebug has no use for it"),
            format!("take {FIRST_WITH_UNIX_SOCKET} or later"),
        ));
    }
    let place = place_of(version);
    if place.exists() {
        return Err(Refusal::usage(
            format!("{} is there already", place.display()),
            format!("`godebugctl toolchain remove {version}` takes it away"),
        ));
    }
    let new = Unfinished::begin(version)?;
    let dlv = new.0.join("dlv");
    let source = obtain(version, origin, &new.0, &dlv)?;
    let executable = examine(&dlv, version).await?;
    let written = finish(&dlv, version, source);
    let pin = written.map_err(|error| failed_to_write(&new.0, &error))?;
    std::fs::rename(&new.0, &place).map_err(|error| failed_to_write(&place, &error))?;
    Ok(Dlv {
        path: place.join("dlv").display().to_string(),
        version: Some(version),
        go: supported_go(version),
        built_with: Some(executable.go_version),
        state: DlvState::Pinned,
        pin: Some(pin),
        why: None,
    })
}

/// The folder in which it is put together, gone unless it gets its final name.
struct Unfinished(PathBuf);

impl Unfinished {
    fn begin(version: DelveVersion) -> Result<Self, Refusal> {
        let place = folder().join(format!(".{version}.{}", std::process::id()));
        std::fs::create_dir_all(&place)
            .and_then(|()| std::fs::set_permissions(&place, Permissions::from_mode(0o755)))
            .map_err(|error| failed_to_write(&place, &error))?;
        Ok(Self(place))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn failed_to_write(path: &Path, error: &io::Error) -> Refusal {
    let remedy = if error.kind() == io::ErrorKind::PermissionDenied {
        "be root: sudo godebugctl toolchain …"
    } else {
        "make room, or see what is there"
    };
    Refusal::host(format!("{} cannot be written: {error}", path.display()), remedy)
}

/// Gets the program to where it is wanted; says where it is from.
fn obtain(
    version: DelveVersion,
    origin: &Origin,
    folder: &Path,
    dlv: &Path,
) -> Result<String, Refusal> {
    match origin {
        Origin::Proxy { url, checks_sums } => {
            build(version, url.as_deref(), *checks_sums, dlv)?;
            Ok(format!("{PACKAGE}@v{version} from {}", url.as_deref().unwrap_or("Go's proxy")))
        }
        Origin::File(path) => {
            let file = if path.is_dir() { path.join("dlv") } else { path.clone() };
            copy(&file, dlv)?;
            Ok(file.display().to_string())
        }
        Origin::Package(path) => {
            let tree = folder.join("package");
            unpack(path, &tree)?;
            copy(&find(&tree, path)?, dlv)?;
            std::fs::remove_dir_all(&tree).map_err(|error| failed_to_write(&tree, &error))?;
            Ok(format!("the package {}", path.display()))
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Refusal> {
    let size = std::fs::metadata(from).map(|file| if file.is_file() { file.len() } else { 0 });
    let size = size.map_err(|error| {
        Refusal::usage(format!("{} cannot be read: {error}", from.display()), "name a dlv")
    })?;
    if size == 0 || size > LARGEST {
        return Err(Refusal::usage(format!("{} is no program", from.display()), "name a dlv"));
    }
    std::fs::copy(from, to).map(drop).map_err(|error| failed_to_write(to, &error))
}

/// Has the host's Go build it: as nobody, in a unit of its own, with a network and no file to write.
fn build(
    version: DelveVersion,
    proxy: Option<&str>,
    checks_sums: bool,
    dlv: &Path,
) -> Result<(), Refusal> {
    let go = go().ok_or_else(|| {
        Refusal::host(
            "there is no Go on this host to build Delve with",
            "install one (apt install golang-go), or build dlv elsewhere and add it with --from",
        )
    })?;
    let out = File::create(dlv).map_err(|error| failed_to_write(dlv, &error))?;
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--wait", "--pipe", "--collect"]);
    for property in [
        "DynamicUser=yes",
        "PrivateTmp=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateDevices=yes",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "RestrictSUIDSGID=yes",
        "RuntimeMaxSec=1800",
    ] {
        command.args(["-p", property]);
    }
    let mut environment = vec![
        "HOME=/tmp".to_owned(),
        "GOBIN=/tmp/bin".to_owned(),
        "GOTOOLCHAIN=local".to_owned(),
        "GOFLAGS=-trimpath -modcacherw".to_owned(),
        "GOTELEMETRY=off".to_owned(),
        "CGO_ENABLED=0".to_owned(),
    ];
    environment.extend(proxy.map(|url| format!("GOPROXY={url}")));
    if !checks_sums {
        environment.push("GONOSUMDB=*".to_owned());
        environment.push("GOSUMDB=off".to_owned());
    }
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE"] {
        environment.extend(std::env::var(name).ok().map(|value| format!("{name}={value}")));
    }
    command.args(environment.iter().map(|one| format!("--setenv={one}")));
    let script = "cd /tmp && \"$0\" install \"$1\" >&2 && exec cat bin/dlv";
    let ended = command
        .args(["/bin/sh", "-c", script])
        .arg(&go)
        .arg(format!("{PACKAGE}@v{version}"))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::piped())
        .output();
    let ended = ended.map_err(|error| {
        Refusal::host(format!("systemd-run cannot be run: {error}"), "is systemd installed?")
    })?;
    if ended.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&ended.stderr);
    let last: Vec<&str> = told.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = last[last.len().saturating_sub(4)..].join(" / ");
    Err(Refusal::host(
        format!("{} did not build Delve {version}: {last}", go.display()),
        "is it a version of Delve that this Go can build? `--proxy` names another proxy, `--from` takes a finished dlv",
    ))
}

/// The first in the usual places, and where the Go project's own archive goes.
fn go() -> Option<PathBuf> {
    let places = ["/usr/local/go/bin/go", "/usr/local/bin/go", "/usr/bin/go"];
    places.iter().map(PathBuf::from).find(|path| path.exists())
}

fn unpack(package: &Path, into: &Path) -> Result<(), Refusal> {
    std::fs::create_dir(into).map_err(|error| failed_to_write(into, &error))?;
    let (name, file) = (package.display().to_string(), package.as_os_str());
    let mut command = if name.ends_with(".deb") {
        let mut command = Command::new("dpkg-deb");
        command.arg("--extract").arg(file).arg(into);
        command
    } else if name.ends_with(".rpm") {
        let mut command = Command::new("/bin/sh");
        let script = "cd \"$1\" && rpm2cpio \"$0\" | cpio --extract --make-directories --quiet";
        let file = std::fs::canonicalize(package).unwrap_or_else(|_| package.to_owned());
        command.args(["-c", script]).arg(file).arg(into);
        command
    } else {
        return Err(Refusal::usage(format!("{name} is neither a .deb nor an .rpm"), ""));
    };
    let ended = command.output().map_err(|error| {
        Refusal::host(
            format!("{name} cannot be unpacked: {error}"),
            "install dpkg, or rpm and cpio",
        )
    })?;
    if ended.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&ended.stderr);
    let told = told.lines().last().unwrap_or("").to_owned();
    Err(Refusal::usage(format!("{name} cannot be unpacked: {told}"), "is it a whole package?"))
}

/// dlv in a package's tree.
fn find(tree: &Path, package: &Path) -> Result<PathBuf, Refusal> {
    let mut waiting = vec![tree.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() && entry.file_name() == "dlv" => return Ok(entry.path()),
                _ => {}
            }
        }
    }
    Err(Refusal::usage(format!("there is no dlv in {}", package.display()), "name Delve's package"))
}

/// It is Delve, of this version, by its own build information and by its own word.
async fn examine(dlv: &Path, version: DelveVersion) -> Result<GoExecutable, Refusal> {
    let wrong = |why: String| Refusal::usage(format!("this is not Delve {version}: {why}"), "");
    std::fs::set_permissions(dlv, Permissions::from_mode(0o755))
        .map_err(|error| failed_to_write(dlv, &error))?;
    let file = File::open(dlv).map_err(|error| failed_to_write(dlv, &error))?;
    let executable = GoExecutable::read(&file, dlv).map_err(|error| wrong(error.to_string()))?;
    if executable.package.as_deref() != Some(PACKAGE) {
        let package = executable.package.as_deref().unwrap_or("another program");
        return Err(wrong(format!("it is {package}")));
    }
    let own = debuggers::version::ask(dlv).await.map_err(wrong)?;
    if own == version { Ok(executable) } else { Err(wrong(format!("it says that it is {own}"))) }
}

fn finish(dlv: &Path, version: DelveVersion, source: String) -> io::Result<Pin> {
    let added_at = clock::rfc3339(clock::now().wall_ms);
    let pin = Pin { version, sha256: pins::sha256(dlv)?, source, added_at };
    pins::write(dlv, &pin)?;
    File::open(dlv)?.sync_all()?;
    Ok(pin)
}
