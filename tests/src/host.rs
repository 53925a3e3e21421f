//! A test host: Debian booted in a container of its own in about two seconds, with a laptop on the
//! other end of a wire. Its methods read like what a person does on either.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::{fs::symlink, net::UnixDatagram, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::{
    command::{Output, Place, Spawned, ends_within, tool},
    files,
    image::{self, Product, Suite},
    layer::{Layer, cache, stack},
    network::{self, Network, Port},
    process::{self, Process},
};

const BOOT_LIMIT: Duration = Duration::from_secs(90);
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// What systemd-nspawn exits with when the container asked for a reboot and --keep-unit was given.
const NSPAWN_REBOOT: i32 = 133;

/// What kind of host to boot.
#[derive(Debug, Clone, Copy)]
pub struct HostOptions {
    pub suite: Suite,
    pub product: Product,
    /// Without it the unit is masked, as on a host that has no firewalld.
    pub firewalld: bool,
    /// Podman, Docker and containerd are there.
    pub engines: bool,
}

impl HostOptions {
    pub fn new(suite: Suite) -> Self {
        Self { suite, product: Product::Installed, firewalld: true, engines: false }
    }

    pub fn boot(self) -> Result<Host> {
        Host::boot_with(self)
    }
}

/// A booted host. Dropping it takes away everything it made, unless GODEBUG_KEEP=1 is set; so does
/// the end of the test program, however violent.
pub struct Host {
    suite: Suite,
    name: String,
    directory: PathBuf,
    cgroup: PathBuf,
    network: Network,
    booted: Mutex<Booted>,
    commands: AtomicU64,
    boot_time: Duration,
    /// Fields are dropped in this order: clean up first, then give the number back.
    cleaner: Cleaner,
    _layers: Vec<Layer>,
    slot: File,
}

struct Booted {
    nspawn: Child,
    /// The host's process 1.
    leader: u32,
}

/// Booting
impl Host {
    /// A host with firewalld and the product on it.
    pub fn boot(suite: Suite) -> Result<Self> {
        HostOptions::new(suite).boot()
    }

    /// A host without firewalld.
    pub fn boot_bare(suite: Suite) -> Result<Self> {
        HostOptions { firewalld: false, ..HostOptions::new(suite) }.boot()
    }

    /// A host on which the product was never installed.
    pub fn boot_without_product(suite: Suite) -> Result<Self> {
        HostOptions { product: Product::None, ..HostOptions::new(suite) }.boot()
    }

    fn boot_with(options: HostOptions) -> Result<Self> {
        let mut layers = image::layers(options.suite, options.product)?;
        if options.engines {
            layers.push(image::engines(options.suite)?);
        }
        let began = Instant::now();
        let (slot, number) = take_slot()?;
        let name = slot_name(number);
        let directory = host_directory(number);
        let cleaner = Cleaner::start(number, &slot, Stdio::piped())?;
        let network = Network::new(&name, number);
        let cgroup = cgroup_root()?.join(&name);
        prepare(&directory, &layers)?;
        if !options.firewalld {
            let mask = directory.join("root/etc/systemd/system/firewalld.service");
            symlink("/dev/null", mask).context("masking firewalld")?;
        }
        network.create()?;
        let booted = start(&name, &directory, &cgroup, &network)?;
        let mut host = Self {
            suite: options.suite,
            name,
            directory,
            cgroup,
            network,
            booted: Mutex::new(booted),
            commands: AtomicU64::new(0),
            boot_time: Duration::ZERO,
            cleaner,
            _layers: layers,
            slot,
        };
        host.must_be_healthy()?;
        host.boot_time = began.elapsed();
        Ok(host)
    }

    fn must_be_healthy(&self) -> Result<()> {
        let state = self.run("systemctl is-system-running --wait")?;
        ensure!(
            state.stdout.trim() == "running",
            "{} booted badly: {state}\n{}",
            self.name,
            self.failures()
        );
        self.await_firewalld()
    }

