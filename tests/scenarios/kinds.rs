//! Services of every make: each is debugged as its owner would, with a breakpoint and its values, and is
//! the same process after. `matrix` does the same for every version of Go.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};

use crate::support::{
    Laptop, SOON, Session, is_answered, leaves_nothing, leaves_nothing_but_new_processes, order,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("services_of_every_make_are_debugged", every_make),
    Scenario::new("containers_are_found_by_name_and_debugged", containers).with_engines(),
    Scenario::new("container_that_a_user_runs_without_root_is_theirs_to_debug", rootless)
        .with_engines(),
];

/// A way in which a service can be made.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// The `[Service]` section, in which PROGRAM and PORT stand for what they are.
    service: &'static str,
    /// What is run before, in a shell.
    before: &'static str,
    /// What is run when it serves.
    running: &'static str,
    /// What stands in the place of PROGRAM; `shop` is the plain one.
    pub(crate) program: &'static str,
    /// More options of `attach`, in which FOLDER is where the programs are.
    options: &'static str,
    /// How it is named; its unit's name without it.
    named: &'static str,
    /// It has a network of its own.
    apart: bool,
}

const PLAIN: Kind = Kind {
    name: "plain",
    service: "User=shop\nExecStart=PROGRAM -listen 127.0.0.1:PORT",
    before: "",
    running: "",
    program: "shop",
    options: "",
    named: "",
    apart: false,
};

const STRICT: &str = "User=shop\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\nPrivateDevices=yes\n\
    ProtectProc=invisible\nProcSubset=pid\nNoNewPrivileges=yes\nCapabilityBoundingSet=\nRestrictNamespaces=yes\n\
    RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\nMemoryDenyWriteExecute=yes\nLockPersonality=yes\n\
    RestrictRealtime=yes\nRestrictSUIDSGID=yes\nProtectKernelTunables=yes\nProtectKernelModules=yes\n\
    ProtectControlGroups=yes\nProtectClock=yes\nProtectHostname=yes\nSystemCallArchitectures=native\n\
    SystemCallFilter=@system-service\nUMask=0077\nRemoveIPC=yes\nExecStart=PROGRAM -listen 127.0.0.1:PORT";

/// In their root lies nothing but the program.
const EMPTY_ROOT: &str = "mkdir -p /srv/root && cp PROGRAM /srv/root/shop";

