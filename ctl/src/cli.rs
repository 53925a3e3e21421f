//! The command line: what can be typed, and how a wrong word is answered.

use crate::output::Output;
use crate::own_containers;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use godebug_api::audit::{Last, Moment};
use godebug_api::chain::PublicKey;
use godebug_api::delve::DelveVersion;
use godebug_api::documents::SessionInfo;
use godebug_api::image::{Count, Depth, Every, Keep, Patience, PauseLimit, Phrase};
use godebug_api::rules::engine::Command as RuleCommand;
use godebug_api::{
    Absence, Cidr, FreezeLimit, GuestName, ImageName, Mode, Pid, Reason, Refusal, SessionId,
    StartAt, TargetName, Ttl, UnitName, UserName,
};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Debug a running systemd service written in Go, for a limited time, recorded, and gone without
/// trace at the end.
#[derive(Debug, Parser)]
#[command(name = "godebugctl", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print one JSON document on standard output and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Do it on another host, through ssh; for list, inspect, doctor and stop also on several:
    /// HOST,HOST, or @FILE with one on each line
    #[arg(short = 'H', long, global = true, value_name = "[USER@]HOST")]
    pub(crate) host: Option<String>,
    /// ssh asks for nothing: set where one of several hosts is asked
    #[arg(long, global = true, hide = true)]
    pub(crate) unasked: bool,
    /// The unit is one of your own, which `systemctl --user` runs; or the container is one that you run without root
    #[arg(long, global = true)]
    pub(crate) user: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open a session on a unit's Go process
    ///
    /// In the foreground it serves a local port for the IDE and ends the session on Ctrl-C. With
    /// --detach it hands out a ticket for `godebugctl connect` and returns.
    Attach(Attach),
    /// Start a unit, or start it again, with a debugger on it from its first instruction on
    ///
    /// The program stands at its main function until a debugger comes and lets it run, for five minutes
    /// at most. Nothing of the unit is changed for it: systemd starts it as always, with its user,
    /// sandbox, sockets and environment. At the end the debugger goes and the service runs on; one that
    /// did not run before is stopped.
    Exec(Exec),
    /// Look into a core dump that systemd-coredump has kept of a unit, or list them
    ///
    /// Nothing that runs is touched. The program of just that build is needed: the one on the disk, if it
    /// was not replaced, or one that you bring along.
    Core(Core),
    /// Serve a local port for the IDE, through the gateway that a ticket names
    Connect(Connect),
    /// Show the stack and the values of a goroutine, now or at a line, without stopping the service
    ///
    /// They are read from an image, which is a copy of the process that takes about a millisecond. No
    /// port is opened.
    Snapshot(Snapshot),
    /// Record values at lines, again and again for some time, to see how they come about
    ///
    /// A line for each, with its time; a document each with --json. At most 1000. The service runs on.
    Record(Record),
    /// Show what all goroutines are doing, without stopping the service
    Goroutines(Goroutines),
    /// Show what fills the memory, and which variables and goroutines hold it, without stopping the
    /// service
    Heap(Heap),
    /// List the sessions, and the requests that wait for somebody's approval
    List {
        /// Only what waits for approval
        #[arg(long)]
        pending: bool,
    },
    /// Show everything about one session
    Show {
        /// The session, as `list` shows it
        id: SessionId,
    },
    /// Go on with a request that was approved
    Claim(Claim),
    /// Approve what somebody else has asked for
    Approve {
        /// The request, as `list --pending` shows it
        id: SessionId,
        /// Without asking whether that is meant
        #[arg(long)]
        yes: bool,
    },
    /// Refuse what somebody else has asked for
    Deny {
        /// The request, as `list --pending` shows it
        id: SessionId,
        /// Why, for whoever asked and for the record
        #[arg(long, value_name = "TEXT")]
        reason: Reason,
    },
    /// Move the end of a session
    Extend(Extend),
    /// Let somebody else into a session, with a ticket of their own
    Share(Share),
    /// End sessions, and take requests back
    #[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "all"]))]
    Stop(Stop),
    /// Show the Go process of a unit: versions, build, debug information, the dlv that fits
    Inspect {
        /// The unit, with or without `.service`; a container as container:NAME
        unit: TargetName,
        /// Which process, for a unit that has several
        #[arg(long)]
        pid: Option<Pid>,
    },
    /// Check every prerequisite of this host, and of a unit if one is named
    Doctor {
        /// The unit, with or without `.service`; a container as container:NAME
        unit: Option<TargetName>,
    },
    /// Show what a session does, as it does it: breakpoints, expressions, stops, refusals
    Watch {
        /// The session, as `list` shows it
        id: SessionId,
    },
    /// Read the records: who debugged what, when, why, and whether all of it is gone
    #[command(subcommand)]
    Audit(Audit),
    /// Look at the rules that say who may debug what
    #[command(subcommand)]
    Rules(Rules),
    /// Look after the dlv's of this host: one for each generation of Go
    #[command(subcommand)]
    Toolchain(Toolchain),
    /// Print a completion script for a shell
    Completion { shell: Shell },
    /// What those scripts ask
    #[command(hide = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

