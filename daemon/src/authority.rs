//! Who asks, and whether they may: the only place where a request becomes an authorised one.
//!
//! polkit is asked about the sender of the message, never about godebugd itself, which is root and
//! would always be told yes. The site's rules are asked before polkit: they hold the part that is
//! about units, modes and times, also where polkit knows nothing but actions.

pub mod rules;

use godebug_api::documents::SessionInfo;
use godebug_api::rules::engine::Permit;
use godebug_api::{Refusal, SessionId, UnitName};
use rules::{Denied, Wish};
use std::collections::HashMap;
use std::time::Duration;
use zbus::Connection;
use zbus::message::Header;
use zbus::names::UniqueName;
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

/// What somebody may be allowed to do; each is a polkit action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Attach,
    Stop,
    Read,
}

impl Action {
    fn id(self) -> &'static str {
        match self {
            Self::Attach => "org.godebug1.attach",
            Self::Stop => "org.godebug1.stop",
            Self::Read => "org.godebug1.read",
        }
    }
}

/// The sender of a message, as the bus vouches for it.
#[derive(Debug)]
pub struct Caller {
    pub name: UniqueName<'static>,
    pub uid: u32,
    pub user: String,
    /// It allows polkit to ask it for a password.
    pub interactive: bool,
    subject: Subject,
}

impl Caller {
    /// Who sent this message.
    ///
    /// # Errors
    /// When the message has no sender (it did not come over the bus) or the bus does not know it.
    pub async fn of(header: &Header<'_>, connection: &Connection) -> Result<Self, Refusal> {
        let refused = |why: &str| {
            Refusal::refused(
                format!("the bus does not say who you are: {why}"),
                "use the system bus",
            )
        };
        let sender = header.sender().ok_or_else(|| refused("the message has no sender"))?;
        let bus = zbus::fdo::DBusProxy::new(connection)
            .await
            .map_err(|error| refused(&error.to_string()))?;
        let uid = bus
            .get_connection_unix_user(sender.clone().into())
            .await
            .map_err(|error| refused(&error.to_string()))?;
        let interactive =
            header.primary().flags().contains(zbus::message::Flags::ALLOW_INTERACTIVE_AUTH);
        let subject =
            Subject::new_for_message_header(header).map_err(|error| refused(&error.to_string()))?;
        let name = sender.to_owned();
        Ok(Self { name, uid, user: user_name(uid), interactive, subject })
    }
}

