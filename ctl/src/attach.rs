//! `attach`: asks for a session, or for the plan of one, and hands it to the foreground or into a
//! ticket.

use crate::cli::{Attach, Claim, CoreDump};
use crate::far::Host;
use crate::keys::Key;
use crate::manager::{answer, manager, manager_and_way};
use crate::output::Output;
use crate::question::Question;
use crate::request::{open_request, open_symbols};
use crate::signals::Signals;
use crate::symbols;
use crate::waiting::Interrupted::{self, LeavesIt, TakesItBack};
use crate::{detach, foreground, ports, report, tickets, waiting};
use godebug_api::bus::ManagerProxy;
use godebug_api::documents::{
    ClaimRequest, OpenAnswer, OpenRequest, Opened, PlanDocument, SessionInfo,
};
use godebug_api::{Code, Refusal, SessionId, State};
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::pin::pin;

pub(crate) async fn attach(output: &Output, arguments: &Attach) -> Result<(), Refusal> {
    if arguments.dry_run {
        debug_information(arguments).await?;
        return dry_run(output, arguments).await;
    }
    open(output, arguments, None).await
}

/// `claim`: goes on with a request that others were asked to approve.
pub(crate) async fn claim(output: &Output, arguments: &Claim) -> Result<(), Refusal> {
    let request: SessionInfo = answer(manager().await?.get(arguments.id.as_str()).await)?;
    match request.state {
        State::PendingApproval => {}
        State::Closed => return Err(waiting::refused(&request)),
        other => {
            let message = format!("{} was taken up already: it is {other}", request.id);
            return Err(Refusal::usage(message, format!("see `godebugctl show {}`", request.id)));
        }
    }
    open(output, &arguments.as_asked_for(&request), Some(request)).await
}

/// Opens a session: a new one, or that of a request.
pub(crate) async fn open(
    output: &Output,
    arguments: &Attach,
    request: Option<SessionInfo>,
) -> Result<(), Refusal> {
    let executable = arguments.dump.as_ref().and_then(|dump| dump.executable.as_deref());
    let brings_files = arguments.way.symbols.is_some() || executable.is_some();
    if brings_files && Host::chosen().is_some() {
        return Err(Refusal::usage(
            "--symbols and --executable cannot be brought along to another host",
            "copy the file there, and use godebugctl on that host",
        ));
    }
    // Whatever can fail here fails before the host is changed.
    let mut files: Vec<OwnedFd> = debug_information(arguments).await?.into_iter().collect();
    files.extend(executable.map(open_symbols).transpose()?);
    if let Some(path) = &arguments.way.ticket {
        tickets::check_place(path)?;
    }
    // The local port comes before the gateway's: people's IDEs are set to 2345, while the gateway
    // takes the next free one and says which in the ticket.
    let port = match arguments.way.listen {
        _ if arguments.way.detach => None,
        Some(listen) => Some(ports::bind_this(listen).await?),
        None => Some(ports::bind_free().await?),
    };
    let mut signals = Signals::catch()?;
    let key = Key::generate()?;
    let far = Host::chosen();
    let via = arguments.way.via(far.is_some())?;
    let (manager, ssh) = manager_and_way().await?;
    let wanted = open_request(arguments, key.csr.clone(), (far, ssh), via);
    let claim = ClaimRequest::of(&wanted);
    let asking = Asking { output, manager: &manager, arguments, files };
    let opened = match request {
        Some(request) => asking.claimed(&mut signals, request, claim, LeavesIt).await?,
        None => match asking.until_answered(&mut signals, Wanted::New(wanted)).await? {
            OpenAnswer::Opened(opened) => *opened,
            OpenAnswer::Waits { waits } if arguments.way.detach => {
                return waiting::leave(output, &waits);
            }
            OpenAnswer::Waits { waits } => {
                asking.claimed(&mut signals, *waits, claim, TakesItBack).await?
            }
        },
    };
    if arguments.way.detach {
        return detach::hand_out(output, arguments, &manager, &opened, &key).await;
    }
    foreground::hold(output, arguments, manager, signals, opened, &key, port).await
}

async fn debug_information(arguments: &Attach) -> Result<Option<OwnedFd>, Refusal> {
    symbols::open(arguments.way.symbols.as_deref(), &arguments.unit, arguments.pid).await
}

async fn dry_run(output: &Output, arguments: &Attach) -> Result<(), Refusal> {
    let far = Host::chosen();
    let via = arguments.way.via(far.is_some())?;
    let (manager, ssh) = manager_and_way().await?;
    let request = as_json(&open_request(arguments, String::new(), (far, ssh), via))?;
    let plan: PlanDocument = answer(manager.plan(&arguments.unit.to_string(), &request).await)?;
    output.result(&plan, &report::plan(&plan))
}

/// What is asked of the daemon.
enum Wanted {
    New(OpenRequest),
    Claimed(SessionId, ClaimRequest),
}

impl Wanted {
    fn hold(&self) -> bool {
        match self {
            Self::New(request) => request.hold,
            Self::Claimed(_, request) => request.hold,
        }
    }

