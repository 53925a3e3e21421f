//! `attach`: asks for a session, or for the plan of one, and hands it to the foreground or into a
//! ticket.

use crate::cli::Attach;
use crate::keys::Key;
use crate::manager::{answer, manager};
use crate::output::Output;
use crate::question::Question;
use crate::request::{Ssh, open_request, open_symbols};
use crate::signals::Signals;
use crate::{detach, foreground, ports, report, tickets};
use godebug_api::bus::ManagerProxy;
use godebug_api::documents::{OpenRequest, Opened, PlanDocument};
use godebug_api::{Code, Refusal};
use std::os::fd::OwnedFd;
use std::pin::pin;

pub(crate) async fn attach(output: &Output, arguments: &Attach) -> Result<(), Refusal> {
    let symbols = arguments.symbols.as_deref().map(open_symbols).transpose()?;
    if arguments.dry_run {
        return dry_run(output, arguments).await;
    }
    // Whatever can fail here fails before the host is changed.
    if let Some(path) = &arguments.ticket {
        tickets::check_place(path)?;
    }
    // The local port comes before the gateway's: people's IDEs are set to 2345, while the gateway
    // takes the next free one and says which in the ticket.
    let port = match arguments.listen {
        _ if arguments.detach => None,
        Some(listen) => Some(ports::bind_this(listen).await?),
        None => Some(ports::bind_free().await?),
    };
    let mut signals = Signals::catch()?;
    let key = Key::generate()?;
    let request = open_request(arguments, key.csr.clone(), Ssh::from_environment());
    let manager = manager().await?;
    let asking = Asking { output, manager: &manager, arguments, symbols };
    let opened = asking.until_answered(&mut signals, request).await?;
    if arguments.detach {
        return detach::hand_out(output, arguments, &manager, &opened, &key).await;
    }
    foreground::hold(output, arguments, manager, signals, opened, &key, port).await
}

async fn dry_run(output: &Output, arguments: &Attach) -> Result<(), Refusal> {
    let request = open_request(arguments, String::new(), Ssh::from_environment());
    let request = as_json(&request)?;
    let plan: PlanDocument =
        answer(manager().await?.plan(arguments.unit.as_str(), &request).await)?;
    output.result(&plan, &report::plan(&plan))
}

/// What the request for a session goes to the daemon with, perhaps twice.
struct Asking<'a> {
    output: &'a Output,
    manager: &'a ManagerProxy<'static>,
    arguments: &'a Attach,
    symbols: Option<OwnedFd>,
}

impl Asking<'_> {
    /// Opens the session. A freeze that is too long to be begun without a word is put to the person,
    /// if there is one.
    async fn until_answered(
        &self,
        signals: &mut Signals,
        request: OpenRequest,
    ) -> Result<Opened, Refusal> {
        let refusal = match self.once(signals, &request).await {
            Err(refusal) if refusal.code == Code::Freeze => refusal,
            other => return other,
        };
        let Some(question) = Question::to_a_person(self.output) else { return Err(refusal) };
        if question.go_on(signals, &refusal.message).await? {
            return self.once(signals, &OpenRequest { accept_freeze: true, ..request }).await;
        }
        Err(Refusal::new(Code::Freeze, "not attached; nothing was changed", ""))
    }

    async fn once(&self, signals: &mut Signals, request: &OpenRequest) -> Result<Opened, Refusal> {
        let symbols = self.symbols.as_ref().map(OwnedFd::try_clone).transpose();
        let symbols = symbols.map_err(|error| {
            Refusal::failed(format!("the symbols file cannot be handed over: {error}"), "")
        })?;
        self.output.live("attaching…");
        let opened = self.open(signals, request, symbols).await;
        self.output.clear();
        opened
    }

    /// One request. A signal meanwhile takes the wish back.
    async fn open(
        &self,
        signals: &mut Signals,
        request: &OpenRequest,
        symbols: Option<OwnedFd>,
    ) -> Result<Opened, Refusal> {
        let Self { output, manager, arguments, .. } = self;
        let text = as_json(request)?;
        let files = symbols.into_iter().map(zbus::OwnedFd::from).collect();
        let mut call = pin!(manager.open(arguments.unit.as_str(), &text, files));
        tokio::select! {
            opened = &mut call => return answer(opened),
            () = signals.next() => {}
        }
        if request.hold {
            return Err(Refusal::failed(
                "interrupted before the session was active",
                "godebugd gives back what it had taken; nothing is left to do",
            ));
        }
        // Nobody holds a detached session, so it has to be waited for before it can be stopped.
        output.note("interrupted: waiting for the session to be there, to end it again…");
        tokio::select! {
            opened = &mut call => {
                let opened: Opened = answer(opened)?;
                foreground::stop(manager, &opened.session.id).await?;
                Err(Refusal::failed("interrupted; the session was ended again", ""))
            }
            () = signals.next() => Err(Refusal::failed(
                "interrupted while godebugd was opening the session",
                "see `godebugctl list` for whether it is there, and `godebugctl stop ID` to end it",
            )),
        }
    }
}

fn as_json(request: &OpenRequest) -> Result<String, Refusal> {
    serde_json::to_string(request).map_err(|error| {
        Refusal::failed(format!("the request cannot be written: {error}"), "report this as a bug")
    })
}