impl Cli {
    /// With `--user` a unit is the person's own, and a container too.
    ///
    /// # Errors
    /// Where the command is about no unit, or about one that is named as a part of another; where no such
    /// container runs.
    pub(crate) fn of_user(mut self) -> Result<Self, Refusal> {
        if !self.user {
            return Ok(self);
        }
        let wrong = |what: &str| Err(Refusal::usage(format!("--user is about a unit{what}"), ""));
        let is_far = self.host.is_some();
        let is_done_there = is_far && self.command.runs_there();
        let Some(target) = self.command.target_mut() else {
            return wrong(" that runs, and this command is about none");
        };
        let unit = match target.clone() {
            TargetName::Unit(unit) => unit,
            // Whoever does it over there asks there.
            TargetName::Container(_) if is_done_there => return Ok(self),
            TargetName::Container(_) if is_far => {
                return wrong(
                    "; of a container on another host name the unit: systemctl --user list-units --type=scope",
                );
            }
            TargetName::Container(name) => own_containers::unit_of(&name)?,
            TargetName::OfUser { .. } => return wrong(", and this is none of a manager's"),
        };
        *target = TargetName::OfUser { user: UserName::whoever_asks(), unit };
        Ok(self)
    }
}

impl Command {
    /// What it is about, if that runs.
    fn target_mut(&mut self) -> Option<&mut TargetName> {
        match self {
            Self::Attach(arguments) => Some(&mut arguments.unit),
            Self::Exec(arguments) => Some(&mut arguments.unit),
            Self::Snapshot(arguments) => Some(&mut arguments.unit),
            Self::Record(arguments) => Some(&mut arguments.unit),
            Self::Goroutines(arguments) => Some(&mut arguments.unit),
            Self::Heap(arguments) => Some(&mut arguments.unit),
            Self::Inspect { unit, .. } => Some(unit),
            Self::Doctor { unit } => unit.as_mut(),
            Self::Rules(Rules::Explain(arguments)) => Some(&mut arguments.unit),
            _ => None,
        }
    }

    /// Whether it may be asked of several hosts at once.
    pub(crate) fn may_be_asked_of_many(&self) -> bool {
        matches!(
            self,
            Self::List { .. } | Self::Inspect { .. } | Self::Doctor { .. } | Self::Stop(_)
        )
    }

    /// Whether it has to run on the host that it is about: it reads that host's files, or gets its
    /// answer through a pipe.
    pub(crate) fn runs_there(&self) -> bool {
        matches!(
            self,
            Self::Snapshot(_)
                | Self::Record(_)
                | Self::Goroutines(_)
                | Self::Heap(_)
                | Self::Toolchain(_)
                | Self::Audit(Audit::Verify { .. } | Audit::Export { .. } | Audit::Key)
                | Self::Rules(Rules::Check { .. })
        )
    }

