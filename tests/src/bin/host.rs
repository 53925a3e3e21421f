//! Test hosts by hand: make images, boot a host to look around on, or run one command on a fresh one.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};
use godebug_tests::{
    Output,
    host::{Host, HostOptions},
    image::{self, Product, Suite},
    machine::Machine,
    vm::{Lsm, Vm},
};

const USAGE: &str = "usage: host boot SUITE [--bare] [--no-product] [--engines]    boot one, until Ctrl-C
       host run SUITE [--bare] [--no-product] [--engines] -- COMMAND...    boot one, run a shell line, end
       host image SUITE|all    make images
       host vm LSM -- COMMAND...    run a shell line on a fresh virtual machine, end
SUITE is bookworm, trixie or forky, LSM apparmor or selinux.
GODEBUG_DEV_INSTALL=1 installs with `make install` instead of from target/debian/godebug_*.deb;
GODEBUG_TEST_PACKAGE names another package; GODEBUG_KEEP=1 leaves the host behind; GODEBUG_TEST_CACHE is where images are kept.";

/// Set for the process that does the work: its parent takes the Ctrl-C, and it sees its input end.
const WORKER: &str = "GODEBUG_HOST_WORKER";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match act(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("host: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(words: &[&str]) -> Result<ExitCode> {
    match words {
        ["image", "all"] => {
            Suite::ALL.into_iter().try_for_each(image::prepare).map(|()| ExitCode::SUCCESS)
        }
        ["image", suite] => image::prepare(Suite::parse(suite)?).map(|()| ExitCode::SUCCESS),
        ["vm", lsm, "--", line @ ..] => run_on_vm(Lsm::parse(lsm)?, &line.join(" ")),
        ["boot", suite, rest @ ..] => {
            let options = options(suite, rest)?;
            if std::env::var_os(WORKER).is_none() { supervise(words) } else { boot(options) }
        }
        ["run", suite, rest @ ..] => {
            let dashes = rest.iter().position(|word| *word == "--").context(USAGE)?;
            let host = options(suite, &rest[..dashes])?.boot()?;
            let output = host.run(&rest[dashes + 1..].join(" "))?;
            Ok(told(&output))
        }
        _ => bail!("{USAGE}"),
    }
}

fn run_on_vm(lsm: Lsm, line: &str) -> Result<ExitCode> {
    let vm = Vm::start(lsm)?;
    eprintln!("a machine with {} goes on after {:.1} s", lsm.name(), vm.start_time().as_secs_f32());
    Ok(told(&vm.run(line)?))
}

fn told(output: &Output) -> ExitCode {
    print!("{}", output.stdout);
    eprint!("{}", output.stderr);
    ExitCode::from(u8::try_from(output.status).unwrap_or(1))
}

fn options(suite: &str, flags: &[&str]) -> Result<HostOptions> {
    let mut options = HostOptions::new(Suite::parse(suite)?);
    for flag in flags {
        match *flag {
            "--bare" => options.firewalld = false,
            "--engines" => options.engines = true,
            "--no-product" => options.product = Product::None,
            _ => bail!("{USAGE}"),
        }
    }
    Ok(options)
}

/// Runs this program again as the worker, out of reach of the terminal's signals. When this process
/// ends, by Ctrl-C or otherwise, the worker's input ends and it takes the host away.
fn supervise(words: &[&str]) -> Result<ExitCode> {
    let mut worker = Command::new(std::env::current_exe().context("finding this program")?)
        .args(words)
        .env(WORKER, "1")
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn()
        .context("starting the worker")?;
    let mut input = worker.stdin.take().context("the worker has no input")?;
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut input);
    });
    let status = worker.wait().context("waiting for the worker")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn boot(options: HostOptions) -> Result<ExitCode> {
    let host = options.boot()?;
    describe(&host);
    let mut ignored = Vec::new();
    std::io::stdin().read_to_end(&mut ignored).context("waiting for the end of input")?;
    drop(host);
    println!("the host is gone");
    Ok(ExitCode::SUCCESS)
}

fn describe(host: &Host) {
    println!(
        "{} is up: {} in {:.1} s",
        host.name(),
        host.suite().name(),
        host.boot_time().as_secs_f32()
    );
    println!("  a shell on it:         {}", host.how_to_enter());
    println!("  a shell on its laptop: {}", host.how_to_enter_laptop());
    println!(
        "  addresses: host {} {}, laptop {} {}, stranger {}",
        host.address(),
        host.network().host_v6(),
        host.laptop_address(),
        host.network().laptop_v6(),
        host.network().stranger()
    );
    println!("Ctrl-C or the end of input takes it away.");
}
