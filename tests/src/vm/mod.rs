//! A virtual machine as a test host: Debian with a kernel of its own, for what a container shares with
//! the machine it runs on: security modules, the clock, and what is lost with the power. It is booted once, its
//! memory and disk are kept, and every scenario goes on from there in seconds. Its network is one
//! wire to the laptop, in a namespace of this machine.

mod disk;
mod qemu;
mod sleep;
mod state;

use std::{
    fs::File,
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow};
use serde_json::json;

use crate::{
    command::{Output, Place, Spawned},
    files,
    host::{Cleaner, cgroup_root, host_directory, slot_name, take_slot},
    image,
    layer::Layer,
    machine::Machine,
    network::{self, Network},
};
use qemu::{Qemu, Start};
pub use state::{VmSnapshot, nothing_left_on};

const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// The security module that the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lsm {
    AppArmor,
    Selinux,
}

impl Lsm {
    pub const ALL: [Self; 2] = [Self::AppArmor, Self::Selinux];

    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|lsm| lsm.name() == name);
        found.with_context(|| format!("no such security module: {name} (apparmor, selinux)"))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::AppArmor => "apparmor",
            Self::Selinux => "selinux",
        }
    }

    /// What the kernel is told at boot.
    fn kernel(self) -> &'static str {
        match self {
            Self::AppArmor => "security=apparmor apparmor=1",
            Self::Selinux => "security=selinux selinux=1 enforcing=1",
        }
    }
}

/// A running virtual machine. Dropping it takes away everything it made; so does the end of the test
/// program, however violent.
pub struct Vm {
    lsm: Lsm,
    /// The file system that it was made from, as far as the laptop needs it.
    layers: Vec<Layer>,
    wires: Wires,
    qemu: Mutex<Qemu>,
    start_time: Duration,
    /// Fields are dropped in this order: clean up, then give the number back.
    cleaner: Cleaner,
    _kept: Layer,
    _slot: File,
}

/// Where a machine's own things are on this machine, and its laptop.
struct Wires {
    directory: PathBuf,
    cgroup: PathBuf,
    network: Network,
    commands: AtomicU64,
}

impl Wires {
    fn lay(number: u8) -> Result<Self> {
        let name = slot_name(number);
        let directory = host_directory(number);
        let cgroup = cgroup_root()?.join(&name);
        files::create_folder(&directory)?;
        files::create_folder(cgroup.join("qemu"))?;
        // Each machine has the same address: it is in the memory they all go on from.
        let network = Network::new(&name, 0);
        network.create_for_vm()?;
        Ok(Self { directory, cgroup, network, commands: AtomicU64::new(0) })
    }
}

/// Running
impl Vm {
    /// One with the product on it, as it was right after its boot.
    pub fn start(lsm: Lsm) -> Result<Self> {
        let layers = image::vm_layers()?;
        let kept = disk::booted(lsm, &layers)?;
        let began = Instant::now();
        let (slot, number) = take_slot()?;
        let cleaner = Cleaner::start(number, &slot, Stdio::piped())?;
        let wires = Wires::lay(number)?;
        let namespace = wires.network.laptop_namespace();
        let mut qemu = Qemu::start(&Start {
            directory: &wires.directory,
            cgroup: &wires.cgroup.join("qemu"),
            namespace: &namespace,
            boot: kept.path(),
            disk: &kept.path().join("disk"),
            keep_disk: false,
            memory: Some(&kept.path().join("memory")),
            lsm,
            accelerator: disk::accelerator_of(kept.path())?,
        })?;
        qemu.resume()?;
        let mut vm = Self {
            lsm,
            layers,
            wires,
            qemu: Mutex::new(qemu),
            start_time: began.elapsed(),
            cleaner,
            _kept: kept,
            _slot: slot,
        };
        vm.set_clock(SystemTime::now())?;
        vm.start_time = began.elapsed();
        Ok(vm)
    }