    /// Whether polkit may want to know that it is really this person.
    pub(crate) fn may_be_authenticated(&self) -> bool {
        match self {
            Self::Attach(arguments) => !arguments.dry_run,
            Self::Exec(arguments) => !arguments.dry_run,
            Self::Core(arguments) => !arguments.list,
            Self::Claim(_)
            | Self::Snapshot(_)
            | Self::Record(_)
            | Self::Goroutines(_)
            | Self::Heap(_)
            | Self::Approve { .. }
            | Self::Deny { .. }
            | Self::Extend(_)
            | Self::Share(_)
            | Self::Stop(_)
            | Self::Audit(Audit::Review { id: Some(_), .. }) => true,
            _ => false,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List the recorded sessions, the latest last
    List(AuditList),
    /// Show all records of one session, with the proof of its end
    Show {
        /// The session, as `audit list` shows it
        id: SessionId,
    },
    /// Find the first line of the log that is not as it was written, without the daemon
    Verify {
        /// Files to read instead of this host's log and what was rotated away, in their order; or files
        /// that `audit export` has made
        files: Vec<PathBuf>,
        /// Compare with the checkpoints in this file: as they are in checkpoints.jsonl, or as
        /// `journalctl -o json` prints them, best from another host; may be repeated
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
        /// The key that the checkpoints must be signed with, as `audit key` prints it
        #[arg(long)]
        key: Option<PublicKey>,
    },
    /// Hand out the records of sessions, signed, as a file that can be read and verified elsewhere
    Export {
        /// The sessions, as `audit list` shows them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<SessionId>,
        /// For programs, for spreadsheets, or as a page for people
        #[arg(long, default_value = "html")]
        format: ExportFormat,
        /// Write it to this new file instead of standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List the sessions that were opened without the approval they needed and that nobody has looked
    /// at since; or say that you have
    Review {
        /// The session that you have looked at
        #[arg(requires = "note")]
        id: Option<SessionId>,
        /// What you found, for the record
        #[arg(long, value_name = "TEXT", requires = "id")]
        note: Option<Reason>,
    },
    /// Print the public key of this host's checkpoints
    Key,
}

#[derive(Debug, Args)]
pub(crate) struct AuditList {
    /// Only what is about this unit, with or without `.service`
    #[arg(long)]
    pub(crate) unit: Option<UnitName>,
    /// Only what this person asked for
    #[arg(long, value_name = "USER")]
    pub(crate) by: Option<String>,
    /// Only from this day or moment on, such as 2026-01-31 or 2026-01-31T08:00:00Z
    #[arg(long, value_name = "MOMENT")]
    pub(crate) since: Option<Moment>,
    /// Only until this moment
    #[arg(long, value_name = "MOMENT")]
    pub(crate) until: Option<Moment>,
    /// List what was refused, instead of the sessions
    #[arg(long)]
    pub(crate) refused: bool,
    /// How many at most, the latest
    #[arg(long, value_name = "N", default_value_t)]
    pub(crate) last: Last,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Toolchain {
    /// List them: the versions, and the Go that each is for
    List,
    /// Put another one beside them, pinned by its hash
    ///
    /// Without --from or --package it is built from its sources, by this host's Go, as nobody, in a unit of its
    /// own; `--proxy` names your own mirror.
    Add(ToolchainAdd),
    /// Take one away that was added
    Remove {
        /// The version, as `toolchain list` shows it
        version: DelveVersion,
    },
    /// See whether those that were added are what they were
    Verify,
    /// Tell what the services of this host need, and which versions are missing
    Plan,
}

#[derive(Debug, Args)]
pub(crate) struct ToolchainAdd {
    /// Delve's version, such as 1.24.2
    pub(crate) version: DelveVersion,
    /// A Go module proxy, instead of the one that Go would ask
    #[arg(long, value_name = "URL", conflicts_with_all = ["from", "package"])]
    pub(crate) proxy: Option<String>,
    /// Do not ask the public database of checksums, which knows nothing of what is only in a mirror
    #[arg(long, conflicts_with_all = ["from", "package"])]
    pub(crate) no_sumdb: bool,
    /// A finished dlv, or the folder that it is in
    #[arg(long, value_name = "PATH", conflicts_with = "package")]
    pub(crate) from: Option<PathBuf>,
    /// A distribution's package of Delve, a .deb or an .rpm
    #[arg(long, value_name = "FILE")]
    pub(crate) package: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rules {
    /// Tell what is wrong with rules: mistakes, keys that there are not, rules that are never
    /// reached
    Check {
        /// Files to check instead of this host's rules, in the order in which they are asked
        files: Vec<PathBuf>,
    },
    /// Say which rule decides about a request, and why
    Explain(Explain),
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Who would ask
    #[arg(long = "as", value_name = "USER")]
    pub(crate) asker: String,
    /// What they would ask for: attach, exec, core or snapshot
    pub(crate) command: RuleCommand,
    /// The unit, with or without `.service`; a container as container:NAME
    pub(crate) unit: TargetName,
    /// For how long
    #[arg(long, default_value = "30m")]
    pub(crate) ttl: Ttl,
    /// How
    #[arg(long, default_value = "step")]
    pub(crate) mode: Mode,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<Reason>,
    /// From where; may be repeated
    #[arg(long, value_name = "CIDR")]
    pub(crate) from: Vec<Cidr>,
    /// Without waiting for approval
    #[arg(long)]
    pub(crate) break_glass: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Claim {
    /// The request, as `list --pending` shows it
    pub(crate) id: SessionId,
    #[command(flatten)]
    pub(crate) way: Way,
}

impl Claim {
    /// The same as if it were asked for now.
    pub(crate) fn as_asked_for(&self, session: &SessionInfo) -> Attach {
        Attach {
            unit: session.target_name(),
            ttl: session.ttl.unwrap_or_default(),
            mode: session.mode,
            reason: session.reason.clone(),
            from: session.sources.clone(),
            dry_run: false,
            pid: None,
            pause_budget: None,
            max_pause: PauseLimit::default(),
            break_glass: false,
            exec: session.exec,
            dump: session.dump.as_ref().map(|dump| CoreDump {
                pid: Some(dump.pid),
                image: dump.image.as_ref().map(|image| image.name.clone()),
                executable: None,
            }),
            way: self.way.clone(),
        }
    }
}

/// How whoever opens a session gets to it, and what they accept for that.
#[derive(Debug, Clone, Args)]
pub(crate) struct Way {
    /// The local port for the IDE, on a loopback address [default: 127.0.0.1:2345, or the next free
    /// port]
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "detach")]
    pub(crate) listen: Option<Listen>,
    /// Print a ticket and return; the session goes on until its time is over
    #[arg(long)]
    pub(crate) detach: bool,
    /// Write the ticket to this file instead of standard output
    #[arg(long, value_name = "FILE", requires = "detach")]
    pub(crate) ticket: Option<PathBuf>,
    /// Put a configuration for this IDE in place, or print it; `dlv` starts dlv's own client
    #[arg(long)]
    pub(crate) ide: Option<Ide>,
    /// A file with the debug information of a stripped program, whose build ID must match; or a folder
    /// in which it lies by build ID, such as /usr/lib/debug; or `debuginfod`, to ask the site's server
    #[arg(long, value_name = "PATH")]
    pub(crate) symbols: Option<PathBuf>,
    /// Attach unasked only if that is expected to freeze the service for no longer; `inspect` tells
    /// for how long. Half of its WatchdogSec= is a limit too. An attaching that takes longer is broken off
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub(crate) max_freeze: FreezeLimit,
    /// Accept a freeze of any length
    #[arg(long)]
    pub(crate) yes: bool,
    /// The name or address by which clients reach this host, for the ticket [default: the address
    /// that your ssh connection came to]
    #[arg(long, value_name = "HOST")]
    pub(crate) endpoint: Option<Endpoint>,
    /// With -H, how the debugger reaches that host: `tls` straight to the gateway's port, or `ssh`
    /// through the ssh connection, with no port open and no firewall rule [default: tls]
    #[arg(long, value_name = "WAY")]
    pub(crate) via: Option<Via>,
    /// With -H, for how long the session waits for you when the connection to that host breaks off, up to
    /// ten minutes; 0s ends it at once
    #[arg(long, value_name = "DURATION", default_value = "3m")]
    pub(crate) reconnect: Absence,
}

/// How a debugger's bytes get to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    Tls,
    Ssh,
    Local,
}

impl Way {
    /// The way that holds, for a host that is this one or not.
    ///
    /// # Errors
    /// When there is no such way to that host.
    pub(crate) fn via(&self, is_far: bool) -> Result<Via, Refusal> {
        via(self.via, is_far)
    }
}

pub(crate) fn via(wanted: Option<Via>, is_far: bool) -> Result<Via, Refusal> {
    match (wanted, is_far) {
        (None | Some(Via::Local), false) => Ok(Via::Local),
        (None | Some(Via::Tls), true) => Ok(Via::Tls),
        (Some(Via::Ssh), true) => Ok(Via::Ssh),
        (Some(Via::Tls | Via::Ssh), false) => Err(Refusal::usage(
            "--via tls and --via ssh are ways to another host, and none is named",
            "name it: godebugctl -H HOST attach …",
        )),
        (Some(Via::Local), true) => Err(Refusal::usage(
            "--via local is for the host itself, and -H names another",
            "leave one of them out",
        )),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// The unit, with or without `.service`; a container as container:NAME
    pub(crate) unit: TargetName,
    /// How long the session may last once it is active
    #[arg(long, default_value = "30m")]
    pub(crate) ttl: Ttl,
    /// What the session may do to the service: `step` looks, stops and steps and changes nothing;
    /// `modify` also sets variables and calls functions; `observe` never stops it: breakpoints are lines
    /// at which an image of it is taken and shown
    #[arg(long, default_value = "step")]
    pub(crate) mode: Mode,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<Reason>,
    /// Where clients may come from; may be repeated [default: the address that you came from by
    /// ssh, else this host only]
    #[arg(long, value_name = "CIDR")]
    pub(crate) from: Vec<Cidr>,
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Which process, for a unit that has several
    #[arg(long)]
    pub(crate) pid: Option<Pid>,
    /// For how long the service may stand at one stop before it is let go, with its breakpoints off
    /// [default: what the host says, 30s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) pause_budget: Option<Ttl>,
    /// In mode observe: for how long one image may stop the service
    #[arg(long, value_name = "DURATION", default_value_t)]
    pub(crate) max_pause: PauseLimit,
    /// Go ahead without the approval that the host's rule wants, where it lets you: others are alarmed
    /// at once, and somebody has to look at it afterwards
    #[arg(long, requires = "reason")]
    pub(crate) break_glass: bool,
    /// Of `exec`, which is otherwise the same.
    #[arg(skip)]
    pub(crate) exec: Option<StartAt>,
    /// Of `core`.
    #[arg(skip)]
    pub(crate) dump: Option<CoreDump>,
    #[command(flatten)]
    pub(crate) way: Way,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The unit, with or without `.service`; a container as container:NAME
    pub(crate) unit: TargetName,
    /// How long the session may last once it is active
    #[arg(long, default_value = "30m")]
    pub(crate) ttl: Ttl,
    /// What the session may do to the service: `step` looks, stops and steps and changes nothing;
    /// `modify` also sets variables and calls functions
    #[arg(long, default_value = "step")]
    pub(crate) mode: Mode,
    /// Where it stands until a debugger lets it run: at `main`, or at its `entry`, before packages are
    /// initialised
    #[arg(long, value_name = "PLACE", default_value = "main")]
    pub(crate) stop_at: StartAt,
    /// Let it run at once
    #[arg(long = "continue", conflicts_with = "stop_at")]
    pub(crate) runs: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<Reason>,
    /// Where clients may come from; may be repeated [default: the address that you came from by
    /// ssh, else this host only]
    #[arg(long, value_name = "CIDR")]
    pub(crate) from: Vec<Cidr>,
    /// Show what would be done, and change nothing; for a unit that runs
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// For how long the service may stand at one stop before it is let go, with its breakpoints off;
    /// the first stop lasts until somebody comes [default: what the host says, 30s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) pause_budget: Option<Ttl>,
    /// Go ahead without the approval that the host's rule wants, where it lets you: others are alarmed
    /// at once, and somebody has to look at it afterwards
    #[arg(long, requires = "reason")]
    pub(crate) break_glass: bool,
    #[command(flatten)]
    pub(crate) way: Way,
}

impl Exec {
    /// What an `attach` of the same would be.
    pub(crate) fn as_attach(&self) -> Attach {
        Attach {
            unit: self.unit.clone(),
            ttl: self.ttl,
            mode: self.mode,
            reason: self.reason.clone(),
            from: self.from.clone(),
            dry_run: self.dry_run,
            pid: None,
            pause_budget: self.pause_budget,
            max_pause: PauseLimit::default(),
            break_glass: self.break_glass,
            dump: None,
            exec: Some(if self.runs { StartAt::Nowhere } else { self.stop_at }),
            way: self.way.clone(),
        }
    }
}

/// Which dump a session is about, and the program that goes with it.
#[derive(Debug, Clone)]
pub(crate) struct CoreDump {
    /// The latest, without one.
    pub(crate) pid: Option<Pid>,
    /// Not a dump, but an image that is kept.
    pub(crate) image: Option<ImageName>,
    pub(crate) executable: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Core {
    /// The unit, with or without `.service`, for its latest dump; the PID of the process that crashed; or an
    /// image that `record` or `snapshot` has kept, such as 7f3k2m9q#3
    #[arg(value_name = "UNIT|PID|IMAGE")]
    pub(crate) which: String,
    /// List the unit's dumps and the images that are kept, the latest first, and read none
    #[arg(long)]
    pub(crate) list: bool,
    /// The dump of the process that had this PID
    #[arg(long)]
    pub(crate) pid: Option<Pid>,
    /// The program that crashed, where the one on the disk is another build by now
    #[arg(long, value_name = "FILE")]
    pub(crate) executable: Option<PathBuf>,
    /// How long the session may last once it is active
    #[arg(long, default_value = "30m")]
    pub(crate) ttl: Ttl,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<Reason>,
    /// Where clients may come from; may be repeated [default: the address that you came from by
    /// ssh, else this host only]
    #[arg(long, value_name = "CIDR")]
    pub(crate) from: Vec<Cidr>,
    #[command(flatten)]
    pub(crate) way: Way,
}

impl Core {
    /// What an `attach` of the same would be.
    pub(crate) fn as_attach(
        &self,
        unit: &UnitName,
        which: (Option<Pid>, Option<ImageName>),
    ) -> Attach {
        Attach {
            unit: unit.clone().into(),
            ttl: self.ttl,
            mode: Mode::Observe,
            reason: self.reason.clone(),
            from: self.from.clone(),
            dry_run: false,
            pid: None,
            pause_budget: None,
            max_pause: PauseLimit::default(),
            break_glass: false,
            exec: None,
            dump: Some(CoreDump {
                pid: which.0,
                image: which.1,
                executable: self.executable.clone(),
            }),
            way: self.way.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// The unit, with or without `.service`; a container as container:NAME
    pub(crate) unit: TargetName,
    /// Where: FILE.go:LINE, package.Function or package.(*Type).Method; may be repeated [default: now,
    /// wherever it is]
    #[arg(long, value_name = "LOCATION")]
    pub(crate) at: Vec<Phrase>,
    /// Show this expression instead of the arguments and locals; may be repeated
    #[arg(long = "expr", value_name = "EXPRESSION")]
    pub(crate) expressions: Vec<Phrase>,
    /// Show only hits for which this is true
    #[arg(long = "if", value_name = "CONDITION", requires = "at")]
    pub(crate) condition: Option<Phrase>,
    /// How many hits
    #[arg(long, value_name = "N", default_value_t, requires = "at")]
    pub(crate) count: Count,
    /// How long to wait for them
    #[arg(long, value_name = "DURATION", default_value_t, requires = "at")]
    pub(crate) timeout: Patience,
    /// How many frames of the stack
    #[arg(long, value_name = "N", default_value_t)]
    pub(crate) stack: Depth,
    /// Keep the images that are shown for so long, to be opened with `core`
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "30m")]
    pub(crate) keep: Option<Keep>,
    #[command(flatten)]
    pub(crate) image: Image,
}

#[derive(Debug, Args)]
pub(crate) struct Record {
    /// The unit, with or without `.service`; a container as container:NAME
    pub(crate) unit: TargetName,
    /// Where, as for `snapshot`; may be repeated
    #[arg(long, value_name = "LOCATION", required = true)]
    pub(crate) at: Vec<Phrase>,
    /// For how long
    #[arg(long = "for", value_name = "DURATION", default_value = "5m")]
    pub(crate) time: Patience,
    /// As often as once in this time
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub(crate) every: Every,
    /// Record this expression instead of the arguments and locals; may be repeated
    #[arg(long = "expr", value_name = "EXPRESSION")]
    pub(crate) expressions: Vec<Phrase>,
    /// Record only hits for which this is true
    #[arg(long = "if", value_name = "CONDITION")]
    pub(crate) condition: Option<Phrase>,
    /// How many frames of the stack
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) stack: Depth,
    /// Keep the images that are shown for so long, to be opened with `core`
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "30m")]
    pub(crate) keep: Option<Keep>,
    #[command(flatten)]
    pub(crate) image: Image,
}

#[derive(Debug, Args)]
pub(crate) struct Goroutines {
    /// The unit, with or without `.service`; a container as container:NAME
    pub(crate) unit: TargetName,
    /// Whole stacks, and the goroutines of Go's runtime too
    #[arg(long)]
    pub(crate) full: bool,
    /// Draw them all as a flame graph, into this new SVG file
    #[arg(long, value_name = "FILE")]
    pub(crate) flame: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) image: Image,
}

#[derive(Debug, Args)]
pub(crate) struct Heap {
    /// The unit, with or without `.service`; a container as container:NAME
    pub(crate) unit: TargetName,
    /// How many of those that hold most to show
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) top: Count,
    #[command(flatten)]
    pub(crate) image: Image,
}