    /// Since firewalld 2.5 its unit counts as started before the service answers.
    fn await_firewalld(&self) -> Result<()> {
        if !self.run("systemctl --quiet is-active firewalld")?.success() {
            return Ok(());
        }
        let name = "org.fedoraproject.FirewallD1";
        let ask = format!("busctl get-property {name} /org/fedoraproject/FirewallD1 {name} state");
        self.wait_until("firewalld answers", Duration::from_secs(30), || {
            Ok(self.run(&ask)?.stdout.contains("RUNNING"))
        })
    }

    fn failures(&self) -> String {
        self.run(
            "systemctl --failed --no-legend --plain; journalctl -b -p warning --no-pager -n 40",
        )
        .map_or_else(|error| error.to_string(), |output| output.stdout)
    }

    /// Installs the built package on the running host, as a person would.
    pub fn install_package(&self) -> Result<()> {
        let package = image::newest_package()?
            .context("there is no target/debian/godebug_*.deb: run make deb")?;
        fs::copy(&package, self.path("/root/godebug.deb")).context("copying the package")?;
        self.ok("DEBIAN_FRONTEND=noninteractive dpkg --install /root/godebug.deb").map(drop)
    }

    /// Reboots in an orderly way. What ran on the host is gone, what is on its disk stays.
    pub fn reboot(&self) -> Result<()> {
        let mut booted = self.lock()?;
        // The command may be cut off by what it asks for.
        let _ =
            self.enter(&booted, "systemctl --no-block reboot", Stdio::null())?.wait(COMMAND_LIMIT);
        ensure!(ends_within(&mut booted.nspawn, BOOT_LIMIT)?, "{} did not go down", self.name);
        let status = booted.nspawn.wait().context("waiting for systemd-nspawn")?;
        ensure!(
            status.code() == Some(NSPAWN_REBOOT),
            "{} ended with {status} instead of rebooting",
            self.name
        );
        self.start_again(booted)
    }

    /// Pulls the plug: every process ends at once, and the host boots again from its disk.
    pub fn cut_power(&self) -> Result<()> {
        let mut booted = self.lock()?;
        files::write(self.cgroup.join("payload/cgroup.kill"), "1")?;
        booted.nspawn.wait().context("waiting for systemd-nspawn")?;
        self.start_again(booted)
    }

    fn start_again(&self, mut booted: MutexGuard<'_, Booted>) -> Result<()> {
        // In a cgroup that was killed once, the kernel also kills what is cloned into it from another.
        remove_cgroups(&self.cgroup.join("payload"))?;
        self.network.recreate_host()?;
        *booted = start(&self.name, &self.directory, &self.cgroup, &self.network)?;
        drop(booted);
        self.must_be_healthy()
    }

    fn lock(&self) -> Result<MutexGuard<'_, Booted>> {
        self.booted
            .lock()
            .map_err(|_| anyhow::anyhow!("another test failed while it rebooted the host"))
    }
}

/// Commands
impl Host {
    /// Runs a shell line as root on the host.
    pub fn run(&self, line: &str) -> Result<Output> {
        self.run_within(line, COMMAND_LIMIT)
    }

    pub fn run_within(&self, line: &str, limit: Duration) -> Result<Output> {
        let mut spawned = self.enter(&*self.lock()?, line, Stdio::null())?;
        spawned.wait(limit)
    }

    /// Runs a shell line that must succeed, and gives what it printed.
    pub fn ok(&self, line: &str) -> Result<String> {
        self.run(line)?.ok()
    }

    /// Runs a shell line as another user.
    pub fn run_as(&self, user: &str, line: &str) -> Result<Output> {
        self.run(&as_user(user, line))
    }

    /// Starts a shell line on the host that runs beside the test.
    pub fn spawn(&self, line: &str) -> Result<Spawned> {
        self.enter(&*self.lock()?, line, Stdio::piped())
    }

    pub fn spawn_as(&self, user: &str, line: &str) -> Result<Spawned> {
        self.spawn(&as_user(user, line))
    }

