//! What a container host and a virtual machine have in common, so that scenarios on either read the
//! same: shell lines as root, files, and a laptop at the other end of a wire.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{Output, Spawned},
    host::Host,
};

pub trait Machine {
    /// Runs a shell line as root on the host.
    fn run(&self, line: &str) -> Result<Output>;

    /// Runs a shell line that must succeed, and gives what it printed.
    fn ok(&self, line: &str) -> Result<String> {
        self.run(line)?.ok()
    }

    fn read_file(&self, path: &str) -> Result<String>;

    fn exists(&self, path: &str) -> Result<bool>;

    /// A program of the host's image, where the laptop can run it.
    fn program(&self, path: &str) -> PathBuf;

    fn address(&self) -> IpAddr;

    fn laptop_address(&self) -> IpAddr;

    /// Starts a shell line on the laptop: the test machine's files, the laptop's network.
    fn laptop_spawn(&self, line: &str) -> Result<Spawned>;

    /// Connects to a port that a program on the laptop itself serves.
    fn connect_on_laptop(&self, target: SocketAddr) -> Result<TcpStream>;

    /// Polls `condition` until it holds. Where something announces the change, wait for that instead.
    fn wait_until(
        &self,
        description: &str,
        limit: Duration,
        condition: &mut dyn FnMut() -> Result<bool>,
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

impl Machine for Host {
    fn run(&self, line: &str) -> Result<Output> {
        Self::run(self, line)
    }

    fn read_file(&self, path: &str) -> Result<String> {
        Self::read_file(self, path)
    }

    fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.path(path).exists())
    }

    fn program(&self, path: &str) -> PathBuf {
        self.path(path)
    }

    fn address(&self) -> IpAddr {
        Self::address(self)
    }

    fn laptop_address(&self) -> IpAddr {
        Self::laptop_address(self)
    }

    fn laptop_spawn(&self, line: &str) -> Result<Spawned> {
        Self::laptop_spawn(self, line)
    }

    fn connect_on_laptop(&self, target: SocketAddr) -> Result<TcpStream> {
        Self::connect_on_laptop(self, target)
    }
}