/// What every image can be asked with.
#[derive(Debug, Args)]
pub(crate) struct Image {
    /// Which process, for a unit that has several
    #[arg(long)]
    pub(crate) pid: Option<Pid>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<Reason>,
    /// For how long one image may stop the service
    #[arg(long, value_name = "DURATION", default_value_t)]
    pub(crate) max_pause: PauseLimit,
    /// Go ahead without the approval that the host's rule wants, where it lets you: others are alarmed
    /// at once, and somebody has to look at it afterwards
    #[arg(long, requires = "reason")]
    pub(crate) break_glass: bool,
    /// A file with the debug information of a stripped program, whose build ID must match; or a folder
    /// in which it lies by build ID, such as /usr/lib/debug; or `debuginfod`, to ask the site's server
    #[arg(long, value_name = "PATH")]
    pub(crate) symbols: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The ticket that `attach --detach` wrote
    pub(crate) ticket: PathBuf,
    /// The local port for the IDE, on a loopback address [default: 127.0.0.1:2345, or the next free
    /// port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<Listen>,
    /// Set up this IDE, as attach does; `dlv` starts dlv's own client
    #[arg(long)]
    pub(crate) ide: Option<Ide>,
    /// With -H: `ssh` goes through the ssh connection, for the ticket of a session that was opened so
    #[arg(long, value_name = "WAY")]
    pub(crate) via: Option<Via>,
}

