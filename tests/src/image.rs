//! What test hosts start from: Debian of one suite with systemd, firewalld, Delve and Go; on top of it
//! sample services and people; on top of that the product. Three layers, each made once and cached.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::tool,
    files::{self, Key},
    layer::{Layer, layer, run_in_layers},
};

/// Raise this to have all images made anew.
const RECIPE: &str = "1";

const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "libnss-systemd",
    "dbus",
    "polkitd",
    "firewalld",
    "nftables",
    "netbase",
    "iproute2",
    "procps",
    "passwd",
    "curl",
    "openssh-server",
    "systemd-coredump",
    "delve",
    "golang-go",
    "python3-minimal",
];

/// What a virtual machine has besides: a kernel, and both security modules, one of which is active.
const VM_PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "udev",
    "kmod",
    "apparmor",
    "selinux-basics",
    "selinux-policy-default",
    "policycoreutils",
    "auditd",
];

/// Not needed by any scenario, and half of an image's files.
const LEFT_OUT: &[&str] = &["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];

/// The Debian generations in use that godebug is tested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    Bookworm,
    Trixie,
    Forky,
}

impl Suite {
    pub const ALL: [Self; 3] = [Self::Trixie, Self::Bookworm, Self::Forky];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|suite| suite.name() == name);
        found.with_context(|| format!("no such suite: {name} (bookworm, trixie, forky)"))
    }
}

/// Container engines and other servers, as Debian has them. Only unpacked: none is started but by hand.
const ENGINES: &[&str] = &[
    "podman",
    "crun",
    "uidmap",
    "dbus-user-session",
    "docker.io",
    "docker-cli",
    "containerd",
    "python3-grpcio",
    "debuginfod",
    "runc",
    "rootlesskit",
    "slirp4netns",
];

/// What of the product is on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    None,
    /// The newest target/debian/godebug_*.deb; with GODEBUG_DEV_INSTALL=1 what `make install` gives.
    Installed,
}

/// The layers of a host's root, the topmost first.
pub(crate) fn layers(suite: Suite, product: Product) -> Result<Vec<Layer>> {
    ensure_tools()?;
    let base = base(suite, &format!("base-{}", suite.name()), PACKAGES)?;
    let services = services(suite, &base)?;
    let mut layers = vec![services, base];
    if product == Product::Installed {
        let product = product_layer(suite, &layers)?;
        layers.insert(0, product);
    }
    Ok(layers)
}

/// The engines, to be laid below everything else.
pub(crate) fn engines(suite: Suite) -> Result<Layer> {
    let key = Key::default().text(RECIPE).text(&ENGINES.join(",")).finish();
    layer(&format!("engines-{}", suite.name()), &key, |folder| {
        let _step = Step::begin(&format!("fetching container engines of {}", suite.name()));
        mmdebstrap(suite, folder, "extract", ENGINES)
    })
}

/// The layers of a virtual machine's disk, with the product, the topmost first. Always trixie.
pub(crate) fn vm_layers() -> Result<Vec<Layer>> {
    ensure_tools()?;
    ensure_installed(VM_TOOLS)?;
    let packages: Vec<&str> = PACKAGES.iter().chain(VM_PACKAGES).copied().collect();
    let base = base(Suite::Trixie, "base-trixie-vm", &packages)?;
    let services = services(Suite::Trixie, &base)?;
    let mut layers = vec![services, base];
    let product = product_layer(Suite::Trixie, &layers)?;
    layers.insert(0, product);
    Ok(layers)
}

/// Makes what hosts of a suite start from, if it is not there yet.
pub fn prepare(suite: Suite) -> Result<()> {
    layers(suite, Product::None).map(drop)
}

/// Makes sure of the tools that images and hosts need, installing the missing ones.
pub fn ensure_tools() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "test hosts need root: they are containers with their own networks"
    );
    ensure_installed(TOOLS)
}

/// Programs and the packages that have them.
const TOOLS: &[(&str, &str)] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("tar", "tar"),
];

const VM_TOOLS: &[(&str, &str)] =
    &[("qemu-system-x86_64", "qemu-system-x86"), ("mke2fs", "e2fsprogs"), ("setsid", "util-linux")];

