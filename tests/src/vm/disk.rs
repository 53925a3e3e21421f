//! A virtual machine's disk, made from the layers of an image, and the machine as it was when it had
//! booted from it: both are made once for each state of the product, and cached.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    Lsm, Wires,
    qemu::{Accelerator, Qemu, Start},
};
use crate::{
    command::tool,
    files::{self, Key},
    host::{Cleaner, take_slot},
    image::Step,
    layer::{Layer, layer, stack},
};

/// Raise this when a machine gets other devices, since a saved memory goes with those it was saved with, or
/// when it is made ready in another way.
const RECIPE: &str = "2";

/// A folder with `disk`, `memory`, the kernel and what runs it: a machine that has booted.
pub(super) fn booted(lsm: Lsm, layers: &[Layer]) -> Result<Layer> {
    let recipe = files::tests_folder().join("vm");
    let key = layers
        .iter()
        .fold(Key::default(), |key, layer| key.text(&layer.path().display().to_string()))
        .files(&recipe)?;
    let disk = layer(&format!("product-vm-disk-{}", lsm.name()), &key.finish(), |folder| {
        make_disk(lsm, folder, layers, &recipe)
    })?;
    let key = Key::default().text(&disk.path().display().to_string()).text(RECIPE).finish();
    layer(&format!("product-vm-{}", lsm.name()), &key, |folder| {
        let _step = Step::begin(&format!("booting a machine with {} (once)", lsm.name()));
        copy(disk.path(), folder)?;
        boot(lsm, folder)
    })
}

fn make_disk(lsm: Lsm, folder: &Path, layers: &[Layer], recipe: &Path) -> Result<()> {
    let _step = Step::begin("making the disk of the virtual machines");
    let boot = layers.iter().map(|layer| layer.path().join("boot")).find(|path| path.is_dir());
    let boot = boot.context("the image has no kernel")?;
    for name in ["vmlinuz", "initrd.img"] {
        let found =
            fs::read_dir(&boot)?.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
                path.file_name().is_some_and(|found| found.to_string_lossy().starts_with(name))
            });
        let found = found.with_context(|| format!("no {name} in {}", boot.display()))?;
        fs::copy(&found, folder.join(name)).with_context(|| format!("copying {name}"))?;
    }
    let work = folder.join("work");
    let lower: Vec<&Layer> = layers.iter().collect();
    let words = [
        "--mount".to_owned(),
        "/bin/sh".to_owned(),
        recipe.join("make-disk.sh").display().to_string(),
        stack(&lower),
        folder.join("disk").display().to_string(),
        work.display().to_string(),
        recipe.display().to_string(),
        lsm.name().to_owned(),
    ];
    tool("unshare", &words.each_ref().map(String::as_str))?;
    tool("rm", &["-rf", "--one-file-system", &work.display().to_string()]).map(drop)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for name in ["vmlinuz", "initrd.img", "disk"] {
        let (from, to) = (from.join(name), to.join(name));
        let paths = [&from, &to].map(|path| path.display().to_string());
        tool("cp", &["--sparse=always", &paths[0], &paths[1]])?;
    }
    Ok(())
}

/// Boots from `folder`'s disk, waits until all is quiet, and keeps the memory beside it.
fn boot(lsm: Lsm, folder: &Path) -> Result<()> {
    let kvm = Path::new("/dev/kvm").exists();
    let candidates: &[Accelerator] =
        if kvm { &[Accelerator::Kvm, Accelerator::Software] } else { &[Accelerator::Software] };
    let mut failure = None;
    for accelerator in candidates {
        match boot_with(lsm, folder, *accelerator) {
            Ok(()) => return files::write(folder.join("accelerator"), name_of(*accelerator)),
            Err(error) if *accelerator == Accelerator::Kvm => {
                eprintln!("* KVM does not run it here ({error:#}): software emulation");
                failure = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or_else(|| anyhow::anyhow!("nothing to run it with")))
}

fn boot_with(lsm: Lsm, folder: &Path, accelerator: Accelerator) -> Result<()> {
    let (slot, number) = take_slot()?;
    let mut cleaner = Cleaner::start(number, &slot, Stdio::piped())?;
    let wires = Wires::lay(number)?;
    let namespace = wires.network.laptop_namespace();
    let mut qemu = Qemu::start(&Start {
        directory: &wires.directory,
        cgroup: &wires.cgroup.join("qemu"),
        namespace: &namespace,
        boot: folder,
        disk: &folder.join("disk"),
        keep_disk: true,
        memory: None,
        lsm,
        accelerator,
    })?;
    let booted = qemu.await_boot().and_then(|()| is_ready(&mut qemu, lsm));
    let kept = booted.and_then(|()| qemu.save(&folder.join("memory")));
    let console = files::tail(qemu.console(), 60);
    qemu.end();
    cleaner.finish();
    kept.with_context(|| format!("its console:\n{console}"))
}

fn is_ready(qemu: &mut Qemu, lsm: Lsm) -> Result<()> {
    let limit = Duration::from_secs(300);
    let state = qemu.run("systemctl is-system-running --wait", limit)?;
    if state.stdout.trim() != "running" {
        let why = qemu.run(
            "systemctl --failed --no-legend --plain; journalctl -b -p warning --no-pager -n 60; \
             grep -h -e 'avc:  denied' -e 'apparmor=\"DENIED\"' /var/log/audit/audit.log | tail -n 60",
            limit,
        )?;
        bail!("it booted badly: {state}\n{}", why.stdout);
    }
    let enforcing = match lsm {
        Lsm::AppArmor => "grep -qx Y /sys/module/apparmor/parameters/enabled",
        Lsm::Selinux => "grep -qx 1 /sys/fs/selinux/enforce",
    };
    qemu.run(enforcing, limit)?.ok()?;
    // The first question takes longest, since every dlv is asked for its version.
    qemu.run("godebugctl doctor; systemctl stop godebugd", limit)?;
    // What is only in its memory so far shall be on its disk too.
    qemu.run("sync", limit)?.ok().map(drop)
}

fn name_of(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Software => "software",
    }
}

/// What the memory in `folder` was saved with: another accelerator has another processor.
pub(super) fn accelerator_of(folder: &Path) -> Result<Accelerator> {
    let path: PathBuf = folder.join("accelerator");
    Ok(match files::read(&path)?.as_str() {
        "kvm" => Accelerator::Kvm,
        _ => Accelerator::Software,
    })
}
