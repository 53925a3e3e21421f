//! The dlv's of a host, as an administrator looks after them.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use serde_json::Value;

use crate::support::{Session, leaves_nothing, refused};

pub(crate) const ALL: &[Scenario] =
    &[Scenario::new("dlvs_are_added_pinned_verified_and_removed", toolchain)];

/// A module that is no debugger but says that it is one, as a proxy hands it out: Delve itself needs a
/// hundred others.
const PROXY: &str = r#"
import os, zipfile
place = "/srv/proxy/github.com/go-delve/delve/@v/"
os.makedirs(place)
go_mod = "module github.com/go-delve/delve\n\ngo 1.18\n"
main = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("Delve Debugger\\nVersion: 1.26.3\\nBuild: none") }\n'
open(place + "list", "w").write("v1.26.3\n")
open(place + "v1.26.3.info", "w").write('{"Version":"v1.26.3","Time":"2026-04-01T00:00:00Z"}')
open(place + "v1.26.3.mod", "w").write(go_mod)
with zipfile.ZipFile(place + "v1.26.3.zip", "w") as archive:
    root = "github.com/go-delve/delve@v1.26.3/"
    archive.writestr(root + "go.mod", go_mod)
    archive.writestr(root + "cmd/dlv/main.go", main)
"#;

fn toolchain(host: &Host) -> Result<()> {
    let listed = list(host)?;
    ensure!(state(&listed, "1.24.0")? == "not-pinned", "{listed:?}");
    ensure!(needs(host, 0)?.iter().all(|need| need["dlv"].is_string()));
    from_a_proxy(host)?;
    changed_afterwards(host)?;
    from_a_package_and_a_file(host)?;
    wrong_ones(host)?;
    what_is_missing(host)
}

fn list(host: &Host) -> Result<Vec<Value>> {
    let all = host.run("godebugctl --json toolchain list")?.exits(0)?.json()?;
    all.as_array().cloned().context("no list")
}

fn state(all: &[Value], version: &str) -> Result<String> {
    let one = all.iter().find(|dlv| dlv["version"] == version);
    let one = one.with_context(|| format!("no {version}: {all:?}"))?;
    Ok(one["state"].as_str().unwrap_or_default().to_owned())
}

fn needs(host: &Host, status: i32) -> Result<Vec<Value>> {
    let plan = host.run("godebugctl --json toolchain plan")?.exits(status)?;
    let first = plan.stdout.lines().next().unwrap_or_default();
    serde_json::from_str(first).with_context(|| format!("no plan: {plan}"))
}

fn from_a_proxy(host: &Host) -> Result<()> {
    host.write_file("/root/proxy.py", PROXY)?;
    host.ok("python3 /root/proxy.py")?;
    let added = host
        .run("godebugctl --json toolchain add 1.26.3 --proxy file:///srv/proxy --no-sumdb")?
        .exits(0)?
        .json()?;
    ensure!(added["state"] == "pinned" && added["path"].is_string(), "{added}");
    let source = added["pin"]["source"].as_str().unwrap_or_default();
    ensure!(source.contains("cmd/dlv@v1.26.3 from file:///srv/proxy"), "{added}");
    ensure!(state(&list(host)?, "1.26.3")? == "pinned");
    host.ok("godebugctl toolchain verify")?;
    let again = host.run("godebugctl --json toolchain add 1.26.3 --proxy file:///srv/proxy")?;
    ensure!(refused(again, 2, "usage")?.contains("toolchain remove 1.26.3"));
    let unknown = "godebugctl --json toolchain add 1.26.9 --proxy file:///srv/proxy --no-sumdb";
    ensure!(refused(host.run(unknown)?, 5, "host")?.contains("1.26.9"));
    // Nothing of it is left, and nothing of the building.
    let names =
        host.ok("ls -A /usr/lib/godebug/delve; ls -d /tmp/bin /root/go 2>/dev/null || true")?;
    ensure!(!names.contains("1.26.9") && !names.contains("/tmp"), "{names}");
    Ok(())
}

