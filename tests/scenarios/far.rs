//! `-H`: a host is debugged from a laptop, by ssh to it.

use anyhow::{Result, ensure};
use godebug_tests::{Host, Machine, Output, Spawned, scenario::Scenario};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::ides::vscode_is_here;
use crate::support::{
    Laptop, SOON, Session, is_answered, leaves_nothing, line_of, listen_address, order, refused,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("far_host_is_debugged_from_the_laptop_by_ssh", by_tls).main().shared(),
    Scenario::new("far_host_is_debugged_through_ssh_with_no_port_open", by_ssh).shared(),
    Scenario::new("newcomer_reaches_a_first_breakpoint_in_vscode", newcomer).without_product(),
    Scenario::new("far_hosts_are_asked_all_at_once", many).shared(),
    Scenario::new("far_host_that_ssh_does_not_reach_is_told_with_a_remedy", unreachable).shared(),
    Scenario::new("two_laptops_debug_two_services_of_one_host", two_laptops).shared(),
    Scenario::new("far_session_goes_on_after_its_connection_broke_off", blinks).shared(),
    Scenario::new(
        "far_session_outlives_a_network_that_is_cut_and_restored",
        network_is_cut_and_restored,
    ),
    Scenario::new("far_session_ends_when_nobody_comes_back", nobody_comes_back).shared(),
];

/// A laptop that may log in to the host as root, by a key.
struct Ssh<'a> {
    host: &'a Host,
    folder: tempfile::TempDir,
}

/// A second sshd, to jump over.
const JUMP: u16 = 2222;

impl<'a> Ssh<'a> {
    fn to(host: &'a Host) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = folder.path().display();
        host.laptop(&format!("ssh-keygen -q -t ed25519 -N '' -f {at}/key"))?.ok()?;
        let key = std::fs::read_to_string(folder.path().join("key.pub"))?;
        host.ok(&format!(
            "install -d -m 700 /root/.ssh; echo '{}' > /root/.ssh/authorized_keys; \
             firewall-cmd --quiet --add-port={JUMP}/tcp; systemctl start ssh; systemd-run --collect --unit=jump -p RuntimeDirectory=sshd \
             /usr/sbin/sshd -D -p {JUMP}",
            key.trim()
        ))?;
        let address = host.address();
        let server = host.ok("cat /etc/ssh/ssh_host_ed25519_key.pub")?;
        let server: Vec<&str> = server.split_whitespace().take(2).collect();
        let known = |name: &str| format!("{name} {}\n", server.join(" "));
        let names = [address.to_string(), format!("[{address}]:{JUMP}"), "inside".to_owned()];
        let lines: String = names.iter().map(|name| known(name)).collect();
        std::fs::write(folder.path().join("known"), lines)?;
        let config = format!(
            "Host jump\n HostName {address}\n Port {JUMP}\nHost inside\n HostName {address}\n \
             HostKeyAlias inside\n ProxyJump root@jump\nHost *\n IdentityFile {at}/key\n \
             UserKnownHostsFile {at}/known\n StrictHostKeyChecking yes\n BatchMode yes\n"
        );
        std::fs::write(folder.path().join("config"), config)?;
        // ssh looks for its settings in the home of the account, which is the machine's own.
        let ssh = format!("#!/bin/sh\nexec /usr/bin/ssh -F {at}/config \"$@\"\n");
        std::fs::write(folder.path().join("ssh"), ssh)?;
        host.laptop(&format!("chmod 755 {at}/ssh"))?.ok()?;
        let this = Self { host, folder };
        host.wait_until("sshd answers", SOON, || {
            Ok(this.run(&format!("ssh root@{address} true"))?.status == 0)
        })?;
        Ok(this)
    }

    fn line(&self, words: &str) -> String {
        let (at, program) =
            (self.folder.path().display(), self.host.program("/usr/bin/godebugctl"));
        let words = words.replace("godebugctl", &program.display().to_string());
        format!("export PATH={at}:$PATH; exec {words}")
    }

    fn run(&self, words: &str) -> Result<Output> {
        self.host.laptop(&self.line(words))
    }

    fn spawn(&self, words: &str) -> Result<Spawned> {
        self.host.laptop_spawn(&self.line(words))
    }

    fn end(self) -> Result<()> {
        let close = format!("firewall-cmd --quiet --remove-port={JUMP}/tcp");
        self.host.ok(&format!("{close}; systemctl stop jump ssh; rm -rf /root/.ssh")).map(drop)
    }
}