pub(crate) const KINDS: &[Kind] = &[
    PLAIN,
    Kind { name: "root", service: "ExecStart=PROGRAM -listen 127.0.0.1:PORT", ..PLAIN },
    Kind {
        name: "notify",
        service: "Type=notify\nWatchdogSec=20\nUser=shop\nExecStart=PROGRAM -listen 127.0.0.1:PORT",
        ..PLAIN
    },
    Kind {
        name: "dynamic-user",
        service: "DynamicUser=yes\nStateDirectory=kind\nExecStart=PROGRAM -listen 127.0.0.1:PORT",
        ..PLAIN
    },
    Kind { name: "strict-sandbox", service: STRICT, ..PLAIN },
    Kind {
        name: "root-directory",
        service: "User=shop\nRootDirectory=/srv/root\nExecStart=/shop -listen 127.0.0.1:PORT",
        before: EMPTY_ROOT,
        ..PLAIN
    },
    Kind {
        name: "chroot",
        service: "ExecStart=/usr/sbin/chroot --userspec=+65532:+65532 --groups= /srv/root /shop -listen 127.0.0.1:PORT",
        before: EMPTY_ROOT,
        ..PLAIN
    },
    Kind {
        name: "private-tmp",
        service: "User=shop\nPrivateTmp=yes\nExecStartPre=/bin/cp PROGRAM /tmp/shop\n\
                  ExecStart=/tmp/shop -listen 127.0.0.1:PORT",
        ..PLAIN
    },
    Kind {
        name: "private-users",
        service: "PrivateUsers=yes\nUser=shop\nExecStart=PROGRAM -listen 127.0.0.1:PORT",
        ..PLAIN
    },
    Kind {
        name: "private-pids",
        service: "PrivatePIDs=yes\nUser=shop\nExecStart=PROGRAM -listen 127.0.0.1:PORT",
        ..PLAIN
    },
    Kind {
        name: "private-network",
        service: "PrivateNetwork=yes\nUser=shop\nExecStart=PROGRAM -listen 127.0.0.1:PORT",
        apart: true,
        ..PLAIN
    },
    Kind {
        name: "capabilities",
        service: "User=shop\nAmbientCapabilities=CAP_NET_BIND_SERVICE\nExecStart=PROGRAM -listen 127.0.0.1:PORT",
        ..PLAIN
    },
    Kind {
        name: "started-by-a-script",
        service: "User=shop\nExecStart=/bin/sh -c 'PROGRAM -listen 127.0.0.1:PORT; exit 0'",
        ..PLAIN
    },
    Kind {
        name: "several-processes",
        service: "User=shop\nExecStart=/bin/sh -c 'PROGRAM -listen 127.0.0.1:PORT & \
                  PROGRAM -listen 127.0.0.1:1PORT & wait'",
        options: "--pid $(pgrep -f 'listen 127.0.0.1:PORT$' -u shop | tail -n 1)",
        ..PLAIN
    },
    Kind {
        name: "instance@1",
        service: "User=shop\nExecStart=PROGRAM -listen 127.0.0.1:PORT",
        ..PLAIN
    },
    Kind {
        name: "alias",
        service: "User=shop\nExecStart=PROGRAM -listen 127.0.0.1:PORT",
        before: "ln -s kind-alias.service /etc/systemd/system/nickname.service",
        named: "nickname",
        ..PLAIN
    },
    Kind {
        name: "own-slice",
        service: "Slice=apps-web.slice\nUser=shop\nExecStart=PROGRAM -listen 127.0.0.1:PORT",
        ..PLAIN
    },
    Kind {
        name: "replaced-on-disk",
        service: "User=shop\nExecStart=/srv/replaced/shop -listen 127.0.0.1:PORT",
        before: "mkdir -p /srv/replaced && cp PROGRAM /srv/replaced/shop",
        running: "cp /bin/true /srv/replaced/new && mv /srv/replaced/new /srv/replaced/shop",
        ..PLAIN
    },
    Kind {
        name: "removed-from-disk",
        service: "User=shop\nExecStart=/srv/removed/shop -listen 127.0.0.1:PORT",
        before: "mkdir -p /srv/removed && cp PROGRAM /srv/removed/shop",
        running: "rm -r /srv/removed",
        ..PLAIN
    },
    Kind { name: "pie", program: "shop-pie", ..PLAIN },
    Kind {
        name: "stripped",
        program: "shop-stripped",
        options: "--symbols FOLDER/shop-stripped.debug-full",
        ..PLAIN
    },
];

/// Only where they were built, by tests/matrix.
pub(crate) const MORE_PROGRAMS: &[Kind] = &[
    Kind { name: "cgo", program: "shop-cgo", ..PLAIN },
    Kind { name: "trimpath", program: "shop-trimpath", ..PLAIN },
    Kind { name: "unoptimised", program: "shop-unoptimised", ..PLAIN },
];

fn every_make(host: &Host) -> Result<()> {
    for (number, kind) in (0_u16..).zip(KINDS) {
        debugged(host, kind, "/opt/samples", 8200 + number)
            .with_context(|| format!("debugging a service of the kind {}", kind.name))?;
    }
    of_a_user(host).context("debugging a unit of a user's own manager")
}