fn ensure_installed(tools: &[(&str, &str)]) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let have = |tool: &str| path.split(':').any(|folder| Path::new(folder).join(tool).exists());
    let missing: Vec<&str> =
        tools.iter().filter(|(tool, _)| !have(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let _step = Step::begin(&format!("installing {}", missing.join(", ")));
    let install = |missing: &[&str]| {
        let mut words = vec![
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "--yes",
            "--no-install-recommends",
        ];
        words.extend(missing);
        tool("env", &words)
    };
    if install(&missing).is_err() {
        tool("apt-get", &["update"])?;
        install(&missing)?;
    }
    Ok(())
}

fn base(suite: Suite, name: &str, packages: &[&str]) -> Result<Layer> {
    let key =
        Key::default().text(RECIPE).text(&packages.join(",")).text(&LEFT_OUT.join(",")).finish();
    layer(name, &key, |folder| {
        let _step = Step::begin(&format!("making the image {name} (about a minute)"));
        mmdebstrap(suite, folder, "apt", packages)
    })
}

fn mmdebstrap(suite: Suite, folder: &Path, variant: &str, packages: &[&str]) -> Result<()> {
    let mut arguments = vec![
        format!("--variant={variant}"),
        format!("--include={}", packages.join(",")),
        // The Release file of a suite in development can be past its date.
        "--aptopt=Acquire::Check-Valid-Until \"false\"".to_owned(),
    ];
    arguments.extend(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    arguments.extend([suite.name().to_owned(), folder.display().to_string(), mirror()?]);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    tool("mmdebstrap", &words).map(drop)
}

/// Debian with its sample services, people and the other suites' debuggers.
fn services(suite: Suite, base: &Layer) -> Result<Layer> {
    let tests = files::tests_folder();
    let key = Key::default()
        .text(&base.path().display().to_string())
        .text(&debugger_key())
        .files(&tests.join("image"))?
        .files(&tests.join("samples"))?
        .finish();
    layer(&format!("services-{}", suite.name()), &key, |folder| {
        let others: Vec<Suite> = Suite::ALL.into_iter().filter(|other| *other != suite).collect();
        for other in others {
            install_debugger(other, folder)?;
        }
        let _step = Step::begin(&format!("building the sample services on {}", suite.name()));
        run_in_layers(&[base], folder, &tests, "/mnt/image/setup.sh")
    })
}

fn debugger_key() -> String {
    Key::default().text(RECIPE).text("delve").finish()
}

/// Puts another suite's dlv beside an image's own, so that choosing one is always exercised. All
/// three are linked against glibc 2.34, so each runs on all suites.
fn install_debugger(from: Suite, folder: &Path) -> Result<()> {
    let tree = layer(&format!("delve-{}", from.name()), &debugger_key(), |folder| {
        let _step = Step::begin(&format!("fetching dlv from {}", from.name()));
        mmdebstrap(from, folder, "extract", &["delve"])
    })?;
    // setup.sh renames it to its version.
    let target = folder.join("usr/lib/godebug/delve").join(from.name());
    files::create_folder(&target)?;
    fs::copy(tree.path().join("usr/bin/dlv"), target.join("dlv")).context("copying dlv")?;
    Ok(())
}

/// The product on top of `below`, or an empty layer if there is none to install yet.
fn product_layer(suite: Suite, below: &[Layer]) -> Result<Layer> {
    let below_key = below
        .iter()
        .fold(Key::default(), |key, layer| key.text(&layer.path().display().to_string()));
    let name = format!("product-{}", suite.name());
    let below: Vec<&Layer> = below.iter().collect();
    if std::env::var("GODEBUG_DEV_INSTALL").is_ok_and(|value| value == "1") {
        let staged = make_install()?;
        let key = below_key.files(staged.path())?.finish();
        return layer(&name, &key, |folder| {
            files::write(staged.path().join(".install"), DEV_INSTALL)?;
            run_in_layers(&below, folder, staged.path(), "/mnt/.install")
        });
    }
    let Some(package) = newest_package()? else {
        eprintln!("no target/debian/godebug_*.deb: the host has no product on it (make deb)");
        return layer(&name, "none", |_| Ok(()));
    };
    let key = below_key.files(&package)?.finish();
    layer(&name, &key, |folder| {
        let _step = Step::begin(&format!("installing {} on {}", package.display(), suite.name()));
        let input = tempfile::tempdir().context("making a folder")?;
        fs::copy(&package, input.path().join("godebug.deb")).context("copying the package")?;
        files::write(input.path().join("install"), "dpkg --install /mnt/godebug.deb\n")?;
        run_in_layers(&below, folder, input.path(), "/mnt/install")
    })
}

/// `make install` of what `cargo build` made, into a folder of its own, which is then laid over the image: much faster than a
/// package, without its maintainer scripts (systemd makes users and folders at boot).
fn make_install() -> Result<tempfile::TempDir> {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().map_err(|_| anyhow::anyhow!("another install failed"))?;
    let staged = tempfile::tempdir().context("making a folder")?;
    let destination = format!("DESTDIR={}", staged.path().display());
    let workspace = files::workspace().display().to_string();
    let profile = format!("PROFILE={}", std::env::var("PROFILE").as_deref().unwrap_or("debug"));
    let words = ["--no-print-directory", "-C", &workspace, "install", &profile, &destination];
    tool("make", &words)?;
    Ok(staged)
}

/// The links of Debian's merged /usr stay links; owners are root, whoever built it.
const DEV_INSTALL: &str = "tar -C /mnt -c --exclude=./.install --owner=0 --group=0 . \
    | tar -C / -x --keep-directory-symlink --no-overwrite-dir\n";

/// The package named by GODEBUG_TEST_PACKAGE, else the newest that `make deb` has left.
pub fn newest_package() -> Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os("GODEBUG_TEST_PACKAGE") {
        return Ok(Some(PathBuf::from(path)));
    }
    let folder = files::workspace().join("target/debian");
    if !folder.exists() {
        return Ok(None);
    }
    let mut packages = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("godebug_") && name.ends_with(".deb") {
            packages.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    packages.sort();
    Ok(packages.pop().map(|(_, path)| path))
}

/// The Debian mirror that this machine itself installs from.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("GODEBUG_TEST_MIRROR") {
        return Ok(mirror);
    }
    let release = files::read("/etc/os-release")?;
    let field = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    let codename = field("VERSION_CODENAME");
    if field("ID") == "debian" && !codename.is_empty() {
        for path in source_files() {
            let text = files::read(&path)?;
            let is_deb822 = path.extension().is_some_and(|extension| extension == "sources");
            let found = if is_deb822 {
                deb822_mirror(&text, &codename)
            } else {
                one_line_mirror(&text, &codename)
            };
            if let Some(mirror) = found {
                return Ok(mirror);
            }
        }
    }
    bail!(
        "this machine's apt configuration names no Debian mirror: set GODEBUG_TEST_MIRROR to one's address"
    )
}

