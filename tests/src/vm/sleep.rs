//! The two ways in which a virtual machine sleeps, and how it is woken.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{COMMAND_LIMIT, Vm};
use crate::{files, machine::Machine};

const AWAKE: &str = "PM: suspend exit";
const WRITES: &str = "saving image data";
const RESTORED: &str = "PM: hibernation: hibernation exit";

/// A file to which it writes itself, all of it in one place, and where that is. It wakes from there at once
/// instead of switching itself off.
const HIBERNATE_TO_FILE: &str = "\
    [ -e /swap ] || { dd if=/dev/zero of=/swap bs=1M count=700 status=none && chmod 600 /swap && sync && mkswap /swap; } \
    && { grep -q ^/swap /proc/swaps || swapon /swap; } \
    && first='import fcntl, struct; print(*struct.unpack(\"i\", fcntl.ioctl(open(\"/swap\"), 1, struct.pack(\"i\", 0))))' \
    && python3 -c \"$first\" >/sys/power/resume_offset \
    && echo test_resume >/sys/power/disk \
    && { mountpoint -d / >/sys/power/resume || true; }";

/// In seconds, how much longer it is since boot than its monotonic clock says.
const STOOD: &str =
    "python3 -c 'import time; print(time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())'";

impl Vm {
    /// Lets it sleep for so long, and returns when it is awake again. To idle, not to RAM: of all that would wake
    /// an emulated machine only its power button does, and that only from idle. Its monotonic clock goes on.
    ///
    /// # Errors
    /// When something else wakes it, or nothing does.
    pub fn suspend(&self, time: Duration) -> Result<()> {
        let before = self.times_said(AWAKE)?;
        self.ok(
            "modprobe button && mkdir -p /run/systemd/logind.conf.d && \
             printf '[Login]\\nHandlePowerKey=ignore\\n' >/run/systemd/logind.conf.d/button.conf && \
             systemctl try-restart systemd-logind",
        )?;
        // Not before the shell has answered.
        self.begin("sleep 5 && echo freeze >/sys/power/state", "/run/harness/sleep")?;
        std::thread::sleep(time);
        ensure!(self.times_said(AWAKE)? == before, "something else has woken it before");
        let limit = Instant::now() + COMMAND_LIMIT;
        while self.times_said(AWAKE)? == before {
            ensure!(Instant::now() < limit, "it does not wake");
            // One that comes before it sleeps is nothing to it. And nothing is typed before it is awake: the
            // serial port forgets what came while it slept.
            self.lock()?.monitor("system_powerdown", json!({}))?;
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    /// Lets it sleep on its disk for so long (hibernation), and returns when it is awake again. It is paused while it
    /// writes itself there, and its monotonic clock stands from before that until it has read itself back.
    ///
    /// # Errors
    /// When it does not do so, or its monotonic clock went on.
    pub fn hibernate(&self, time: Duration) -> Result<()> {
        self.ok(HIBERNATE_TO_FILE)?;
        let (written, restored) = (self.times_said(WRITES)?, self.times_said(RESTORED)?);
        let before = self.stood()?;
        self.begin("sleep 5 && echo disk >/sys/power/state", "/run/harness/sleep")?;
        self.await_said(WRITES, written)?;
        self.lock()?.monitor("stop", json!({}))?;
        std::thread::sleep(time);
        self.lock()?.monitor("cont", json!({}))?;
        self.await_said(RESTORED, restored)?;
        let stood = self.stood()? - before;
        ensure!(stood >= time.as_secs_f64(), "its monotonic clock stood for {stood} s only");
        Ok(())
    }

    fn stood(&self) -> Result<f64> {
        self.ok(STOOD)?.trim().parse().context("seconds")
    }

    fn await_said(&self, words: &str, before: usize) -> Result<()> {
        let limit = Instant::now() + COMMAND_LIMIT;
        while self.times_said(words)? == before {
            ensure!(Instant::now() < limit, "its kernel does not say {words:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// How often its kernel has said this.
    fn times_said(&self, words: &str) -> Result<usize> {
        let console = files::read(self.lock()?.console())?;
        Ok(console.matches(words).count())
    }
}