/// Makes one, debugs it, takes it away.
pub(crate) fn debugged(host: &Host, kind: &Kind, folder: &str, port: u16) -> Result<()> {
    let unit = format!("kind-{}.service", kind.name);
    let program = format!("{folder}/{}", kind.program);
    let filled = |text: &str| {
        text.replace("PROGRAM", &program)
            .replace("PORT", &port.to_string())
            .replace("FOLDER", folder)
    };
    if !kind.before.is_empty() {
        host.ok(&filled(kind.before))?;
    }
    host.write_file(
        &format!("/etc/systemd/system/{unit}"),
        format!("[Service]\n{}\n", filled(kind.service)),
    )?;
    host.ok(&format!("systemctl daemon-reload && systemctl start {unit}"))?;
    let url = format!("http://127.0.0.1:{port}/healthz");
    let inside = match kind.apart {
        true => format!("nsenter --net=/proc/$(systemctl show --value -p MainPID {unit})/ns/net "),
        false => String::new(),
    };
    host.wait_until("it serves", SOON, || {
        Ok(host.run(&format!("{inside}curl --silent --fail {url}"))?.success())
    })?;
    if !kind.running.is_empty() {
        host.ok(&filled(kind.running))?;
    }
    let named = if kind.named.is_empty() { unit.as_str() } else { kind.named };
    leaves_nothing(host, &[&unit], |_| {
        looked_into(host, named, &filled(kind.options), || {
            host.spawn(&format!(
                "exec {inside}curl --silent --max-time 30 'http://127.0.0.1:{port}/order?id=3'"
            ))
        })
    })?;
    host.ok(&format!("{inside}curl --silent --fail {url}"))?;
    host.ok(&format!(
        "systemctl stop {unit}; rm /etc/systemd/system/{unit}; systemctl daemon-reload"
    ))
    .map(drop)
}

/// A session with a breakpoint that is reached, a value, and the service going on.
pub(crate) fn looked_into(
    host: &Host,
    named: &str,
    options: &str,
    order: impl FnOnce() -> Result<godebug_tests::Spawned>,
) -> Result<()> {
    let options = format!("--ttl 60s --yes --from {} {options}", host.laptop_address());
    let session = Session::open(host, named, &options)?;
    let laptop = Laptop::connect(host, &session)?;
    let mut ide = laptop.dap()?;
    ide.attach()?;
    ide.set_function_breakpoints(&["main.priceOf"])?;
    ide.configuration_done()?;
    if options.contains("observe") {
        session.is_armed(host)?;
    }
    let order = order()?;
    let (thread, reason) = ide.wait_for_stop()?;
    ensure!(reason.contains("breakpoint"), "stopped for {reason}");
    let stack = ide.stack_trace(thread)?;
    ensure!(stack[0]["name"] == "main.priceOf", "{}", stack[0]);
    let frame = stack[0]["id"].as_i64().context("a frame without a number")?;
    ensure!(ide.evaluate(frame, "o.Customer")?.contains("customer-3"));
    ide.resume(thread)?;
    is_answered(order)?;
    ide.disconnect(false)?;
    session.stop(host)
}

