//! `attach --detach`: the session goes on alone, and its ticket is handed out.

use crate::cli::Attach;
use crate::keys::Key;
use crate::output::Output;
use crate::{foreground, ide, ports, report, tickets};
use godebug_api::bus::ManagerProxy;
use godebug_api::documents::{Opened, SessionInfo};
use godebug_api::{Cidr, Refusal};
use std::path::Path;

/// Writes the ticket. A session whose ticket cannot be handed out is of no use to anybody, so it is
/// ended again.
pub(crate) async fn hand_out(
    output: &Output,
    arguments: &Attach,
    manager: &ManagerProxy<'_>,
    opened: &Opened,
    key: &Key,
) -> Result<(), Refusal> {
    let written = match &arguments.way.ticket {
        Some(path) => into_file(output, path, opened, key),
        None => onto_output(output, opened, key),
    };
    let Err(refusal) = written else {
        tell_more(output, arguments, manager, &opened.session).await;
        return Ok(());
    };
    let id = &opened.session.id;
    let after = match foreground::stop(manager, id).await {
        Ok(_) => "the session was ended again".to_owned(),
        Err(_) => format!("the session could not be ended: run `godebugctl stop {id}`"),
    };
    let remedy = format!("{}\n{after}", refusal.remedy);
    Err(Refusal::new(refusal.code, refusal.message, remedy.trim_start().to_owned()))
}

fn into_file(output: &Output, path: &Path, opened: &Opened, key: &Key) -> Result<(), Refusal> {
    tickets::ticket(opened, key)?.write(path).map_err(tickets::refusal)?;
    let shown = path.display().to_string();
    let human = format!("{}\n\n  godebugctl connect {shown}", summary(&opened.session));
    let session = SessionInfo { ticket: Some(shown), ..opened.session.clone() };
    if output.is_json() {
        return output.document(&session);
    }
    output.text(&human);
    Ok(())
}

fn onto_output(output: &Output, opened: &Opened, key: &Key) -> Result<(), Refusal> {
    let text = tickets::ticket(opened, key)?.to_text().map_err(|error| {
        Refusal::failed(format!("the ticket cannot be written: {error}"), "report this as a bug")
    })?;
    if output.is_json() {
        output.document(&SessionInfo { ticket: Some(text), ..opened.session.clone() })?;
    } else {
        output.raw(&text)?;
    }
    output.note(&summary(&opened.session));
    if tickets::output_is_readable_by_others() {
        output.note(
            "warning: others can read the file that the ticket went to, so `godebugctl connect` \
             will refuse it; use --ticket FILE, or umask 077 before",
        );
    }
    Ok(())
}

fn summary(session: &SessionInfo) -> String {
    let froze = report::frozen(session).map(|froze| format!("\n  freeze   {froze}"));
    format!(
        "session {} active: {}, process {}, until {}\n  gateway  {}, for clients from {}{}",
        session.id,
        session.target_name(),
        session.pid,
        session.expires_at.as_deref().unwrap_or("-"),
        session.endpoint,
        report::sources(&session.sources),
        froze.unwrap_or_default(),
    )
}

async fn tell_more(
    output: &Output,
    arguments: &Attach,
    manager: &ManagerProxy<'_>,
    session: &SessionInfo,
) {
    if session.sources.iter().all(Cidr::is_loopback) {
        output.note("note: only this host can connect; --from CIDR lets other machines in");
    }
    if let Some(wanted) = arguments.way.ide {
        let build = ide::build_info(manager, session).await;
        let text = ide::set_up(wanted, build, &session.unit, ports::DEFAULT);
        // Standard output belongs to the ticket when there is no file for it.
        if arguments.way.ticket.is_some() { output.text(&text) } else { output.note(&text) }
    }
}