#[derive(Debug, Args)]
pub(crate) struct Extend {
    /// The session, as `list` shows it
    pub(crate) id: SessionId,
    /// The time that the session has left from now on
    #[arg(long)]
    pub(crate) ttl: Ttl,
    /// Write the new end into this ticket too
    #[arg(long, value_name = "FILE")]
    pub(crate) ticket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Share {
    /// The session, as `list` shows it
    pub(crate) id: SessionId,
    /// What they are called in the record
    #[arg(long, value_name = "WHO")]
    pub(crate) name: GuestName,
    /// They can only watch: look at state, stacks and variables when the service stands
    #[arg(long)]
    pub(crate) observe: bool,
    /// Write the ticket to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) ticket: Option<PathBuf>,
    /// The name or address by which they reach this host [default: the one in your own ticket]
    #[arg(long, value_name = "HOST")]
    pub(crate) endpoint: Option<Endpoint>,
    /// Take back what was given: their tickets are worth nothing from now on, and their connections end
    #[arg(long, conflicts_with_all = ["observe", "ticket", "endpoint"])]
    pub(crate) withdraw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The sessions, as `list` shows them
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<SessionId>,
    /// Every session that you may stop
    #[arg(long)]
    pub(crate) all: bool,
}

/// The forms in which records are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Json,
    Csv,
    Html,
}

