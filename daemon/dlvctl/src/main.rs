//! dlv's attendant, run by systemd inside dlv's own unit: says when dlv is ready (ExecStartPost),
//! and detaches it from its target in the way that does no harm (ExecStop).
//!
//! Exit status: 0 done, 1 not done and why on standard error, 2 wrong arguments.

mod account;
mod as_user;
mod detach;
mod dlv;
mod gateway;
mod image;
mod process;
mod ready;
mod summary;
mod unpack;

use godebug_api::{Pid, WordError};
use ready::Begins;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use unpack::Expected;

const USAGE: &str = "\
usage: godebug-dlvctl ready SOCKET PID DLV_PID [DLV_LOG [MILLISECONDS|entry|main|nowhere|core]]
       godebug-dlvctl detach SOCKET PID [CONTROL_SOCKET]
       godebug-dlvctl unpack FOLDER LIMIT BUILD [vouched-for]
       godebug-dlvctl read-image DLV PROGRAM [OPTION...]
       godebug-dlvctl as UID GID PROGRAM [ARGUMENT...]

ready waits until the dlv that listens on SOCKET has attached to process PID and lets it run, which may stand for
MILLISECONDS meanwhile; or, for a process that a SIGSTOP holds at its first instruction, until it stands where it shall; or, for a core,
until dlv answers.
detach clears every breakpoint, detaches dlv from PID and leaves PID running.
unpack makes FOLDER/core and FOLDER/program of the dump and the program on standard input (a socket).
read-image becomes a DLV that reads the image on standard input (a socket), with its program at PROGRAM.
as runs PROGRAM as a user without a name, with no capability but CAP_SYS_PTRACE.";

/// What it was asked to do.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Ready { socket: PathBuf, target: Pid, dlv: Pid, log: Option<PathBuf>, start: Begins },
    Unpack { folder: PathBuf, limit: u64, expected: Expected },
    Detach { socket: PathBuf, target: Pid, control: Option<PathBuf> },
    ReadImage { dlv: PathBuf, program: PathBuf, options: Vec<OsString> },
    As { uid: u32, gid: u32, command: Vec<OsString> },
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)) {
        Ok(Task::Ready { socket, target, dlv, log, start }) => {
            match ready::wait(&socket, target, dlv, start, &ready::Patience::default()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error}");
                    eprint!("{}", ready::last_words(log.as_deref()));
                    ExitCode::FAILURE
                }
            }
        }
        Ok(Task::Unpack { folder, limit, expected }) => {
            match unpack::unpack(&folder, limit, &expected) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error}");
                    ExitCode::FAILURE
                }
            }
        }
        Ok(Task::Detach { socket, target, control }) => {
            let summary = detach::detach(&socket, target, control.as_deref());
            eprintln!("{summary}");
            if summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(Task::ReadImage { dlv, program, options }) => {
            let error = image::read(&dlv, &program, &options);
            eprintln!("dlv cannot be given the image: {error}");
            ExitCode::FAILURE
        }
        Ok(Task::As { uid, gid, command }) => {
            let error = as_user::run(uid, gid, &command);
            eprintln!("the debugger cannot run as user {uid}: {error}");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Task, String> {
    let arguments: Vec<OsString> = arguments.collect();
    let pid = |index: usize| {
        let text: &str = arguments[index].to_str().unwrap_or("?");
        text.parse::<Pid>().map_err(|error| error.to_string())
    };
    let path = |index: usize| arguments.get(index).map(PathBuf::from);
    let socket = path(1).unwrap_or_default();
    match (arguments.first().and_then(|word| word.to_str()), arguments.len()) {
        (Some("ready"), 4..=6) => {
            let start = match arguments.get(5).map(|word| word.to_str().unwrap_or("?")) {
                None => Begins::Attached { stands_at_most: None },
                Some("core") => Begins::Core,
                Some(limit) if limit.starts_with(|first: char| first.is_ascii_digit()) => {
                    let limit = limit.parse().map_err(|error| format!("{limit}: {error}"))?;
                    Begins::Attached { stands_at_most: Some(Duration::from_millis(limit)) }
                }
                Some(at) => {
                    Begins::Started(at.parse().map_err(|error: WordError| error.to_string())?)
                }
            };
            Ok(Task::Ready { socket, target: pid(2)?, dlv: pid(3)?, log: path(4), start })
        }
        (Some("unpack"), 4..=5) => {
            let text =
                |index: usize| arguments.get(index).and_then(|word| word.to_str()).unwrap_or("?");
            let limit = text(2).parse().map_err(|error| format!("{}: {error}", text(2)))?;
            let expected =
                Expected { build: text(3).to_owned(), vouched_for: arguments.len() == 5 };
            Ok(Task::Unpack { folder: socket, limit, expected })
        }
        (Some("detach"), 3..=4) => Ok(Task::Detach { socket, target: pid(2)?, control: path(3) }),
        (Some("read-image"), 3..) => Ok(Task::ReadImage {
            dlv: socket,
            program: path(2).unwrap_or_default(),
            options: arguments[3..].to_vec(),
        }),
        (Some("as"), 4..) => {
            let number = |index: usize| {
                let text = arguments[index].to_str().unwrap_or("?");
                text.parse::<u32>().map_err(|error| format!("{text}: {error}"))
            };
            Ok(Task::As { uid: number(1)?, gid: number(2)?, command: arguments[3..].to_vec() })
        }
        (Some("ready" | "detach" | "unpack" | "read-image" | "as"), count) => {
            Err(format!("wrong number of arguments: {}", count - 1))
        }
        _ => {
            Err("the first argument is \"ready\", \"detach\", \"unpack\", \"read-image\" or \"as\""
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Task, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_what_the_units_write() {
        let pid = |pid: u32| Pid::try_from(pid).unwrap();
        let socket = PathBuf::from("/s");
        assert_eq!(
            parsed("ready /s 12 34 /log"),
            Ok(Task::Ready {
                socket: socket.clone(),
                target: pid(12),
                dlv: pid(34),
                log: Some("/log".into()),
                start: Begins::Attached { stands_at_most: None },
            })
        );
        assert!(matches!(
            parsed("ready /s 12 34 /log 1500"),
            Ok(Task::Ready { start: Begins::Attached { stands_at_most: Some(limit) }, .. })
                if limit == Duration::from_millis(1500)
        ));
        assert!(parsed("ready /s 12 34 /log 15s").is_err());
        assert_eq!(
            parsed("detach /s 12"),
            Ok(Task::Detach { socket, target: pid(12), control: None })
        );
        for wrong in ["", "ready", "ready /s 12", "ready /s x 12", "detach /s 1", "stop /s 12"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        assert!(parsed("detach /s 12 /c more").is_err());
        assert_eq!(
            parsed("read-image /dlv /program --listen=unix:/s"),
            Ok(Task::ReadImage {
                dlv: "/dlv".into(),
                program: "/program".into(),
                options: vec!["--listen=unix:/s".into()],
            })
        );
        assert!(parsed("read-image /dlv").is_err());
    }
}