/// An IDE at the laptop's local port is at a breakpoint, and sees values.
fn is_debugged(host: &Host, address: SocketAddr) -> Result<()> {
    let wire = Machine::connect_on_laptop(host, address)?;
    let mut ide = godebug_tests::dap::DapClient::new(wire);
    ide.attach()?;
    ide.set_function_breakpoints(&["main.priceOf"])?;
    ide.configuration_done()?;
    let request = order(host, 8080)?;
    let (thread, _) = ide.wait_for_stop()?;
    ensure!(ide.stack_trace(thread)?[0]["name"] == "main.priceOf");
    ide.resume(thread)?;
    is_answered(request)?;
    ide.disconnect(false)
}

fn by_tls(host: &Host) -> Result<()> {
    let ssh = Ssh::to(host)?;
    leaves_nothing(host, &["myapp"], |_| {
        let address = host.address();
        let at = format!("-H root@{address}");
        let mut attach = ssh.spawn(&format!("godebugctl {at} --json attach myapp --ttl 60s"))?;
        let line = attach.wait_for_line("\"listen\"", SOON)?;
        let session: Value = serde_json::from_str(&line)?;
        ensure!(session["endpoint"] == format!("{address}:2345"), "{session}");
        ensure!(
            session["sources"].to_string().contains(&host.laptop_address().to_string()),
            "{session}"
        );
        is_debugged(host, listen_address(&line)?)?;
        attach.interrupt()?;
        attach.wait(SOON)?.exits(0)?;
        // The key of a ticket has never been on the host; what it writes is on the laptop.
        let ticket = ssh.folder.path().join("t");
        let detached = format!(
            "godebugctl {at} --json attach myapp --ttl 60s --detach --ticket {}",
            ticket.display()
        );
        let session = Session::of(ssh.run(&detached)?.exits(0)?.json()?)?;
        let laptop = Laptop::with_ticket(host, &std::fs::read_to_string(&ticket)?)?;
        is_debugged(host, laptop.address)?;
        ide_is_set_up(&ssh, &at)?;
        let list = ssh.run(&format!("godebugctl {at} list"))?.exits(0)?.stdout;
        ensure!(list.contains(&session.id) && list.contains("root"), "{list}");
        ssh.run(&format!("godebugctl {at} stop {}", session.id))?.exits(0)?;
        // What comes through a pipe, or reads that host's files, runs there.
        let shown = ssh
            .run(&format!("godebugctl {at} --json snapshot myapp --expr '1 + 1' --max-pause 2s"))?;
        let shown = shown.exits(0)?.json()?;
        ensure!(shown["variables"][0]["value"] == "2", "{shown}");
        let key = ssh.run(&format!("godebugctl {at} audit key"))?.exits(0)?.stdout;
        ensure!(!key.trim().is_empty(), "no key");
        let why = ssh.run(&format!("godebugctl {at} --json inspect nosuch"))?;
        refused(why, 4, "target").map(drop)
    })?;
    ssh.end()
}

/// In a checkout of the program its IDE knows the session, and keeps what was in its file.
fn ide_is_set_up(ssh: &Ssh<'_>, at: &str) -> Result<()> {
    let checkout = ssh.folder.path().join("shop");
    std::fs::create_dir_all(checkout.join("cmd"))?;
    std::fs::create_dir(checkout.join(".vscode"))?;
    std::fs::write(checkout.join("go.mod"), "module example.invalid/shop\n\ngo 1.21\n")?;
    let file = checkout.join(".vscode/launch.json");
    std::fs::write(&file, "{\n  // mine\n  \"configurations\": [ { \"name\": \"test\" }, ],\n}\n")?;
    let ticket = ssh.folder.path().join("other");
    let attach = format!(
        "godebugctl {at} attach app@9 --ttl 60s --detach --ticket {} --ide vscode",
        ticket.display()
    );
    ssh.host.ok("systemctl start app@9")?;
    let line = format!("cd {}/cmd; {}", checkout.display(), ssh.line(&attach));
    let said = ssh.host.laptop(&line)?.exits(0)?.stdout;
    ensure!(said.contains("launch.json has \"godebug: app@9\" now"), "{said}");
    let text = std::fs::read_to_string(&file)?;
    // Where it was built is in the program.
    for part in ["// mine", "\"test\"", "\"godebug: app@9\"", "2345", "\"/opt/samples/src/shop\""] {
        ensure!(text.contains(part), "{part} is not in it: {text}");
    }
    let list = ssh.run(&format!("godebugctl {at} --json list"))?.exits(0)?.json()?;
    let here = list.as_array().into_iter().flatten().find(|it| it["unit"] == "app@9.service");
    let id = here.and_then(|it| it["id"].as_str()).unwrap_or_default().to_owned();
    ssh.run(&format!("godebugctl {at} stop {id}"))?.exits(0)?;
    ssh.host.ok("systemctl stop app@9").map(drop)
}