/// The name of a user, or its number where it has none.
pub fn user_name(uid: u32) -> String {
    nix::unistd::User::from_uid(uid.into())
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

/// Something that was allowed. Only this module makes one, and the sessions take nothing else.
#[must_use]
#[derive(Debug)]
pub struct Authorized<T> {
    inner: T,
    caller: Caller,
}

impl<T> Authorized<T> {
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    pub fn get(&self) -> &T {
        &self.inner
    }

    pub fn into_inner(self) -> (T, Caller) {
        (self.inner, self.caller)
    }
}

/// Asks polkit whether `caller` may do `action` to `unit`. `details` are for the site's rules and
/// for the question that a person is asked.
///
/// # Errors
/// The refusal; nothing was changed.
pub async fn authorize<T>(
    connection: &Connection,
    caller: Caller,
    action: Action,
    unit: Option<&UnitName>,
    details: &[(&str, String)],
    inner: T,
) -> Result<Authorized<T>, Refusal> {
    check(connection, &caller, action, unit, details).await?;
    Ok(Authorized { inner, caller })
}

/// What was allowed by a rule, and what the rule says of it.
#[derive(Debug)]
pub struct Permitted<T> {
    pub what: T,
    pub permit: Permit,
}

/// Asks the rules and then polkit whether `caller` may have a session as in `wish`, or have it for
/// longer. `running` tells the sessions that there are.
///
/// # Errors
/// The refusal, with the rule that denies; nothing was changed.
pub async fn authorize_session<T>(
    connection: &Connection,
    caller: Caller,
    wish: &Wish,
    running: impl Fn() -> Vec<SessionInfo>,
    details: &[(&str, String)],
    what: T,
) -> Result<Authorized<Permitted<T>>, Denied> {
    rules::ask(caller.uid, wish, &running()).await?;
    check(connection, &caller, Action::Attach, Some(&wish.unit), details).await?;
    // polkit may have waited for a password. Rules and groups of now count.
    let permit = rules::ask(caller.uid, wish, &running()).await?;
    Ok(Authorized { inner: Permitted { what, permit }, caller })
}

/// The same for letting somebody into a session: its owner needs the rules' leave and not polkit's.
///
/// # Errors
/// The refusal, with the rule that denies; nothing was changed.
pub async fn authorize_sharing<T>(
    connection: &Connection,
    caller: Caller,
    wish: &Wish,
    (session, running): (&SessionInfo, impl Fn() -> Vec<SessionInfo>),
    what: T,
) -> Result<Authorized<Permitted<T>>, Denied> {
    if caller.uid != session.opened_by_uid {
        return authorize_session(connection, caller, wish, running, &[], what).await;
    }
    let permit = rules::ask(caller.uid, wish, &running()).await?;
    Ok(Authorized { inner: Permitted { what, permit }, caller })
}

/// The same for a session: its owner needs nobody's leave to see it or to make it smaller.
///
/// # Errors
/// The refusal; nothing was changed.
pub async fn authorize_for_session(
    connection: &Connection,
    caller: Caller,
    action: Action,
    session: &SessionInfo,
) -> Result<Authorized<SessionId>, Refusal> {
    if caller.uid != session.opened_by_uid {
        check(connection, &caller, action, Some(&session.unit), &[]).await?;
    }
    Ok(Authorized { inner: session.id.clone(), caller })
}

/// The same for what was recorded of a session, which may be all that is left of it. Where the
/// records do not tell who opened it, it is nobody's own.
///
/// # Errors
/// The refusal.
pub async fn authorize_for_records<T>(
    connection: &Connection,
    caller: Caller,
    owner: Option<u32>,
    unit: Option<&UnitName>,
    records: T,
) -> Result<Authorized<T>, Refusal> {
    if owner != Some(caller.uid) {
        check(connection, &caller, Action::Read, unit, &[]).await?;
    }
    Ok(Authorized { inner: records, caller })
}

async fn check(
    connection: &Connection,
    caller: &Caller,
    action: Action,
    unit: Option<&UnitName>,
    details: &[(&str, String)],
) -> Result<(), Refusal> {
    // A person may need minutes to find their password; a polkit without a person to ask answers
    // at once.
    let patience = Duration::from_secs(if caller.interactive { 180 } else { 10 });
    let unreachable = |why: String| {
        Refusal::host(
            format!("polkit cannot be asked, so nothing is allowed: {why}"),
            "see that polkit runs: systemctl status polkit",
        )
    };
    let authority =
        AuthorityProxy::new(connection).await.map_err(|e| unreachable(e.to_string()))?;
    let mut all: HashMap<&str, &str> =
        details.iter().map(|(key, value)| (*key, value.as_str())).collect();
    if let Some(unit) = unit {
        all.insert("unit", unit.as_str());
    }
    all.insert("user", &caller.user);
    let flags = if caller.interactive {
        CheckAuthorizationFlags::ALLOW_USER_INTERACTION
    } else {
        CheckAuthorizationFlags::empty()
    };
    let asked = authority.check_authorization(&caller.subject, action.id(), &all, flags, "");
    let answer = tokio::time::timeout(patience, asked)
        .await
        .map_err(|_| unreachable(format!("no answer within {} s", patience.as_secs())))?
        .map_err(|error| unreachable(error.to_string()))?;
    if answer.is_authorized {
        return Ok(());
    }
    let what = action.id();
    let unit = unit.map(|unit| format!(" for {unit}")).unwrap_or_default();
    Err(if answer.is_challenge {
        Refusal::refused(
            format!(
                "polkit wants {} to authenticate for {what}{unit}, and there was nobody to ask",
                caller.user
            ),
            "run it with sudo, or from a terminal with a polkit agent (pkttyagent)",
        )
    } else {
        Refusal::refused(
            format!("polkit does not allow {} to do {what}{unit}", caller.user),
            format!("ask an administrator of this host; the action is {what}"),
        )
    })
}
