//! `-H`: another host's godebugd, as `systemctl -H` reaches another systemd: its bus, through the real ssh and
//! systemd-stdio-bridge. ssh's own settings hold (jumps, keys, known hosts), and it asks on the terminal what
//! it has to ask.

use crate::request::Ssh;
use godebug_api::Refusal;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;
use zbus::Connection;

/// Says where we come from, and then carries messages. A shell of whatever kind understands it.
const BRIDGE: &str = "echo \"godebug-bridge $SSH_CONNECTION\" && exec systemd-stdio-bridge";
/// What stands at the beginning of that line. Before it may be what the account's shell greets with.
const MARK: &str = "godebug-bridge ";
/// The same before what godebugctl prints there.
const BEGINS: &str = "godebugctl-begins";
/// No shell greets with more, in bytes.
const LONGEST_GREETING: usize = 64 * 1024;
/// ssh's own exit status when it did not come through; every other is the far program's.
const SSH_FAILED: i32 = 255;
/// A shell's when there is no such program.
const NOT_THERE: i32 = 127;

/// The host that all commands of this run are about; empty when it is this one.
static CHOSEN: OnceLock<Host> = OnceLock::new();

/// `[USER@]HOST`, as ssh takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    name: String,
    /// ssh asks for nothing, and does not wait for long.
    is_unasked: bool,
    /// What it says is of no interest: it is tried again.
    is_quiet: bool,
}

/// Why it is none.
#[derive(Debug, thiserror::Error)]
#[error("it must be [USER@]HOST, as ssh takes it")]
pub(crate) struct NoHost;

impl FromStr for Host {
    type Err = NoHost;

    fn from_str(text: &str) -> Result<Self, NoHost> {
        // What begins with a dash would be an option of ssh's, and could run any program here.
        let good = |c: char| c.is_ascii_alphanumeric() || "-._@:[]%+/".contains(c);
        let host = text.rsplit('@').next().unwrap_or_default();
        let fits = !host.is_empty() && text.len() <= 300 && text.chars().all(good);
        match fits && !text.starts_with(['-', '@']) && !host.starts_with('-') {
            true => Ok(Self { name: text.to_owned(), is_unasked: false, is_quiet: false }),
            false => Err(NoHost),
        }
    }
}

impl Host {
    /// All that is done from now on is done there.
    pub(crate) fn choose(self) {
        // Once, by `main`.
        let _ = CHOSEN.set(self);
    }

    /// The one that was chosen, if it is not this one.
    pub(crate) fn chosen() -> Option<&'static Self> {
        CHOSEN.get()
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.name
    }

    /// For how long an answer is waited for, where it is one host of several.
    pub(crate) fn patience(&self, is_quick: bool) -> Option<Duration> {
        let patience = if is_quick { Duration::from_secs(30) } else { Duration::from_secs(150) };
        self.is_unasked.then_some(patience)
    }

    /// The same, with nobody there to be asked.
    pub(crate) fn unasked(&self) -> Self {
        Self { is_unasked: true, ..self.clone() }
    }

    /// The same, in the background, again and again.
    pub(crate) fn repeated(&self) -> Self {
        Self { is_quiet: true, ..self.unasked() }
    }

    fn ssh(&self, options: &[&str], command: &str) -> Command {
        let mut ssh = Command::new("ssh");
        if self.is_quiet {
            ssh.stderr(Stdio::null());
        }
        if self.is_unasked {
            ssh.args(["-oBatchMode=yes", "-oConnectTimeout=5"]);
        }
        ssh.args(options).arg("--").arg(&self.name);
        if !command.is_empty() {
            ssh.arg(command);
        }
        ssh
    }

    /// The bus of that host, and where it sees us come from.
    ///
    /// # Errors
    /// When ssh does not come through, or there is no bridge or no bus.
    pub(crate) async fn bus(&self) -> Result<(Connection, Ssh), Refusal> {
        let host = self.clone();
        let bridged = tokio::task::spawn_blocking(move || host.bridge()).await;
        let (stream, mut ssh, from) =
            bridged.map_err(|error| Refusal::failed(error.to_string(), ""))??;
        let connected = zbus::connection::Builder::unix_stream(stream).build().await;
        match connected {
            Ok(connection) => {
                // It ends when the connection is closed.
                std::thread::spawn(move || ssh.wait());
                Ok((connection, from))
            }
            Err(error) => {
                Err(self.explain(ssh.wait(), &format!("the bus does not answer: {error}")))
            }
        }
    }

    fn bridge(&self) -> Result<(UnixStream, Child, Ssh), Refusal> {
        let failed = |error: io::Error| {
            Refusal::host(
                format!("ssh cannot be run: {error}"),
                "install it: apt install openssh-client",
            )
        };
        let (mut here, there) = UnixStream::pair().map_err(failed)?;
        let input: OwnedFd = there.into();
        let output = input.try_clone().map_err(failed)?;
        // A network that is gone is noticed within half a minute, and not after the kernel's quarter of an hour.
        let alive = ["-xT", "-oServerAliveInterval=10", "-oServerAliveCountMax=3"];
        let mut ssh = self.ssh(&alive, BRIDGE);
        ssh.stdin(Stdio::from(input)).stdout(Stdio::from(output));
        let mut child = ssh.spawn().map_err(failed)?;
        // With it our copies of its end: else a bridge that ends would not be noticed.
        drop(ssh);
        match marked_line(&mut here, MARK) {
            Ok(from) => Ok((here, child, Ssh::parse(&from))),
            Err(error) => {
                let _ = here.shutdown(Shutdown::Both);
                Err(self.explain(child.wait(), &format!("it ended too early: {error}")))
            }
        }
    }

    fn explain(&self, ended: io::Result<ExitStatus>, otherwise: &str) -> Refusal {
        let host = &self.name;
        match ended.ok().and_then(|status| status.code()) {
            Some(SSH_FAILED) => Refusal::host(
                format!("ssh does not reach {host}; what it said stands above"),
                format!("try it by itself: ssh {host} true"),
            ),
            Some(NOT_THERE) => Refusal::host(
                format!("{host} has no systemd-stdio-bridge, by which its bus is reached"),
                format!("use it there instead: ssh -t {host} godebugctl …"),
            ),
            _ => Refusal::host(
                format!("the bus of {host} is not reached: {otherwise}"),
                format!("try it by itself: ssh {host} busctl status org.godebug1"),
            ),
        }
    }

    /// The name by which ssh knows that host, which is what clients here reach it by.
    pub(crate) fn name(&self) -> Option<String> {
        let mut ssh = Command::new("ssh");
        let told = ssh.args(["-G", "--", &self.name]).stdin(Stdio::null()).stderr(Stdio::null());
        let told = String::from_utf8(told.output().ok()?.stdout).ok()?;
        told.lines().find_map(|line| line.strip_prefix("hostname ")).map(str::to_owned)
    }

    /// Runs godebugctl there, for what cannot come through a bridge: files, and pipes.
    ///
    /// # Errors
    /// When ssh does not come through. The status is godebugctl's own.
    pub(crate) fn run(&self, arguments: &[String], on_terminal: bool) -> Result<u8, Refusal> {
        let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
        let options: &[&str] = if on_terminal { &["-xt", "-oLogLevel=QUIET"] } else { &["-xT"] };
        let command = format!("godebugctl {}", words.join(" "));
        let status = match on_terminal {
            true => self.ssh(options, &command).status(),
            false => passed_on(self.ssh(options, &format!("echo {BEGINS} && exec {command}"))),
        };
        let status = status.map_err(|error| {
            Refusal::host(format!("ssh cannot be run: {error}"), "apt install openssh-client")
        })?;
        match status.code() {
            Some(SSH_FAILED) => Err(self.explain(Ok(status), "")),
            Some(NOT_THERE) => Err(Refusal::host(
                format!("there is no godebugctl on {}", self.name),
                "install the package there",
            )),
            Some(code) => Ok(u8::try_from(code).unwrap_or(1)),
            None => Err(Refusal::failed(format!("ssh was ended: {status}"), "")),
        }
    }

    /// A stream to this port of that host's loopback, through ssh: no port has to be open to us.
    ///
    /// # Errors
    /// When ssh cannot be run; that it does not come through shows as an end of the stream.
    pub(crate) fn stream_to(&self, port: u16) -> io::Result<UnixStream> {
        let (here, there) = UnixStream::pair()?;
        let input: OwnedFd = there.into();
        let output = input.try_clone()?;
        let mut ssh = self.ssh(&["-xT", "-W", &format!("127.0.0.1:{port}")], "");
        let mut child = ssh.stdin(Stdio::from(input)).stdout(Stdio::from(output)).spawn()?;
        std::thread::spawn(move || child.wait());
        Ok(here)
    }
}