fn by_ssh(host: &Host) -> Result<()> {
    let ssh = Ssh::to(host)?;
    leaves_nothing(host, &["myapp"], |_| {
        // Over a second host, which is all that the laptop reaches.
        let mut attach =
            ssh.spawn("godebugctl -H root@inside --json attach myapp --ttl 60s --via ssh")?;
        let line = attach.wait_for_line("\"listen\"", SOON)?;
        let session: Value = serde_json::from_str(&line)?;
        ensure!(session["sources"] == serde_json::json!(["127.0.0.1/32"]), "{session}");
        let rules = host.ok("nft list tables; firewall-cmd --list-rich-rules")?;
        ensure!(!rules.contains("godebug") && !rules.contains("2345"), "a rule was made: {rules}");
        is_debugged(host, listen_address(&line)?)?;
        attach.interrupt()?;
        attach.wait(SOON)?.exits(0)?;
        refused(ssh.run("godebugctl --json attach myapp --via ssh")?, 2, "usage").map(drop)
    })?;
    // Not every sshd lets streams through.
    host.ok("echo 'AllowTcpForwarding no' >/etc/ssh/sshd_config.d/no.conf; systemctl restart ssh")?;
    leaves_nothing(host, &["myapp"], |_| {
        let at = format!("-H root@{}", host.address());
        let output = ssh.run(&format!("godebugctl {at} attach myapp --ttl 60s --via ssh"))?;
        let said = output.exits(5)?.stderr;
        ensure!(said.contains("--via tls") && said.contains("prohibited"), "no remedy: {said}");
        Ok(())
    })?;
    host.ok("rm /etc/ssh/sshd_config.d/no.conf; systemctl restart ssh")?;
    ssh.end()
}

fn many(host: &Host) -> Result<()> {
    let ssh = Ssh::to(host)?;
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        let hosts = ssh.folder.path().join("hosts");
        std::fs::write(
            &hosts,
            format!("# ours\nroot@{}\n\nroot@inside\nroot@192.0.2.1\n", host.address()),
        )?;
        std::fs::write(
            ssh.folder.path().join("config"),
            std::fs::read_to_string(ssh.folder.path().join("config"))? + " ConnectTimeout 1\n",
        )?;
        let list = ssh.run(&format!("godebugctl -H @{} list", hosts.display()))?.exits(5)?.stdout;
        ensure!(list.starts_with("HOST") && list.matches(&session.id).count() == 2, "{list}");
        ensure!(list.contains("192.0.2.1"), "the one that is silent: {list}");
        let both = format!("root@{},root@inside", host.address());
        let all =
            ssh.run(&format!("godebugctl -H {both} --json inspect myapp"))?.exits(0)?.json()?;
        ensure!(all.as_array().is_some_and(|all| all.len() == 2), "{all}");
        ensure!(
            all[1]["host"] == "root@inside" && all[1]["result"]["unit"] == "myapp.service",
            "{all}"
        );
        refused(ssh.run(&format!("godebugctl -H {both} --json attach myapp"))?, 2, "usage")?;
        ssh.run(&format!("godebugctl -H root@{} stop --all", host.address()))?.exits(0).map(drop)
    })?;
    ssh.end()
}

fn unreachable(host: &Host) -> Result<()> {
    let ssh = Ssh::to(host)?;
    leaves_nothing(host, &["myapp"], |_| {
        for bad in ["-oProxyCommand=false", "'a b'", "''", "a@", "'$(id)'"] {
            refused(ssh.run(&format!("godebugctl --json --host={bad} list"))?, 2, "usage")?;
        }
        let known = ssh.folder.path().join("known");
        let right = std::fs::read_to_string(&known)?;
        std::fs::write(&known, right.replace("AAAA", "AAAB"))?;
        let at = format!("root@{}", host.address());
        let output = ssh.run(&format!("godebugctl -H {at} list"))?.exits(5)?;
        ensure!(output.stderr.contains("ssh does not reach"), "{output}");
        ensure!(output.stderr.contains(&format!("ssh {at} true")), "no remedy: {output}");
        std::fs::write(&known, right).map_err(Into::into)
    })?;
    host.ok("mv /usr/bin/systemd-stdio-bridge /usr/bin/there")?;
    let at = format!("root@{}", host.address());
    let output = ssh.run(&format!("godebugctl -H {at} list"))?.exits(5)?;
    ensure!(output.stderr.contains("no systemd-stdio-bridge"), "{output}");
    host.ok("mv /usr/bin/there /usr/bin/systemd-stdio-bridge")?;
    ssh.end()
}

