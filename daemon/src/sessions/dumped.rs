//! Sessions on a core dump, or on an image that another has kept: there is no process, so nothing is traced, frozen or guarded. dlv runs as
//! nobody, on a copy of the dump that its own unit unpacks and that goes with it.

use super::life::{self, Life};
use super::prepare::{self, Network, fitting};
use super::recorded::OneImage;
use super::{Begun, Sessions, new_id};
use crate::authority::{Authorized, Caller, Permitted, rules};
use crate::certificates;
use crate::config::Config;
use crate::dumps::{self, Which};
use crate::host::units::{self, DebuggerUnit, TargetUser};
use crate::host::{DumpMaterial, Material, SessionMaterial};
use crate::target::executable::{GoExecutable, SymbolFile};
use godebug_api::documents::{DebugInformation, DumpRequest, OpenRequest};
use godebug_api::rules::engine::{Consent, Permit};
use godebug_api::{Deadline, Dump, Mode, PauseBudget, Port, Refusal, SessionId, UnitName, clock};
use godebug_core::Program;
use godebug_core::ledger::Opened;
use godebug_core::plan::{self, Facts, Wanted};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// Where it is unpacked: private to the unit, and gone with it.
const FOLDER: &str = "/var/tmp";
/// No core is unpacked beyond this, whatever room there is.
const LARGEST_CORE: u64 = 64 << 30;
/// As much of that folder's file system stays free.
const KEPT_FREE: u64 = 1 << 30;

/// For the unpacking, and for dlv to read what is there.
const BEGINNING: Duration =
    Duration::from_secs(units::UNPACK_TIMEOUT.as_secs() + units::ATTACH_TIMEOUT.as_secs());

/// Files that come along with a request.
#[derive(Default)]
pub struct Brought {
    pub symbols: Option<File>,
    pub executable: Option<File>,
}

/// What was found out about a dump.
struct Prepared {
    dump: Dump,
    file: File,
    program: File,
    executable: GoExecutable,
    /// Somebody has brought the program along.
    vouched_for: bool,
    symbols: Option<(File, PathBuf)>,
}

impl Sessions {
    /// Looks at the dump and at the host, and makes the session's ledger.
    ///
    /// # Errors
    /// The first reason why it cannot work, with the remedy.
    pub(super) async fn begin_on_dump(
        &self,
        unit: &UnitName,
        allowed: Authorized<Permitted<OpenRequest>>,
        (config, wanted): (Config, DumpRequest),
        brought: Brought,
        id: SessionId,
    ) -> Result<Begun, Refusal> {
        let (request, asker) = (&allowed.get().what, allowed.caller().uid);
        let (dump, port, facts, wanted) =
            self.foresee_dump((unit, asker), (&config, request), wanted, brought, id).await?;
        let (Permitted { what: request, permit, consented }, caller) = allowed.into_inner();
        let running = rules::running(&self.list(), unit, caller.uid);
        permit.room_for_one_more(running).map_err(rules::Denied::from)?;
        let certificates = certificates::issue(
            &wanted.id,
            &request.csr,
            &caller.user,
            config.max_total + BEGINNING,
        )?;
        let plan = plan::plan(&wanted, &facts);
        let approvals = consented.map(|consented| consented.approvals).unwrap_or_default();
        let opened = Opened {
            approvals,
            ..opened((&wanted, &facts), &dump, &request, (&caller, &permit), &config)
        };
        let deadline =
            Deadline::after(clock::now(), BEGINNING + Duration::from_secs(opened.ttl_seconds));
        let material =
            material((dump, &facts), (&opened, port), (&config, deadline), &certificates)?;
        let beginning =
            life::Beginning { session: opened, target: None, plan, material, work: None };
        let (life, info, active) = Life::begin_with(self, beginning)?;
        Ok((life, info, active, certificates))
    }

    /// What a session on this dump would be, for those who have to consent to it.
    ///
    /// # Errors
    /// The first reason why it cannot be.
    pub(super) async fn foreseen_on_dump(
        &self,
        unit: &UnitName,
        (config, request): (&Config, &OpenRequest),
        (wanted, symbols): (DumpRequest, Option<File>),
        (caller, permit): (&Caller, &Permit),
    ) -> Result<Opened, Refusal> {
        if wanted.executable {
            return Err(Refusal::refused(
                "the program that you bring along cannot wait until others consent",
                "put the program of that build where it was, or let a rule of its own allow `core`",
            ));
        }
        let brought = Brought { symbols, executable: None };
        let (dump, _, facts, wanted) = self
            .foresee_dump((unit, caller.uid), (config, request), wanted, brought, new_id()?)
            .await?;
        Ok(opened((&wanted, &facts), &dump, request, (caller, permit), config))
    }