    /// Runs a shell line on the laptop: the test machine's files, the laptop's network.
    pub fn laptop(&self, line: &str) -> Result<Output> {
        self.enter_laptop(line, Stdio::null())?.wait(COMMAND_LIMIT)
    }

    pub fn laptop_spawn(&self, line: &str) -> Result<Spawned> {
        self.enter_laptop(line, Stdio::piped())
    }

    fn enter(&self, booted: &Booted, line: &str, stdin: Stdio) -> Result<Spawned> {
        // Inside, a command is in a unit's cgroup as a login's would be, not in none that systemd knows.
        let shell = self.cgroup.join("payload/system.slice/harness-shell.service");
        let parent = if shell.exists() { shell } else { self.cgroup.join("outside") };
        let leader = booted.leader.to_string();
        let enter = ["nsenter", "--target", &leader, "--all", "--root", "--wd", "--"];
        let place = Place {
            description: self.suite.name(),
            cgroup: parent.join(self.next_command()),
            enter: enter.map(str::to_owned).to_vec(),
            wrapped: true,
            clean_environment: true,
        };
        Spawned::start(place, line, stdin)
    }

    fn enter_laptop(&self, line: &str, stdin: Stdio) -> Result<Spawned> {
        let namespace = format!("--net=/run/netns/{}", self.network.laptop_namespace());
        let place = Place {
            description: "laptop",
            cgroup: self.cgroup.join("laptop").join(self.next_command()),
            enter: vec!["nsenter".to_owned(), namespace, "--".to_owned()],
            wrapped: false,
            clean_environment: false,
        };
        Spawned::start(place, line, stdin)
    }

    fn next_command(&self) -> String {
        format!("command-{}", self.commands.fetch_add(1, Ordering::Relaxed))
    }

    /// What the host's journal holds, for `journalctl`'s arguments.
    pub fn journal(&self, arguments: &str) -> Result<String> {
        self.ok(&format!("journalctl --no-pager {arguments}"))
    }