/// What alice runs by `systemctl --user` she debugs without anybody's leave, and nobody else does.
fn of_a_user(host: &Host) -> Result<()> {
    const UNIT: &str = "/home/alice/.config/systemd/user/notes.service";
    host.write_file(UNIT, "[Service]\nExecStart=/opt/samples/shop -listen 127.0.0.1:8290\n")?;
    host.ok("chown -R alice: /home/alice && loginctl enable-linger alice")?;
    let own = "XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user";
    host.wait_until("alice's manager runs", SOON, || {
        Ok(host.run_as("alice", &format!("{own} start notes"))?.success())
    })?;
    host.wait_until("it serves", SOON, || {
        Ok(host.http_from_host("http://127.0.0.1:8290/healthz").is_ok())
    })?;
    let uid = host.ok("id -u alice")?;
    let manager = format!("user@{}.service", uid.trim());
    leaves_nothing(host, &[&manager], |_| {
        looked_into(host, "user:alice/notes", "", || order(host, 8290))?;
        let opened = host.run_as(
            "alice",
            "godebugctl --json --user attach notes --mode modify --detach --ticket /home/alice/ticket",
        )?;
        let session = opened.exits(0)?.json()?;
        ensure!(session["target"] == "user:alice/notes.service", "{session}");
        ensure!(session["unit"] == manager.as_str(), "{session}");
        ensure!(session["rule"].as_str().is_some_and(|rule| rule.contains("own units")));
        host.run_as("alice", "rm /home/alice/ticket; godebugctl stop --all")?.exits(0)?;
        // Not into the network, not somebody else's, not by the name of the manager.
        for (who, line) in [
            ("alice", "attach user:alice/notes --from 192.0.2.0/24 --detach"),
            ("alice", &format!("attach {manager} --detach")),
            ("bob", "attach user:alice/notes --detach"),
            ("bob", "inspect user:alice/notes"),
        ] {
            host.run_as(who, &format!("godebugctl --json {line}"))?.exits(3)?;
        }
        host.run_as("alice", "godebugctl --json --user attach other --detach")?.exits(4)?;
        host.run_as("bob", "godebugctl --json --user attach notes --detach")?.exits(4).map(drop)
    })?;
    watchdog_of_a_users_unit(host, &manager)?;
    privileged_process_of_a_user(host, &manager)?;
    user_is_gone(host, &manager, "/home/alice/.config")
}

/// Her manager is told that the service is alive, as the system's would be.
fn watchdog_of_a_users_unit(host: &Host, manager: &str) -> Result<()> {
    let own = "XDG_RUNTIME_DIR=/run/user/$(id -u)";
    let watched = "systemd-run --quiet --user --unit=watched -p Type=notify -p WatchdogSec=2 \
                   -p NotifyAccess=main /opt/samples/shop -listen 127.0.0.1:8292";
    host.run_as("alice", &format!("{own} {watched}"))?.exits(0)?;
    leaves_nothing(host, &[manager], |_| {
        let told = host.run_as("alice", "godebugctl --json --user inspect watched")?;
        let told = told.exits(0)?.json()?;
        ensure!(told["watchdog_ms"] == 2000, "{told}");
        let options = format!("--ttl 60s --yes --from {}", host.laptop_address());
        let session = Session::open(host, "user:alice/watched", &options)?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        rpc.command("halt")?;
        // Three times as long as its WatchdogSec=; it must not have been killed meanwhile.
        std::thread::sleep(std::time::Duration::from_secs(6));
        ensure!(rpc.state()?["Running"] == false, "it does not stand");
        session.stop(host)
    })?;
    host.run_as("alice", &format!("{own} systemctl --user stop watched"))?.exits(0).map(drop)
}

/// A program to which its file gives a capability: whoever debugs it has that too, so polkit is asked.
fn privileged_process_of_a_user(host: &Host, manager: &str) -> Result<()> {
    host.ok("cp /opt/samples/shop /opt/samples/shop-raw && python3 -c \"import os; \
         os.setxattr('/opt/samples/shop-raw', 'security.capability', \
         bytes.fromhex('0100000200200000000000000000000000000000'))\"")?;
    let own = "XDG_RUNTIME_DIR=/run/user/$(id -u)";
    host.run_as(
        "alice",
        &format!(
            "{own} systemd-run --quiet --user --unit=raw /opt/samples/shop-raw -listen 127.0.0.1:8291"
        ),
    )?
    .exits(0)?;
    host.wait_until("it serves", SOON, || {
        Ok(host.http_from_host("http://127.0.0.1:8291/healthz").is_ok())
    })?;
    leaves_nothing(host, &[manager], |_| {
        let output = host.run_as("alice", "godebugctl --json --user attach raw --detach")?;
        let told = output.exits(3)?.json()?;
        let message = told["error"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains("has rights that its user does not have"), "{told}");
        Ok(())
    })?;
    host.run_as("alice", &format!("{own} systemctl --user stop raw notes"))?.exits(0).map(drop)
}