    /// Steps its wall clock.
    pub fn set_clock(&self, time: SystemTime) -> Result<()> {
        let time = time.duration_since(SystemTime::UNIX_EPOCH).context("a time before 1970")?;
        self.ok(&format!("date --set=@{}.{:09}", time.as_secs(), time.subsec_nanos())).map(drop)
    }

    /// Takes the power away: memory and everything that was not on the disk are gone.
    pub fn cut_power(&self) -> Result<()> {
        let mut qemu = self.lock()?;
        qemu.monitor("system_reset", json!({}))?;
        qemu.await_boot()?;
        drop(qemu);
        self.ok("systemctl is-system-running --wait")?;
        self.set_clock(SystemTime::now())
    }

    /// Reboots it in good order.
    pub fn reboot(&self) -> Result<()> {
        self.begin("systemctl reboot", "/run/harness/reboot")?;
        let mut qemu = self.lock()?;
        qemu.await_boot()?;
        drop(qemu);
        self.ok("systemctl is-system-running --wait")?;
        self.set_clock(SystemTime::now())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Qemu>> {
        self.qemu.lock().map_err(|_| anyhow!("another test failed while it used the machine"))
    }
}

/// About the machine
impl Vm {
    pub fn lsm(&self) -> Lsm {
        self.lsm
    }

    pub fn start_time(&self) -> Duration {
        self.start_time
    }

    /// Runs a shell line on the host that goes on beside the test; what it prints is in `output`.
    pub fn begin(&self, line: &str, output: &str) -> Result<()> {
        let quoted = line.replace('\'', r"'\''");
        self.ok(&format!("setsid sh -c '{quoted}' >{output} 2>&1 &")).map(drop)
    }

    /// What to look at after a scenario failed, in a file of its own.
    pub fn write_diagnosis(&self, path: &Path) -> Result<()> {
        let journal = self.run("journalctl -b --no-pager -o short-monotonic | tail -n 1500")?;
        let console = files::tail(self.lock()?.console(), 100);
        if let Some(folder) = path.parent() {
            files::create_folder(folder)?;
        }
        files::write(path, format!("{}\n--- console\n{console}\n", journal.stdout))
    }
}

impl Machine for Vm {
    fn run(&self, line: &str) -> Result<Output> {
        self.lock()?.run(line, COMMAND_LIMIT)
    }

    fn read_file(&self, path: &str) -> Result<String> {
        self.ok(&format!("cat '{path}'"))
    }

    fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.run(&format!("test -e '{path}'"))?.success())
    }

    fn program(&self, path: &str) -> PathBuf {
        let inside = path.trim_start_matches('/');
        let found = self.layers.iter().map(|layer| layer.path().join(inside));
        found.into_iter().find(|path| path.exists()).unwrap_or_else(|| PathBuf::from(path))
    }

    fn address(&self) -> IpAddr {
        self.wires.network.host()
    }

    fn laptop_address(&self) -> IpAddr {
        self.wires.network.laptop()
    }

    fn laptop_spawn(&self, line: &str) -> Result<Spawned> {
        let namespace = format!("--net=/run/netns/{}", self.wires.network.laptop_namespace());
        let number = self.wires.commands.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            description: "laptop",
            cgroup: self.wires.cgroup.join("laptop").join(format!("command-{number}")),
            enter: vec!["nsenter".to_owned(), namespace, "--".to_owned()],
            wrapped: false,
            clean_environment: false,
        };
        Spawned::start(place, line, Stdio::piped())
    }

    fn connect_on_laptop(&self, target: SocketAddr) -> Result<TcpStream> {
        let namespace = self.wires.network.laptop_namespace();
        network::connect_from(&namespace, None, target, Duration::from_secs(15))?
            .with_context(|| format!("connecting on the laptop to {target}"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Ok(qemu) = self.qemu.get_mut() {
            qemu.end();
        }
        self.cleaner.finish();
    }
}