/// The connection breaks off, as when somebody trips over a cable: the session waits, and goes on.
fn blinks(host: &Host) -> Result<()> {
    let ssh = Ssh::to(host)?;
    // A shell that greets, as many do.
    host.ok("printf 'echo you are on a production host\\nprintf careful' >/root/.bashrc")?;
    leaves_nothing(host, &["myapp"], |_| {
        let at = format!("-H root@{}", host.address());
        let mut attach = ssh.spawn(&format!("godebugctl {at} --json attach myapp --ttl 90s"))?;
        let line = attach.wait_for_line("\"listen\"", SOON)?;
        let session = Session::of(serde_json::from_str(&line)?)?;
        is_debugged(host, listen_address(&line)?)?;
        for time in 1..=2 {
            host.ok("pkill -KILL --exact systemd-stdio-b")?;
            told(host, &attach, "connected again", time, SOON)?;
            ensure!(session.show(host)?["state"] == "active");
            is_debugged(host, listen_address(&line)?)?;
        }
        // Nor does it matter whom godebugd knew as the holder before it was killed.
        host.ok("systemctl kill --signal=KILL godebugd")?;
        is_debugged(host, listen_address(&line)?)?;
        ensure!(session.show(host)?["state"] == "active");
        attach.interrupt()?;
        let output = attach.wait(SOON)?.exits(0)?;
        ensure!(output.stderr.contains("has broken off"), "{output}");
        session.ends(host, "stopped", SOON)?;
        // What is run there is read by programs too.
        let seen = ssh.run(&format!("godebugctl {at} --json snapshot myapp --max-pause 2s"))?;
        let hit = seen.exits(0)?.json()?;
        ensure!(hit["unit"] == "myapp.service", "{hit}");
        Ok(())
    })?;
    host.ok("rm /root/.bashrc")?;
    ssh.end()
}

/// Waits until a person at the terminal has read this so many times.
fn told(host: &Host, command: &Spawned, words: &str, times: usize, limit: Duration) -> Result<()> {
    host.wait_until(words, limit, || Ok(command.stderr().matches(words).count() >= times))
}

/// The network is gone for longer than ssh waits, and comes back.
fn network_is_cut_and_restored(host: &Host) -> Result<()> {
    let ssh = Ssh::to(host)?;
    leaves_nothing(host, &["myapp"], |_| {
        let at = format!("-H root@{}", host.address());
        let mut attach = ssh.spawn(&format!("godebugctl {at} --json attach myapp --ttl 5m"))?;
        let line = attach.wait_for_line("\"listen\"", SOON)?;
        let session = Session::of(serde_json::from_str(&line)?)?;
        is_debugged(host, listen_address(&line)?)?;
        let wire = host.laptop("ip -o -4 addr show scope global | awk '{print $2; exit}'")?.stdout;
        let wire = wire.trim();
        let addresses = host.laptop(&format!("ip -o -6 addr show dev {wire} scope global"))?.stdout;
        host.laptop(&format!("ip link set {wire} down"))?.ok()?;
        told(host, &attach, "has broken off", 1, Duration::from_secs(60))?;
        ensure!(session.show(host)?["state"] == "active");
        host.laptop(&format!("ip link set {wire} up"))?.ok()?;
        // A link that goes down takes its addresses of IPv6 with it.
        for address in addresses.split_whitespace().filter(|word| word.contains("::")) {
            host.laptop(&format!("ip addr replace {address} dev {wire} nodad"))?;
        }
        told(host, &attach, "connected again", 1, Duration::from_secs(60))?;
        is_debugged(host, listen_address(&line)?)?;
        attach.interrupt()?;
        attach.wait(SOON)?.exits(0)?;
        session.ends(host, "stopped", SOON).map(drop)
    })?;
    ssh.end()
}