    /// Polls `condition` until it holds. Where something announces the change, wait for that instead.
    pub fn wait_until(
        &self,
        description: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !condition().with_context(|| format!("waiting until {description}"))? {
            if Instant::now() > deadline {
                bail!("waited {limit:?} in vain until {description}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Files and processes
impl Host {
    /// A file of the running host, as the test machine sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        let inside = Path::new(path).strip_prefix("/").unwrap_or(Path::new(path));
        let leader = self.booted.lock().map_or(0, |booted| booted.leader);
        PathBuf::from(format!("/proc/{leader}/root")).join(inside)
    }

    pub fn read_file(&self, path: &str) -> Result<String> {
        files::read(self.path(path))
    }

    pub fn write_file(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(path);
        if let Some(folder) = path.parent() {
            files::create_folder(folder)?;
        }
        files::write(path, content)
    }

    /// Every process on the host, those of `spawn` and `run` too.
    pub fn processes(&self) -> Vec<Process> {
        process::in_cgroup(&self.cgroup.join("payload"))
    }

    /// The processes of one unit.
    pub fn unit_processes(&self, unit: &str) -> Result<Vec<Process>> {
        let group = self.ok(&format!("systemctl show --value --property=ControlGroup {unit}"))?;
        let group = group.trim().trim_start_matches('/');
        ensure!(!group.is_empty(), "{unit} is not running");
        Ok(process::in_cgroup(&self.cgroup.join("payload").join(group)))
    }

    /// The Go processes of one unit.
    pub fn targets(&self, unit: &str) -> Result<Vec<Process>> {
        Ok(self.unit_processes(unit)?.into_iter().filter(Process::is_go).collect())
    }

    /// Files below /etc and /usr that differ from the image: size and time of change by path.
    pub(crate) fn changed_files(&self) -> HashMap<PathBuf, String> {
        let mut found = HashMap::new();
        for folder in ["etc", "usr"] {
            list_files(&self.directory.join("upper"), Path::new(folder), &mut found);
        }
        // glibc's lock for the user database: systemd takes it for every DynamicUser=, and overlayfs
        // copies the file, empty as it is and stays.
        found.retain(|path, _| !path.ends_with("etc/.pwd.lock"));
        found
    }
}

/// Network
impl Host {
    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn address(&self) -> IpAddr {
        self.network.host()
    }

    pub fn laptop_address(&self) -> IpAddr {
        self.network.laptop()
    }

    /// Connects from the laptop.
    pub fn connect_from_laptop(&self, port: u16) -> Result<TcpStream> {
        let target = SocketAddr::new(self.address(), port);
        network::connect_from(&self.network.laptop_namespace(), None, target, CONNECT_LIMIT)?
            .with_context(|| format!("connecting from the laptop to {target}"))
    }

    /// Connects to a port that a program on the laptop itself serves.
    pub fn connect_on_laptop(&self, target: SocketAddr) -> Result<TcpStream> {
        network::connect_from(&self.network.laptop_namespace(), None, target, CONNECT_LIMIT)?
            .with_context(|| format!("connecting on the laptop to {target}"))
    }

    /// Connects on the host itself, for its loopback services.
    pub fn connect_on_host(&self, target: SocketAddr) -> Result<TcpStream> {
        network::connect_from(&self.network.host_namespace(), None, target, CONNECT_LIMIT)?
            .with_context(|| format!("connecting on the host to {target}"))
    }

    pub fn port_scan_from_laptop(&self, port: u16) -> Result<Port> {
        self.port_scan(self.laptop_address(), port)
    }

    /// The same from another address than the laptop's own.
    pub fn port_scan_from_stranger(&self, port: u16) -> Result<Port> {
        self.port_scan(self.network.stranger(), port)
    }

    pub fn port_scan_from_laptop_v6(&self, port: u16) -> Result<Port> {
        let target = SocketAddr::new(self.network.host_v6(), port);
        network::scan(&self.network.laptop_namespace(), Some(self.network.laptop_v6()), target)
    }

    fn port_scan(&self, source: IpAddr, port: u16) -> Result<Port> {
        let target = SocketAddr::new(self.address(), port);
        network::scan(&self.network.laptop_namespace(), Some(source), target)
    }

    /// What a URL answers on the host itself.
    pub fn http_from_host(&self, url: &str) -> Result<String> {
        self.ok(&format!("curl --silent --show-error --fail --max-time 10 '{url}'"))
    }
}

/// About the host
impl Host {
    pub fn suite(&self) -> Suite {
        self.suite
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// The command that gives a person a shell on it.
    pub fn how_to_enter(&self) -> String {
        let leader = self.booted.lock().map_or(0, |booted| booted.leader);
        format!("nsenter --target {leader} --all --root --wd -- bash -l")
    }

    /// The command that gives a person a shell on its laptop.
    pub fn how_to_enter_laptop(&self) -> String {
        format!("nsenter --net=/run/netns/{} -- bash", self.network.laptop_namespace())
    }

    /// What to look at after a scenario failed: console and journal, in a file of their own.
    pub fn write_diagnosis(&self, path: &Path) -> Result<()> {
        let journal = self.run(
            "journalctl -b --no-pager -o short-monotonic; systemctl list-units --all 'godebug*'",
        )?;
        // A debugger that hangs says so nowhere else.
        let threads = self.run(
            "for thread in /proc/[0-9]*/task/*; do \
               case $(cat $thread/cgroup) in *godebug*|*myapp*|*sample*) \
                 echo \"$thread $(cat $thread/comm) $(grep -E 'State|TracerPid|SigPnd|ShdPnd|SigBlk' $thread/status | tr '\\n' ' ')\"; \
                 cat $thread/wchan $thread/syscall; echo; cat $thread/stack;; esac; \
             done 2>/dev/null",
        )?;
        let console = files::tail(&self.directory.join("console"), 200);
        if let Some(folder) = path.parent() {
            files::create_folder(folder)?;
        }
        files::write(
            path,
            format!(
                "{}\n--- threads\n{}\n--- console\n{console}\n",
                journal.stdout, threads.stdout
            ),
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::env::var_os("GODEBUG_KEEP").is_some_and(|value| value == "1") {
            match self.keep() {
                Ok(()) => return,
                Err(error) => eprintln!("could not keep {}: {error:#}", self.name),
            }
        }
        self.cleaner.finish();
        if let Ok(booted) = self.booted.get_mut() {
            let _ = booted.nspawn.wait();
        }
    }
}

impl Host {
    /// Leaves the host running after this program; its number stays taken as long as it runs.
    fn keep(&mut self) -> Result<()> {
        let holder = Place {
            description: "keeper",
            cgroup: self.cgroup.join("kept"),
            enter: Vec::new(),
            wrapped: false,
            clean_environment: true,
        };
        let slot = self.slot.try_clone().context("keeping the host's number")?;
        // Forgotten, not dropped: dropping would end it.
        std::mem::forget(Spawned::start(holder, "exec sleep infinity", slot.into())?);
        self.cleaner.dismiss();
        println!("kept {}; a shell on it: {}", self.name, self.how_to_enter());
        println!("end it with: echo 1 >{}", self.cgroup.join("cgroup.kill").display());
        Ok(())
    }
}

/// The process that takes a host away. It outlives this program and works when its input ends.
pub(crate) struct Cleaner(Child);

impl Cleaner {
    pub(crate) fn start(number: u8, slot: &File, stdin: Stdio) -> Result<Self> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", include_str!("../host/cleanup.sh"), "cleanup", &slot_name(number)])
            .arg(host_directory(number))
            .stdin(stdin)
            // Holding the file holds its lock: nobody gets the number before all is clean.
            .stdout(slot.try_clone().context("handing on a host's number")?)
            // Ctrl-C on the tests must not reach it.
            .process_group(0);
        command.spawn().context("starting the cleaner").map(Self)
    }

    pub(crate) fn finish(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }

    fn dismiss(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.finish();
    }
}

fn as_user(user: &str, line: &str) -> String {
    let quoted = line.replace('\'', r"'\''");
    format!("cd / && exec runuser --user {user} -- /bin/sh -c '{quoted}'")
}

fn list_files(root: &Path, folder: &Path, found: &mut HashMap<PathBuf, String>) {
    for entry in fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
        let path = folder.join(entry.file_name());
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => list_files(root, &path, found),
            Ok(meta) => {
                found.insert(
                    Path::new("/").join(path),
                    format!("{} bytes, {:?}", meta.len(), meta.modified().ok()),
                );
            }
            Err(_) => {}
        }
    }
}

const LOCKS: &str = "/run/godebug-tests";

fn lock_path(number: u8) -> String {
    format!("{LOCKS}/{number}.lock")
}

pub(crate) fn slot_name(number: u8) -> String {
    format!("gdb-{number}")
}

pub(crate) fn host_directory(number: u8) -> PathBuf {
    cache().join("hosts").join(slot_name(number))
}

/// Takes the first free number. Its lock is held as long as the host lives, so whatever a free
/// number still has on this machine belongs to nobody and is cleared away.
pub(crate) fn take_slot() -> Result<(File, u8)> {
    files::create_folder(LOCKS)?;
    for number in 1..=250 {
        let path = lock_path(number);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {path}"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            Cleaner::start(number, &file, Stdio::null())?.finish();
            clear_abandoned()?;
            return Ok((file, number));
        }
    }
    bail!("250 test hosts are running already")
}

/// Clears away hosts that were kept and then killed.
fn clear_abandoned() -> Result<()> {
    for number in 1..=250 {
        if !host_directory(number).exists() {
            continue;
        }
        let path = lock_path(number);
        let file =
            File::options().append(true).open(&path).with_context(|| format!("opening {path}"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            Cleaner::start(number, &file, Stdio::null())?.finish();
        }
    }
    Ok(())
}

fn prepare(directory: &Path, layers: &[Layer]) -> Result<()> {
    for folder in ["upper", "work", "root"] {
        files::create_folder(directory.join(folder))?;
    }
    let at = directory.display();
    let layers: Vec<&Layer> = layers.iter().collect();
    // volatile: nothing here needs to survive the machine, so nothing needs to be synced.
    let options = format!(
        "lowerdir={},upperdir={at}/upper,workdir={at}/work,redirect_dir=off,index=off,metacopy=off,volatile",
        stack(&layers)
    );
    tool("mount", &["-t", "overlay", "overlay", "-o", &options, &format!("{at}/root")]).map(drop)
}

/// Removes a tree of cgroups; their last processes may still be on their way out.
fn remove_cgroups(path: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path())?;
        }
    }
    while let Err(error) = fs::remove_dir(path) {
        if error.kind() == io::ErrorKind::NotFound {
            break;
        }
        ensure!(Instant::now() < deadline, "removing the cgroup {}: {error}", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The unified cgroup hierarchy, wherever this machine has it.
pub(crate) fn cgroup_root() -> Result<PathBuf> {
    let mounts = files::read("/proc/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(2) == Some(&"cgroup2")).then(|| words.get(1).map(PathBuf::from)).flatten()
    });
    found.context("no cgroup2 file system is mounted on this machine: test hosts need one")
}

fn start(name: &str, directory: &Path, cgroup: &Path, network: &Network) -> Result<Booted> {
    files::create_folder(cgroup)?;
    let notify = directory.join("notify");
    let _ = fs::remove_file(&notify);
    let messages = UnixDatagram::bind(&notify).context("making the boot notification socket")?;
    messages.set_read_timeout(Some(Duration::from_millis(200))).context("setting a time limit")?;
    let console_path = directory.join("console");
    let console = File::options()
        .create(true)
        .append(true)
        .open(&console_path)
        .context("opening the console file")?;
    let mut command = Command::new("/bin/sh");
    // A cgroup of its own: with --keep-unit, hosts in the same one would share their trees.
    command
        .args(["-c", r#"echo $$ >"$1/cgroup.procs"; shift; exec "$@""#, "join"])
        .arg(cgroup)
        .args(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--notify-ready=yes"])
        .args(["--capability=all", "--resolv-conf=off", "--timezone=off", "--link-journal=no"])
        // What a host has and nspawn keeps from a container: `exec` asks to be told of executions, and container
        // engines filter devices and have keys.
        .arg("--system-call-filter=fanotify_init fanotify_mark bpf keyctl add_key pivot_root")
        .arg(format!("--network-namespace-path=/run/netns/{}", network.host_namespace()))
        .arg(format!("--machine={name}"))
        .arg("--directory")
        .arg(directory.join("root"))
        .arg("--boot")
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
        .env("NOTIFY_SOCKET", &notify)
        .process_group(0)
        .stdin(Stdio::null())
        .stderr(console.try_clone().context("opening the console file")?)
        .stdout(console);
    let mut nspawn = command.spawn().context("starting systemd-nspawn")?;
    match await_ready(&messages, &mut nspawn) {
        Ok(leader) => Ok(Booted { nspawn, leader }),
        Err(error) => {
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            let _ = nspawn.wait();
            Err(error).with_context(|| {
                format!("booting {name}; its console:\n{}", files::tail(&console_path, 60))
            })
        }
    }
}

/// Waits for the host's systemd to say that it has finished booting; gives its process number.
fn await_ready(messages: &UnixDatagram, nspawn: &mut Child) -> Result<u32> {
    let deadline = Instant::now() + BOOT_LIMIT;
    let (mut leader, mut buffer) = (None, [0; 4096]);
    while Instant::now() < deadline {
        if let Ok(length) = messages.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let found = message.lines().find_map(|line| line.strip_prefix("X_NSPAWN_LEADER_PID="));
            leader = found.and_then(|pid| pid.parse().ok()).or(leader);
            if message.lines().any(|line| line == "READY=1") {
                return leader.context("systemd-nspawn did not say which process it started");
            }
        }
        if let Some(status) = nspawn.try_wait().context("waiting for systemd-nspawn")? {
            bail!("systemd-nspawn ended: {status}");
        }
    }
    bail!("not ready within {BOOT_LIMIT:?}")
}