    async fn look_at(
        &self,
        (unit, asker): (&UnitName, u32),
        wanted: DumpRequest,
        brought: Brought,
    ) -> Result<Prepared, Refusal> {
        let (unit, sessions) = (unit.clone(), self.clone());
        // Both read whole programs.
        let looked = tokio::task::spawn_blocking(move || match &wanted.image {
            Some(name) => {
                sessions.kept_image(name, (&unit, asker)).and_then(|kept| image(kept, brought))
            }
            None => look((&unit, asker), &wanted, brought),
        });
        looked.await.map_err(|error| Refusal::failed(error.to_string(), ""))?
    }

    async fn foresee_dump(
        &self,
        (unit, asker): (&UnitName, u32),
        (config, request): (&Config, &OpenRequest),
        wanted: DumpRequest,
        brought: Brought,
        id: SessionId,
    ) -> Result<(Prepared, Port, Facts, Wanted), Refusal> {
        prepare::within_the_rules(config, request)?;
        let dump = self.look_at((unit, asker), wanted, brought).await?;
        let debugger = fitting(&dump.executable).await?;
        let network = prepare::network(self, config, request).await?;
        let Network { port, sources, firewall, confinement, booleans } = network;
        let wanted = Wanted { id, mode: Mode::Observe, ttl: request.ttl, port, sources };
        let facts = Facts {
            unit: unit.clone(),
            pid: dump.dump.pid,
            user: String::new(),
            debugger,
            firewall,
            confinement,
            booleans,
            exec: None,
            dump: Some(dump.dump.clone()),
            drains: false,
        };
        Ok((dump, port, facts, wanted))
    }
}

/// The image, with the program that ran.
fn image(image: OneImage, brought: Brought) -> Result<Prepared, Refusal> {
    if brought.executable.is_some() {
        return Err(Refusal::usage("an image brings its program along", "leave --executable out"));
    }
    let OneImage { dump, file, program } = image;
    let path = PathBuf::from(&dump.executable);
    let executable = GoExecutable::read(&program, &path).map_err(|error| {
        Refusal::target(format!("{} cannot be debugged with dlv: {error}", path.display()), "")
    })?;
    let symbols = symbols(&executable, brought.symbols)?;
    Ok(Prepared { dump, file, program, executable, vouched_for: false, symbols })
}

fn look(
    (unit, asker): (&UnitName, u32),
    wanted: &DumpRequest,
    brought: Brought,
) -> Result<Prepared, Refusal> {
    let all = dumps::find(&Which::OfUnit(unit.clone()), asker)?;
    let mut those = all.into_iter().filter(|it| wanted.pid.is_none_or(|pid| pid == it.dump.pid));
    let Some(mut found) = those.next() else {
        return Err(Refusal::target(
            format!("systemd-coredump has no dump of {unit}"),
            "see `coredumpctl list`; a Go program dumps core with GOTRACEBACK=crash, and where LimitCORE= lets it",
        ));
    };
    let file = std::mem::replace(&mut found.file, Err(String::new())).map_err(|why| {
        Refusal::target(
            format!("the dump of process {} of {unit} cannot be read: {why}", found.dump.pid),
            format!("`godebugctl core {unit} --list` shows the others"),
        )
    })?;
    let vouched_for = brought.executable.is_some();
    let path = PathBuf::from(&found.dump.executable);
    let program = match brought.executable {
        Some(file) => file,
        None => program_at(&path).map_err(|error| {
            Refusal::target(
                format!("{} of the process that crashed cannot be opened: {error}", path.display()),
                "bring the program of that build along: --executable FILE",
            )
        })?,
    };
    let executable = GoExecutable::read(&program, &path).map_err(|error| {
        Refusal::target(
            format!("{} cannot be debugged with dlv: {error}", path.display()),
            "bring the program that crashed along: --executable FILE",
        )
    })?;
    let symbols = symbols(&executable, brought.symbols)?;
    Ok(Prepared { dump: found.dump, file, program, executable, vouched_for, symbols })
}

fn program_at(path: &PathBuf) -> std::io::Result<File> {
    // What is there now may be a pipe.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("it is no file")),
    }
}