/// The debuggers that a configuration can be printed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ide {
    Vscode,
    Goland,
    Nvim,
    Emacs,
    /// dlv's own client, started here if this is a terminal
    Dlv,
}

/// Where the local port is: always a loopback address, since whoever reaches it has the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen(SocketAddr);

impl Listen {
    pub(crate) fn address(self) -> SocketAddr {
        self.0
    }
}

/// A word that only the command line knows, and why it was not accepted.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unusable(&'static str);

impl FromStr for Listen {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<Self, Unusable> {
        let address = match text.strip_prefix("localhost:") {
            Some(port) => port.parse().ok().map(|port| (Ipv4Addr::LOCALHOST, port).into()),
            None => text.parse::<SocketAddr>().ok(),
        };
        let address = address.ok_or(Unusable("it must be ADDRESS:PORT, such as 127.0.0.1:2345"))?;
        if !address.ip().is_loopback() {
            return Err(Unusable(
                "only a loopback address will do: the local port has no password, and whoever \
                 reaches it can run code as the service. On another machine, use a ticket and \
                 `godebugctl connect`",
            ));
        }
        Ok(Self(address))
    }
}

/// The name or address of this host in a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(pub(crate) String);

impl FromStr for Endpoint {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<Self, Unusable> {
        let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let good_name = !text.is_empty()
            && text.len() <= 253
            && text.chars().all(name)
            && !text.starts_with(['-', '.']);
        if good_name || text.parse::<IpAddr>().is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(Unusable("it must be a host name or an address, without a port"))
        }
    }
}