/// Over what is in a user namespace of alice's the kernel gives her every capability: godebug asks nobody about it either,
/// whoever it is there; and about what somebody else has put there it does.
fn rootless(host: &Host) -> Result<()> {
    host.ok(
        "ldconfig && mount -o remount,rw /proc/sys && mkdir -p /tmp/root /home/alice/.config/containers && \
         cp /opt/samples/shop /tmp/root/ && chmod -R a+rX /tmp/root && \
         printf '[containers]\\npids_limit=0\\n' >/home/alice/.config/containers/containers.conf && \
         printf '[storage]\\ndriver=\"vfs\"\\n' >/home/alice/.config/containers/storage.conf && \
         chown -R alice: /home/alice && loginctl enable-linger alice",
    )?;
    let bus = "/run/user/$(id -u)/bus";
    let alice = |line: &str| {
        let own = "cd; export XDG_RUNTIME_DIR=/run/user/$(id -u)";
        host.run_as("alice", &format!("{own} DBUS_SESSION_BUS_ADDRESS=unix:path={bus}; {line}"))
    };
    host.wait_until("alice's manager has a bus", SOON, || {
        Ok(alice(&format!("test -S {bus}"))?.success())
    })?;
    alice("tar -C /tmp/root -c . | podman import - shop:latest")?.exits(0)?;
    for (name, options, port) in [("mine", "", 8401), ("as-another", "--user 7:8", 8402)] {
        let run = format!("podman run --detach --name {name} --network host {options} shop:latest");
        alice(&format!("{run} /shop -listen 127.0.0.1:{port}"))?.exits(0)?;
        let url = format!("http://127.0.0.1:{port}/healthz");
        host.wait_until("it serves", SOON, || Ok(host.http_from_host(&url).is_ok()))?;
    }
    docker_without_root(host, &alice)?;
    let manager = format!("user@{}.service", host.ok("id -u alice")?.trim());
    leaves_nothing(host, &[&manager], |_| {
        let podmans = "podman inspect --format 'libpod-{{.Id}}.scope'";
        let dockers =
            "docker -H unix://$XDG_RUNTIME_DIR/docker.sock inspect --format 'runc-{{.Id}}.scope'";
        for (name, engine, port) in
            [("mine", podmans, 8401), ("as-another", podmans, 8402), ("in-docker", dockers, 8404)]
        {
            let unit = alice(&format!("{engine} {name}"))?.exits(0)?.stdout.trim().to_owned();
            let named = format!("user:alice/{unit}");
            looked_into(host, &named, "", || order(host, port)).context(name.to_owned())?;
            crate::snapshot::read_while_it_stands(host, &named, port).context(name.to_owned())?;
            let line = "--json --user attach container:{name} --detach --ticket /home/alice/ticket";
            let opened = alice(&format!("godebugctl {}", line.replace("{name}", name)))?;
            let session = opened.exits(0)?.json()?;
            ensure!(session["target"] == named.as_str(), "{session}");
            alice("rm ticket; godebugctl stop --all")?.exits(0)?;
            host.run_as("bob", &format!("godebugctl --json attach {named} --detach"))?.exits(3)?;
        }
        let none = alice("godebugctl --json --user attach container:nobody --detach")?;
        crate::support::refused(none, 4, "target").map(drop)
    })?;
    somebody_else_in_there(host, &alice)?;
    alice("podman rm --force --time 0 --all")?.exits(0)?;
    alice(
        "docker -H unix://$XDG_RUNTIME_DIR/docker.sock rm --force in-docker && \
         systemctl --user stop dockerd",
    )?
    .exits(0)?;
    user_is_gone(host, &manager, "/home/alice/.config /home/alice/.local")
}