/// The symbols file, under the name of the program that dlv is given.
fn symbols(
    executable: &GoExecutable,
    brought: Option<File>,
) -> Result<Option<(File, PathBuf)>, Refusal> {
    let Some(file) = brought else {
        return match executable.debug_information {
            DebugInformation::None => Err(Refusal::target(
                "the program that crashed has no debug information",
                "bring it along: --symbols FILE",
            )),
            DebugInformation::Dwarf4 | DebugInformation::Dwarf5 => Ok(None),
        };
    };
    let wrong = |why: String| Refusal::target(why, "give the file of just this build");
    let read = SymbolFile::read(&file, executable.go_version);
    let read = read.map_err(|error| wrong(format!("the symbols file is no good: {error}")))?;
    match read.build_ids.same_build(&executable.build_ids) {
        Some(true) => Ok(Some((file, PathBuf::from(FOLDER).join("program")))),
        _ => Err(wrong("the symbols file is of another build than the program".to_owned())),
    }
}

fn opened(
    (wanted, facts): (&Wanted, &Facts),
    dump: &Prepared,
    request: &OpenRequest,
    (caller, permit): (&Caller, &Permit),
    config: &Config,
) -> Opened {
    let executable = &dump.executable;
    Opened {
        id: wanted.id.clone(),
        unit: facts.unit.clone(),
        target: None,
        invocation: None,
        pid: facts.pid,
        start_ticks: 0,
        mode: wanted.mode,
        uid: caller.uid,
        user: caller.user.clone(),
        held_by: request.hold.then(|| caller.name.to_string()),
        absence: request.absence,
        reason: request.reason.clone(),
        sources: wanted.sources.clone(),
        port: Some(wanted.port),
        endpoint_host: Some(prepare::endpoint_host(request, &wanted.sources)),
        opened_at: clock::rfc3339(clock::now().wall_ms),
        ttl_seconds: wanted.ttl.get().as_secs(),
        at_most_until: Deadline::after(clock::now(), config.max_total + BEGINNING),
        debugger: facts.debugger.path.clone(),
        go_version: executable.go_version_text.clone(),
        watchdog_usec: None,
        target_is_starting: false,
        freeze_forecast_ms: None,
        pause: None,
        rule: Some(permit.name()),
        program: Some(Program {
            executable: dump.dump.executable.clone(),
            build_id: executable.build_ids.gnu.clone().or_else(|| executable.build_ids.go.clone()),
            module: executable.module.clone(),
            vcs_revision: executable.vcs_revision().map(str::to_owned),
            vcs_modified: executable.vcs_modified(),
        }),
        login: caller.login.clone(),
        approvals: Vec::new(),
        exec: None,
        dump: facts.dump.clone(),
        break_glass: permit.consent == Consent::GlassBroken,
    }
}

fn material(
    (dump, facts): (Prepared, &Facts),
    (session, port): (&Opened, Port),
    (config, deadline): (&Config, Deadline),
    certificates: &certificates::SessionCertificates,
) -> Result<Material, Refusal> {
    let room = rustix::fs::statvfs(FOLDER).map(|it| it.f_bavail.saturating_mul(it.f_frsize));
    let room = room.map_err(|error| {
        Refusal::host(format!("{FOLDER} cannot be looked at: {error}"), "is it mounted?")
    })?;
    let ids = &dump.executable.build_ids;
    let gnu = ids.gnu.as_ref().map(|id| format!("gnu:{id}"));
    let go = ids.go.as_ref().map(|id| format!("go:{id}"));
    let build: Vec<String> = gnu.into_iter().chain(go).collect();
    let nothing = File::open("/dev/null")
        .map_err(|error| Refusal::host(format!("/dev/null: {error}"), ""))?;
    Ok(Material {
        deadline,
        image: None,
        session: Some(SessionMaterial {
            opened: session.clone(),
            debugger: DebuggerUnit {
                id: session.id.clone(),
                target: session.unit.clone(),
                pid: session.pid,
                user: TargetUser::Known(String::new()),
                debugger: session.debugger.clone(),
                exec: None,
                stands_at_most: None,
                target_is_starting: false,
                is_spoken_for_to: None,
                at_most: session.at_most_until.remaining(clock::now()),
                confinement: facts.confinement,
            },
            dump: Some(DumpMaterial {
                file: dump.file,
                program: dump.program,
                build: build.join(","),
                vouched_for: dump.vouched_for,
                is_image: dump.dump.image.is_some(),
                largest: room.saturating_sub(KEPT_FREE).min(LARGEST_CORE),
            }),
            gateway: life::gateway_config(
                (session, &dump.executable),
                // Nothing can stand.
                (port, PauseBudget::new(config.pause_per_stop, config.pause_per_session)),
                (config, deadline),
                certificates,
            ),
            symbols: dump.symbols,
            // There is no process to look at.
            target_status: Ok(nothing),
            timed_rules: prepare::timed_rules(&facts.firewall),
        }),
    })
}