/// Runs it, and passes on what is printed once the account's shell has greeted: others read it as lines of JSON.
fn passed_on(mut ssh: Command) -> io::Result<ExitStatus> {
    let mut child = ssh.stdout(Stdio::piped()).spawn()?;
    if let Some(mut output) = child.stdout.take()
        && marked_line(&mut output, BEGINS).is_ok()
    {
        // When nobody reads it any more, the far side is told by the end of the pipe.
        let _ = io::copy(&mut output, &mut io::stdout().lock());
    }
    child.wait()
}

/// What stands behind the mark, without a byte of what follows its line.
fn marked_line(from: &mut impl Read, mark: &str) -> io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    for _ in 0..LONGEST_GREETING {
        from.read_exact(&mut byte)?;
        if byte != *b"\n" {
            line.push(byte[0]);
            continue;
        }
        let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        // A greeting need not end with a line break.
        if let Some(at) = text.rfind(mark) {
            return Ok(text[at + mark.len()..].to_owned());
        }
        line.clear();
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "what the shell there says first is too long"))
}

/// One word of a shell's command line, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_no_option_of_ssh_and_no_command() {
        for good in ["web1", "me@web1.example", "root@192.0.2.1", "[2001:db8::1]", "a_b@c-d"] {
            assert!(good.parse::<Host>().is_ok(), "{good}");
        }
        let long = "x".repeat(400);
        for bad in [
            "",
            "-oProxyCommand=x",
            "me@-oProxyCommand",
            "a b",
            "a;b",
            "a\nb",
            "@a",
            "a@",
            "$(id)",
            &long,
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_quoted_word_stays_one() {
        assert_eq!(quoted("o.ID == 3"), "'o.ID == 3'");
        assert_eq!(quoted("it's $(x)"), r"'it'\''s $(x)'");
    }

    #[test]
    fn a_line_ends_where_the_messages_begin() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let said = b"Welcome!\n\x1b[1mhi\x1b[0m godebug-bridge 10.0.0.1 5 10.0.0.2 22\nl";
        io::Write::write_all(&mut there, said).unwrap();
        assert_eq!(marked_line(&mut here, MARK).unwrap(), "10.0.0.1 5 10.0.0.2 22");
        let mut rest = [0];
        here.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"l");
        drop(there);
        assert!(marked_line(&mut here, MARK).is_err());
    }

    #[test]
    fn a_shell_that_talks_without_end_is_not_listened_to() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        std::thread::spawn(move || while io::Write::write_all(&mut there, b"yes\n").is_ok() {});
        let error = marked_line(&mut here, MARK).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
