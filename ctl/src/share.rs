//! `share`: a second ticket for somebody else, with a certificate and a name of their own; and taking it back.

use crate::cli::Share;
use crate::keys::Key;
use crate::manager::{answer, manager};
use crate::output::Output;
use crate::tickets;
use godebug_api::documents::{Opened, SessionInfo, ShareRequest};
use godebug_api::{Mode, Refusal};

pub(crate) async fn share(output: &Output, arguments: &Share) -> Result<(), Refusal> {
    if arguments.withdraw {
        return withdraw(output, arguments).await;
    }
    if let Some(path) = &arguments.ticket {
        tickets::check_place(path)?;
    }
    let key = Key::generate()?;
    let request = ShareRequest {
        name: arguments.name.clone(),
        observe: arguments.observe,
        csr: key.csr.clone(),
        endpoint_host: arguments.endpoint.as_ref().map(|endpoint| endpoint.0.clone()),
    };
    let request = serde_json::to_string(&request)
        .map_err(|error| Refusal::failed(error.to_string(), "report this as a bug"))?;
    let manager = manager().await?;
    let opened: Opened = answer(manager.share(arguments.id.as_str(), &request).await)?;
    hand_out(output, arguments, &opened, &key)
}

async fn withdraw(output: &Output, arguments: &Share) -> Result<(), Refusal> {
    let (id, name) = (arguments.id.as_str(), arguments.name.to_string());
    let session: SessionInfo = answer(manager().await?.withdraw(id, &name).await)?;
    let text = format!("{name} is shut out of session {id} on {}", session.unit);
    output.result(&session, &text)
}

/// Whoever cannot be given the ticket cannot use it either: nothing has to be taken back.
fn hand_out(output: &Output, arguments: &Share, opened: &Opened, key: &Key) -> Result<(), Refusal> {
    let ticket = tickets::ticket(opened, key)?;
    let Some(path) = &arguments.ticket else {
        let text = ticket.to_text().map_err(|error| {
            Refusal::failed(
                format!("the ticket cannot be written: {error}"),
                "report this as a bug",
            )
        })?;
        if output.is_json() {
            return output.document(&SessionInfo { ticket: Some(text), ..opened.session.clone() });
        }
        output.raw(&text)?;
        output.note(&summary(arguments, &opened.session));
        return Ok(());
    };
    ticket.write(path).map_err(tickets::refusal)?;
    let shown = path.display().to_string();
    if output.is_json() {
        return output.document(&SessionInfo { ticket: Some(shown), ..opened.session.clone() });
    }
    output
        .text(&format!("{}\n\n  godebugctl connect {shown}", summary(arguments, &opened.session)));
    Ok(())
}

fn summary(arguments: &Share, session: &SessionInfo) -> String {
    let may = match session.mode {
        Mode::Observe => "may watch",
        _ => "may do what the session may",
    };
    format!(
        "{} {may} in session {} on {}, until {}; this ticket is theirs alone",
        arguments.name,
        session.id,
        session.unit,
        session.expires_at.as_deref().unwrap_or("-"),
    )
}