/// Nobody comes back: it ends when the time for that is over.
fn nobody_comes_back(host: &Host) -> Result<()> {
    let ssh = Ssh::to(host)?;
    for (wait, limit) in [("0s", SOON), ("2s", SOON)] {
        leaves_nothing(host, &["myapp"], |_| {
            let at = format!("-H root@{}", host.address());
            let line = format!("godebugctl {at} --json attach myapp --ttl 60s --reconnect {wait}");
            let mut attach = ssh.spawn(&line)?;
            let line = attach.wait_for_line("\"listen\"", SOON)?;
            let session = Session::of(serde_json::from_str(&line)?)?;
            attach.signal(Signal::KILL)?;
            host.ok("pkill -KILL --exact systemd-stdio-b || true")?;
            session.ends(host, "client-gone", limit)?;
            attach.wait(SOON).map(drop)
        })?;
    }
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        let call = "busctl call org.godebug1 /org/godebug1 org.godebug1.Manager Hold s";
        // One that was detached is held by nobody, and one of root's by nobody else.
        host.run(&format!("{call} {}", session.id))?.exits(1)?;
        let other = host.run_as("alice", &format!("{call} {}", session.id))?.exits(1)?;
        ensure!(other.stderr.contains("is held by root"), "{other}");
        session.stop(host)
    })?;
    ssh.end()
}

/// Each has a session, a port and an end of its own; both cannot have the same service.
fn two_laptops(host: &Host) -> Result<()> {
    host.ok("systemctl start pie")?;
    let ssh = Ssh::to(host)?;
    leaves_nothing(host, &["myapp", "pie"], |_| {
        let at = format!("-H root@{}", host.address());
        let open = |unit: &str| -> Result<(Spawned, Session, SocketAddr)> {
            let mut attach =
                ssh.spawn(&format!("godebugctl {at} --json attach {unit} --ttl 90s"))?;
            let line = attach.wait_for_line("\"listen\"", SOON)?;
            let session = Session::of(serde_json::from_str(&line)?)?;
            Ok((attach, session, listen_address(&line)?))
        };
        let (mut first, of_first, address) = open("myapp")?;
        let (mut second, of_second, other) = open("pie")?;
        ensure!(of_first.port != of_second.port && address != other);
        let refusal = ssh.run(&format!("godebugctl {at} --json attach myapp"))?;
        ensure!(refused(refusal, 4, "target")?.contains(&of_first.id));
        is_debugged(host, address)?;
        first.interrupt()?;
        first.wait(SOON)?.exits(0)?;
        of_first.ends(host, "stopped", SOON)?;
        ensure!(of_second.show(host)?["state"] == "active");
        Machine::connect_on_laptop(host, other)?;
        second.interrupt()?;
        second.wait(SOON)?.exits(0)?;
        of_second.ends(host, "stopped", SOON).map(drop)
    })?;
    host.ok("systemctl stop pie")?;
    ssh.end()
}

/// Two commands and F5, from a host that has never seen godebug to a breakpoint and a value.
fn newcomer(host: &Host) -> Result<()> {
    if std::env::var("GODEBUG_DEV_INSTALL").is_ok_and(|value| value == "1") {
        eprintln!("     GODEBUG_DEV_INSTALL=1: there is no package to install");
        return Ok(());
    }
    let (folder, here) = vscode_is_here()?;
    let ssh = Ssh::to(host)?;
    let began = Instant::now();
    host.install_package()?;
    let installed = began.elapsed();
    leaves_nothing(host, &["myapp"], |_| {
        let at = format!("-H root@{}", host.address());
        let mut attach = ssh.spawn(&format!("godebugctl {at} --json attach myapp --ttl 90s"))?;
        let listen = listen_address(&attach.wait_for_line("\"listen\"", SOON)?)?;
        let attached = began.elapsed();
        let mut code = host.laptop_spawn(&format!(
            "NODE_PATH={}/node_modules exec node {}/vscode.js {} step /opt/samples/src/shop/main.go {}",
            folder.display(),
            here.display(),
            listen.port(),
            line_of("discounts := map")?
        ))?;
        code.wait_for_line("READY", SOON)?;
        let request = order(host, 8080)?;
        ensure!(code.wait(SOON)?.ok()?.contains("OK"));
        eprintln!(
            "     a newcomer: installed after {:.1} s, attached after {:.1} s, at a breakpoint and on after {:.1} s",
            installed.as_secs_f32(),
            attached.as_secs_f32(),
            began.elapsed().as_secs_f32()
        );
        is_answered(request)?;
        attach.interrupt()?;
        attach.wait(SOON)?.exits(0).map(drop)
    })?;
    ssh.end()
}