/// The command line as typed.
///
/// # Errors
/// The exit status, when there is nothing more to do: help and version were printed, or the error.
pub(crate) fn parse() -> Result<Cli, u8> {
    Cli::try_parse().map_err(|error| {
        // What could not be parsed cannot say whether it wants JSON, so the words are looked at.
        let json = std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json");
        let output = Output::new(json);
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            let _ = output.raw(&error.render().to_string());
            return 0;
        }
        output.refusal(&usage(&error))
    })
}

/// The words of a command line but `-H` and its host.
pub(crate) fn without_host(words: impl Iterator<Item = String>) -> Vec<String> {
    let (mut kept, mut words) = (Vec::new(), words);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-H" | "--host" => drop(words.next()),
            _ if word.starts_with("-H") || word.starts_with("--host=") => {}
            // All that follows are values.
            "--" => {
                kept.push(word);
                kept.extend(words.by_ref());
            }
            _ => kept.push(word),
        }
    }
    kept
}

/// A wrong command line as a refusal.
fn usage(error: &clap::Error) -> Refusal {
    const HELP: &str = "`godebugctl --help` and `godebugctl COMMAND --help` show what there is";
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => Some(argument.as_str()),
        _ => None,
    };
    // clap would quote the value whole and raw: ten thousand characters, or an escape sequence.
    if let (ErrorKind::ValueValidation, Some(argument), Some(why)) =
        (error.kind(), argument, error.source())
    {
        return Refusal::usage(format!("{argument}: {why}"), HELP);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Refusal::usage("no command was given", HELP);
    }
    // The first paragraph says what is wrong; a tip may follow before the usage.
    let text = error.render().to_string();
    let mut paragraphs = text.trim_start_matches("error: ").split("\n\n").map(str::trim);
    let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = words(paragraphs.next().unwrap_or("the command line makes no sense"));
    let rest = paragraphs.filter(|part| !part.starts_with("For more information")).map(words);
    let message = crate::terminal::shortened(&message, 400);
    let remedy: Vec<String> = rest.chain([HELP.to_owned()]).collect();
    Refusal::usage(message, crate::terminal::shortened(&remedy.join("\n"), 600))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_local_port_is_on_loopback_only() {
        for good in ["127.0.0.1:2345", "[::1]:0", "localhost:2350", "127.1.2.3:9999"] {
            assert!(good.parse::<Listen>().is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:2345", "[::]:2345", "192.0.2.1:2345", "2345", "localhost", "x:1", ""] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_goes_to_another_host_without_its_name() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for line in [
            "-H web1 list --json",
            "list -Hweb1 --json",
            "list --host=web1 --json",
            "--host web1 list --json",
        ] {
            assert_eq!(without_host(words(line).into_iter()), ["list", "--json"], "{line}");
        }
    }

    #[test]
    fn there_are_ways_to_another_host_and_one_to_this() {
        assert_eq!(via(None, false), Ok(Via::Local));
        assert_eq!(via(None, true), Ok(Via::Tls));
        assert_eq!(via(Some(Via::Ssh), true), Ok(Via::Ssh));
        assert!(via(Some(Via::Ssh), false).is_err() && via(Some(Via::Local), true).is_err());
    }

    #[test]
    fn an_endpoint_is_a_name_or_an_address() {
        for good in ["host.example", "192.0.2.1", "2001:db8::1"] {
            assert!(good.parse::<Endpoint>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "host:22", "-x", "a/b", "a\nb"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wrong_word_is_one_clear_sentence() {
        let parse = |words: &[&str]| Cli::try_parse_from(words).unwrap_err();
        let refusal = usage(&parse(&["godebugctl", "attach", "shop", "--ttl", "0"]));
        assert!(refusal.message.starts_with("--ttl <TTL>: "), "{}", refusal.message);
        let long = "x".repeat(10_000);
        assert!(usage(&parse(&["godebugctl", "attach", &long])).message.len() < 300);
        assert!(usage(&parse(&["godebugctl", &long])).message.len() < 1300);
        let both = usage(&parse(&["godebugctl", "attach", "a", "--detach", "--listen", "[::1]:1"]));
        assert!(both.message.contains("--listen"), "{}", both.message);
    }
}