/// A container of alice's own Docker, which has the host's network as Podman's have.
fn docker_without_root(
    host: &Host,
    alice: &dyn Fn(&str) -> Result<godebug_tests::Output>,
) -> Result<()> {
    const DOCKERD: &str = "exec dockerd --rootless --iptables=false --ip6tables=false --ip-forward=false --bridge=none \
        --storage-driver=vfs --exec-opt native.cgroupdriver=systemd";
    // As it is on a host that is no container.
    host.ok("chmod 666 /dev/net/tun")?;
    alice(&format!(
        "systemd-run --quiet --user --unit=dockerd -p Delegate=yes --setenv=PATH=/usr/sbin:/usr/bin \
         rootlesskit --state-dir=$XDG_RUNTIME_DIR/rootlesskit --net=slirp4netns --port-driver=builtin \
         --publish=127.0.0.1:8404:8404/tcp --copy-up=/etc --copy-up=/run \
         --propagation=rslave sh -c 'rm -f /run/docker /run/containerd; {DOCKERD}'"
    ))?
    .exits(0)?;
    host.wait_until("alice's Docker answers", SOON, || {
        Ok(alice("docker -H unix://$XDG_RUNTIME_DIR/docker.sock info")?.success())
    })?;
    alice("export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/docker.sock; \
         tar -C /tmp/root -c . | docker import - shop:latest && \
         docker run --detach --name in-docker --network host shop:latest /shop -listen 127.0.0.1:8404")?
    .exits(0)?;
    host.wait_until("it serves", SOON, || {
        Ok(host.http_from_host("http://127.0.0.1:8404/healthz").is_ok())
    })
}

/// Waits for the end of everything that runs in alice's manager before `files` are removed: what cleans up after a container
/// still writes there when `podman rm` has come back.
fn user_is_gone(host: &Host, manager: &str, files: &str) -> Result<()> {
    host.ok(&format!("loginctl disable-linger alice && systemctl stop {manager} && rm -r {files}"))
        .map(drop)
}

