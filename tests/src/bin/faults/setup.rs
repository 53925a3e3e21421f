//! The product with fault points on a test host: how it gets there, and what else a host needs before
//! anything can be broken on it.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use anyhow::{Context, Result, ensure};
use godebug_tests::{
    Host, HostOptions, Suite,
    fault_points::{FOLDER, PROGRAMS, built},
};

use crate::scene::SCRIPTED;

/// Boots a host that has them.
pub(crate) fn boot(firewalld: bool) -> Result<Host> {
    let host = HostOptions { firewalld, ..HostOptions::new(Suite::Trixie) }.boot()?;
    for program in PROGRAMS {
        let place = host.path(&format!("/{program}"));
        let from = built(program);
        fs::remove_file(&place).with_context(|| format!("removing the host's {program}"))?;
        fs::copy(&from, &place).with_context(|| format!("copying {}", from.display()))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
    }
    host.write_file(
        "/etc/systemd/system/godebugd.service.d/faults.conf",
        format!("[Service]\nReadWritePaths=-{FOLDER}\n"),
    )?;
    host.write_file(
        &format!("/etc/systemd/system/{}.service", SCRIPTED.unit),
        format!(
            "[Service]\nExecStart=/bin/sh -c '/opt/samples/shop -listen 127.0.0.1:{}; exit 0'\n\
             [Install]\nWantedBy=multi-user.target\n",
            SCRIPTED.port
        ),
    )?;
    host.ok(&format!("systemctl enable --now {}", SCRIPTED.unit))?;
    host.write_file("/usr/local/bin/pool", DRAIN)?;
    host.ok("chmod 755 /usr/local/bin/pool && mkdir -p /etc/godebug")?;
    host.write_file("/etc/godebug/godebugd.toml", HOOKS)?;
    KEPT.iter().try_for_each(|path| host.ok(&keep(path)).map(drop))?;
    ready(&host)?;
    Ok(host)
}

/// What faults change below /etc. Kept, and made files of the host's own now, so that putting them
/// back is no change.
const KEPT: [&str; 2] = ["/etc/firewalld", "/etc/systemd/system/myapp.service"];

fn keep(path: &str) -> String {
    format!("mkdir -p /root/kept && cp -a {path} /root/kept/ && {}", restore(path))
}

/// The shell line that makes a kept file or folder what it was.
pub(crate) fn restore(path: &str) -> String {
    format!("rm -rf {path} && cp -a /root/kept/$(basename {path}) {path}")
}

/// What is lost when the host reboots. The folder is a file system of its own, and /run a small one,
/// so that /run can be filled.
pub(crate) fn ready(host: &Host) -> Result<()> {
    host.ok(&format!(
        "mkdir -p {FOLDER} && mount -t tmpfs -o mode=0777 tmpfs {FOLDER} && mount -o remount,size=64M /run && \
         systemctl daemon-reload && systemctl stop godebugd"
    ))
    .map(drop)
}

/// Where a site's drain hook notes what it has taken out of its pool. Gone after a boot, as the hook's own part is.
pub(crate) const POOL: &str = "/run/pool";
const DRAIN: &str = "#!/bin/sh\nset -e\nmkdir -p /run/pool\n\
    session=$(grep -o '\"session\":\"[a-z0-9]*\"' | head -n 1 | cut -d '\"' -f 4)\n\
    case $1 in drain) mkdir \"/run/pool/$session\";; \
    undrain) rmdir \"/run/pool/$session\" 2>/dev/null || test ! -e \"/run/pool/$session\";; esac\n";
const HOOKS: &str = r#"
[[hook]]
events = ["drain"]
units = ["myapp"]
run = ["/usr/local/bin/pool", "drain"]
user = "root"
required = true
[[hook]]
events = ["undrain"]
units = ["myapp"]
run = ["/usr/local/bin/pool", "undrain"]
user = "root"
required = true
"#;

/// Tells one build of the product from another by what a processor or a person gets of it: not by its
/// symbols, where a comment's line counts, nor by code for another processor.
pub(crate) fn version(host: &Host) -> Result<String> {
    let strip = "cd \"$0\"; stripped=$(mktemp); trap 'rm -f $stripped' EXIT
        for program in usr/lib/godebug/godebug* usr/bin/godebugctl; do
            case $program in *.toml) cat $program; continue;; esac
            objcopy --strip-all --remove-section=.note.gnu.build-id $program $stripped
            cat $stripped
        done | sha256sum";
    let sum =
        Command::new("bash").args(["-euo", "pipefail", "-c", strip]).arg(host.path("/")).output();
    let sum = sum.context("starting bash")?;
    ensure!(sum.status.success(), "{}", String::from_utf8_lossy(&sum.stderr));
    Ok(String::from_utf8_lossy(&sum.stdout).chars().take(16).collect())
}