    fn accepting_the_freeze(self) -> Self {
        match self {
            Self::New(request) => Self::New(OpenRequest { accept_freeze: true, ..request }),
            Self::Claimed(id, request) => {
                Self::Claimed(id, ClaimRequest { accept_freeze: true, ..request })
            }
        }
    }
}

/// What the request for a session goes to the daemon with, perhaps twice.
struct Asking<'a> {
    output: &'a Output,
    manager: &'a ManagerProxy<'static>,
    arguments: &'a Attach,
    /// The symbols, the program that crashed.
    files: Vec<OwnedFd>,
}

impl Asking<'_> {
    /// Opens the session of a request, as soon as it is approved.
    async fn claimed(
        &self,
        signals: &mut Signals,
        request: SessionInfo,
        claim: ClaimRequest,
        interrupted: Interrupted,
    ) -> Result<Opened, Refusal> {
        let id = request.id.clone();
        if !self.arguments.way.detach {
            let Self { output, manager, .. } = self;
            waiting::until_approved(output, manager, signals, request, interrupted).await?;
        }
        match self.until_answered(signals, Wanted::Claimed(id.clone(), claim)).await? {
            OpenAnswer::Opened(opened) => Ok(*opened),
            OpenAnswer::Waits { .. } => Err(Refusal::failed(
                format!("godebugd does not say what became of request {id}"),
                format!("see `godebugctl show {id}`"),
            )),
        }
    }

    /// Opens the session. A freeze that is too long to be begun without a word is put to the person,
    /// if there is one.
    async fn until_answered(
        &self,
        signals: &mut Signals,
        wanted: Wanted,
    ) -> Result<OpenAnswer, Refusal> {
        let refusal = match self.once(signals, &wanted).await {
            Err(refusal) if refusal.code == Code::Freeze => refusal,
            other => return other,
        };
        let Some(question) = Question::to_a_person(self.output) else { return Err(refusal) };
        if question.go_on(signals, &refusal.message).await? {
            return self.once(signals, &wanted.accepting_the_freeze()).await;
        }
        Err(Refusal::new(Code::Freeze, "not attached; nothing was changed", ""))
    }

    async fn once(&self, signals: &mut Signals, wanted: &Wanted) -> Result<OpenAnswer, Refusal> {
        let files: Result<Vec<_>, _> = self.files.iter().map(OwnedFd::try_clone).collect();
        let files = files.map_err(|error| {
            Refusal::failed(format!("a file cannot be handed over: {error}"), "")
        })?;
        self.output.live(match (&self.arguments.exec, &self.arguments.dump) {
            (Some(_), _) => "starting…",
            (_, Some(CoreDump { image: Some(_), .. })) => "opening…",
            (_, Some(_)) => "unpacking…",
            (None, None) => "attaching…",
        });
        let opened = self.open(signals, wanted, files).await;
        self.output.clear();
        opened
    }

    /// One request. A signal meanwhile takes the wish back.
    async fn open(
        &self,
        signals: &mut Signals,
        wanted: &Wanted,
        files: Vec<OwnedFd>,
    ) -> Result<OpenAnswer, Refusal> {
        let Self { output, manager, .. } = self;
        let mut call = pin!(self.call(wanted, files));
        tokio::select! {
            opened = &mut call => return opened,
            () = signals.next() => {}
        }
        if wanted.hold() {
            return Err(Refusal::failed(
                "interrupted before the session was active",
                "godebugd gives back what it had taken; nothing is left to do",
            ));
        }
        // Nobody holds a detached session, so it has to be waited for before it can be stopped.
        output.note("interrupted: waiting for the session to be there, to end it again…");
        tokio::select! {
            opened = &mut call => {
                let id = match opened? {
                    OpenAnswer::Opened(opened) => opened.session.id,
                    OpenAnswer::Waits { waits } => waits.id,
                };
                foreground::stop(manager, &id).await?;
                Err(Refusal::failed("interrupted; the session was ended again", ""))
            }
            () = signals.next() => Err(Refusal::failed(
                "interrupted while godebugd was opening the session",
                "see `godebugctl list` for whether it is there, and `godebugctl stop ID` to end it",
            )),
        }
    }

    async fn call(&self, wanted: &Wanted, files: Vec<OwnedFd>) -> Result<OpenAnswer, Refusal> {
        let Self { manager, arguments, .. } = self;
        let files = files.into_iter().map(zbus::OwnedFd::from).collect();
        match wanted {
            Wanted::New(request) => {
                let text = as_json(request)?;
                answer(manager.open(&arguments.unit.to_string(), &text, files).await)
            }
            Wanted::Claimed(id, request) => {
                let text = as_json(request)?;
                let opened: Opened = answer(manager.claim(id.as_str(), &text, files).await)?;
                Ok(OpenAnswer::Opened(Box::new(opened)))
            }
        }
    }
}

fn as_json(request: &impl Serialize) -> Result<String, Refusal> {
    serde_json::to_string(request).map_err(|error| {
        Refusal::failed(format!("the request cannot be written: {error}"), "report this as a bug")
    })
}