/// A process of root's that has gone into alice's namespace, where root is nobody, and into a unit of hers.
fn somebody_else_in_there(
    host: &Host,
    alice: &dyn Fn(&str) -> Result<godebug_tests::Output>,
) -> Result<()> {
    alice("systemd-run --quiet --user --unit=lured sleep 1000")?.exits(0)?;
    let container = alice("podman inspect --format '{{.State.Pid}}' mine")?.exits(0)?.stdout;
    let group = alice("systemctl --user show --value -p ControlGroup lured")?.exits(0)?.stdout;
    let visitor = host.spawn(&format!(
        "echo $$ >/sys/fs/cgroup{}/cgroup.procs && exec nsenter --user=/proc/{}/ns/user \
         --preserve-credentials /opt/samples/shop -listen 127.0.0.1:8403",
        group.trim(),
        container.trim()
    ))?;
    host.wait_until("it serves", SOON, || {
        Ok(host.http_from_host("http://127.0.0.1:8403/healthz").is_ok())
    })?;
    let told = alice("godebugctl --json --user attach lured --detach")?.exits(3)?.json()?;
    let message = told["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("has rights that its user does not have"), "{told}");
    drop(visitor);
    alice("systemctl --user stop lured")?.exits(0).map(drop)
}

/// A container's network is the host's, so that it can be asked for something.
fn containers(host: &Host) -> Result<()> {
    host.ok(
        "ldconfig && mount -o remount,rw /proc/sys && mkdir -p /tmp/root /etc/containers/systemd && \
         cp /opt/samples/shop /tmp/root/ && \
         printf '[containers]\\npids_limit=0\\n' >/etc/containers/containers.conf && \
         printf '[storage]\\ndriver=\"vfs\"\\nrunroot=\"/run/containers/storage\"\\n\
         graphroot=\"/var/lib/containers/storage\"\\n' >/etc/containers/storage.conf",
    )?;
    let import = "tar -C /tmp/root -c . |";
    host.ok(&format!("{import} podman import - shop:latest"))?;
    host.ok(
        "printf '[Container]\\nImage=localhost/shop:latest\\nContainerName=quadlet\\nNetwork=host\\nPull=never\\n\
         Exec=/shop -listen 127.0.0.1:8301\\n' >/etc/containers/systemd/web.container && \
         systemctl daemon-reload && systemctl start web && \
         podman run --detach --name by-hand --network host --user 65532:65533 shop:latest \
         /shop -listen 127.0.0.1:8302",
    )?;
    host.ok(
        "systemd-run --quiet --unit=dockerd dockerd --iptables=false --ip6tables=false --bridge=none \
         --storage-driver=vfs --exec-opt native.cgroupdriver=systemd",
    )?;
    host.wait_until("Docker answers", SOON, || Ok(host.run("docker info")?.success()))?;
    host.ok(&format!("{import} docker import - shop:latest"))?;
    let id = host.ok(
        "docker run --detach --name dock --network host shop:latest /shop -listen 127.0.0.1:8303",
    )?;
    let docker = format!("docker-{}.scope", id.trim());
    let podman = host.ok("podman inspect --format '{{.Id}}' by-hand")?;
    let podman = format!("libpod-{}.scope", podman.trim());
    for (named, unit, port) in [
        ("container:quadlet", "web.service", 8301),
        ("web", "web.service", 8301),
        ("container:by-hand", podman.as_str(), 8302),
        ("container:dock", docker.as_str(), 8303),
        (&format!("container:{}", &id[..12]), docker.as_str(), 8303),
    ] {
        let url = format!("http://127.0.0.1:{port}/healthz");
        host.wait_until("it serves", SOON, || Ok(host.http_from_host(&url).is_ok()))?;
        leaves_nothing(host, &[unit], |_| {
            looked_into(host, named, "", || order(host, port))?;
            looked_into(host, named, "--mode observe --max-pause 2s", || order(host, port))?;
            crate::snapshot::read_while_it_stands(host, named, port)
        })
        .with_context(|| format!("debugging {named}"))?;
        host.http_from_host(&url)?;
    }
    let unknown = host.run("godebugctl --json attach container:nobody --detach")?;
    let told = crate::support::refused(unknown, 4, "target")?;
    for name in ["quadlet", "by-hand", "dock"] {
        ensure!(told.contains(name), "it does not name what runs: {told}");
    }
    let told = host.run_as("bob", "godebugctl --json attach container:nobody --detach")?;
    let told = crate::support::refused(told, 4, "target")?;
    ensure!(!told.contains("quadlet"), "it tells anybody what runs: {told}");
    host.run_as("bob", "godebugctl --json attach container:dock --detach")?.exits(3)?;
    by_rule(host, &docker)?;
    a_container_that_ends(host, &docker)
}

/// Rules know containers by their names.
fn by_rule(host: &Host, unit: &str) -> Result<()> {
    host.write_file(
        "/etc/godebug/rules.d/10-web.toml",
        "[[rule]]\nname = \"web\"\neffect = \"allow\"\ncontainers = [\"do*\"]\nusers = [\"alice\"]\n",
    )?;
    let explained = |target: &str| -> Result<bool> {
        let line = format!("godebugctl --json rules explain --as alice attach {target}");
        Ok(host.run(&line)?.exits(0)?.json()?["allowed"] == true)
    };
    ensure!(explained("container:dock")?);
    ensure!(!explained("container:quadlet")?);
    ensure!(!explained(unit)?);
    host.ok("rm /etc/godebug/rules.d/10-web.toml").map(drop)
}

/// Its engine stops it while somebody debugs it: the session ends with it.
fn a_container_that_ends(host: &Host, unit: &str) -> Result<()> {
    leaves_nothing_but_new_processes(host, &["web.service"], |_| {
        let session = Session::for_laptop(host, "container:dock", "60s")?;
        ensure!(session.document["unit"] == unit, "{}", session.document);
        host.ok("docker stop dock")?;
        session.ends(host, "target-exited", SOON).map(drop)
    })
}