fn source_files() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/etc/apt/sources.list")];
    let entries = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    found.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    found.sort();
    found.retain(|path| {
        path.is_file()
            && path
                .extension()
                .is_some_and(|extension| extension == "list" || extension == "sources")
    });
    found
}

/// The mirror in apt's one-line format: `deb [options] URI SUITE COMPONENT...`.
fn one_line_mirror(text: &str, codename: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        (suite == codename && words.any(|word| word == "main")).then(|| uri.to_owned())
    })
}

/// The mirror in apt's deb822 format: stanzas of `Field: values`.
fn deb822_mirror(text: &str, codename: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).find_map(|stanza| {
        let field = |name: &str| -> Vec<&str> {
            let start = stanza.iter().position(|line| {
                line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
            });
            let Some(start) = start else { return Vec::new() };
            let first = stanza[start].split_once(':').map_or("", |(_, value)| value);
            let more = stanza[start + 1..].iter().take_while(|line| line.starts_with([' ', '\t']));
            std::iter::once(first).chain(more.copied()).flat_map(str::split_whitespace).collect()
        };
        let wanted = field("Types").contains(&"deb")
            && field("Suites").contains(&codename)
            && field("Components").contains(&"main")
            && field("Enabled").first().is_none_or(|value| !value.eq_ignore_ascii_case("no"));
        wanted.then(|| field("URIs").first().map(|uri| (*uri).to_owned())).flatten()
    })
}

/// Tells a person on the terminal what takes its time, and how long it took.
pub(crate) struct Step {
    what: String,
    began: Instant,
}

impl Step {
    pub(crate) fn begin(what: &str) -> Self {
        eprintln!("* {what} ...");
        Self { what: what.to_owned(), began: Instant::now() }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        eprintln!("* {}: {:.1} s", self.what, self.began.elapsed().as_secs_f32());
    }
}

#[cfg(test)]
mod tests {
    use super::{deb822_mirror, one_line_mirror};

    #[test]
    fn finds_the_mirror_in_both_formats() {
        let one_line = "# deb http://old.invalid/debian stable main\n\
            deb http://security.invalid/ stable-security main\n\
            deb [arch=amd64 signed-by=/k] http://mirror.invalid/debian stable main contrib\n";
        assert_eq!(
            one_line_mirror(one_line, "stable").as_deref(),
            Some("http://mirror.invalid/debian")
        );
        let deb822 = "Types: deb\nURIs: http://security.invalid/\nSuites: stable-security\nComponents: main\n\n\
            Types: deb deb-src\n# a comment\nURIs: http://mirror.invalid/debian\nSuites: stable\n stable-updates\n\
            Components: main\n";
        assert_eq!(
            deb822_mirror(deb822, "stable").as_deref(),
            Some("http://mirror.invalid/debian")
        );
        assert_eq!(deb822_mirror(deb822, "other"), None);
    }
}