/// Whoever could change it is root, and still it is not run.
fn changed_afterwards(host: &Host) -> Result<()> {
    let dlv = "/usr/lib/godebug/delve/1.26.3/dlv";
    // Whichever of both is changed, they do not belong together any more.
    let pin = "/usr/lib/godebug/delve/1.26.3/pin.json";
    host.ok(&format!("cp {pin} /root/pin && sed -i 's/\"sha256\":\"./\"sha256\":\"/' {pin}"))?;
    let verify = host.run("godebugctl --json toolchain verify")?.exits(5)?;
    ensure!(verify.stdout.contains("\"state\":\"changed\""), "{verify}");
    host.ok(&format!("mv /root/pin {pin} && godebugctl toolchain verify"))?;
    host.ok(&format!("printf '#!/bin/sh\\ntouch /tmp/was-run\\necho Version: 1.26.3\\n' >{dlv}"))?;
    let verify = host.run("godebugctl --json toolchain verify")?.exits(5)?;
    ensure!(verify.stdout.contains("\"state\":\"changed\""), "{verify}");
    let doctor = host.run("godebugctl --json doctor")?.stdout;
    ensure!(doctor.contains("it is not what was added"), "{doctor}");
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        ensure!(session.document["debugger"] == "/usr/bin/dlv", "{}", session.document);
        session.stop(host)
    })?;
    ensure!(!host.path("/tmp/was-run").exists(), "it was run");
    host.ok("godebugctl toolchain remove 1.26.3")?;
    ensure!(state(&list(host)?, "1.26.3").is_err());
    Ok(())
}

fn from_a_package_and_a_file(host: &Host) -> Result<()> {
    host.ok(
        "mkdir -p /root/package/DEBIAN /root/package/usr/bin && mv /usr/lib/godebug/delve/1.27.1 /root/ && \
         cp /root/1.27.1/dlv /root/package/usr/bin/ && \
         printf 'Package: delve\\nVersion: 1.27.1-1\\nArchitecture: amd64\\nMaintainer: t <t@t.invalid>\\n\
         Description: t\\n' >/root/package/DEBIAN/control && dpkg-deb --build /root/package /root/delve.deb",
    )?;
    host.ok("cd /root && godebugctl toolchain add 1.27.1 --package delve.deb")?;
    ensure!(state(&list(host)?, "1.27.1")? == "pinned");
    host.ok(
        "godebugctl toolchain remove 1.27.1 && godebugctl toolchain add 1.27.1 --from /root/1.27.1",
    )?;
    host.ok("godebugctl toolchain verify && rm -r /root/package /root/delve.deb /root/1.27.1")
        .map(drop)
}

fn wrong_ones(host: &Host) -> Result<()> {
    for (line, status, code, part) in [
        ("add 1.25.2 --from /usr/bin/dlv", 2, "usage", "it says that it is 1.24.0"),
        ("add 1.25.2 --from /opt/samples/shop", 2, "usage", "it is example.invalid/shop"),
        ("add 1.25.2 --from /bin/true", 2, "usage", "not a Go program"),
        ("add 1.25.2 --from /nonexistent", 2, "usage", "cannot be read"),
        ("add 1.25.2 --package /etc/passwd", 2, "usage", "neither a .deb nor an .rpm"),
        ("add 1.20.2 --from /usr/bin/dlv", 2, "usage", "Unix socket"),
        ("remove 1.20.2", 5, "host", "was not added by"),
        ("remove 1.19.0", 2, "usage", "there is no Delve 1.19.0"),
    ] {
        let told =
            refused(host.run(&format!("godebugctl --json toolchain {line}"))?, status, code)?;
        ensure!(told.contains(part), "{line}: {told}");
    }
    host.run("godebugctl toolchain add ../../../tmp/x --from /usr/bin/dlv")?.exits(2)?;
    let alice =
        host.run_as("alice", "godebugctl --json toolchain add 1.24.0 --from /usr/bin/dlv")?;
    ensure!(refused(alice, 5, "host")?.contains("be root"));
    Ok(())
}

/// A host whose only dlv is too new for its services.
fn what_is_missing(host: &Host) -> Result<()> {
    host.ok("mkdir /root/kept && mv /usr/bin/dlv /usr/lib/godebug/delve/1.2[0-6]* /root/kept/")?;
    let needs = needs(host, 4)?;
    let shop = needs.iter().find(|need| need["unit"] == "myapp.service").context("no myapp")?;
    ensure!(shop["dlv"].is_null() && shop["add"] == "1.26.3", "{shop}");
    let refusal = refused(host.run("godebugctl --json attach myapp --detach")?, 4, "target")?;
    ensure!(refusal.contains("godebugctl toolchain add 1.26.3"), "{refusal}");
    host.ok("mv /root/kept/dlv /usr/bin/ && mv /root/kept/* /usr/lib/godebug/delve/")?;
    leaves_nothing(host, &["myapp"], |_| Session::open(host, "myapp", "--ttl 60s")?.stop(host))
}
