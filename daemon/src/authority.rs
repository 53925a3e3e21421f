//! Who asks, and whether they may: the only place where a request becomes an authorised one.
//!
//! polkit is asked about the sender of the message, never about godebugd itself, which is root and
//! would always be told yes. The site's rules are asked before polkit: they hold the part that is
//! about units, modes and times, also where polkit knows nothing but actions.

pub mod consent;
mod login;
pub mod rules;

use godebug_api::documents::SessionInfo;
use godebug_api::rules::engine::{Approvals, Command, Consent, Permit};
use godebug_api::{Approval, Login, Refusal, SessionId, UnitName, same_person};
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
    /// Start a service under a debugger.
    Exec,
    /// Read what is kept of one that crashed.
    Core,
    /// Consent to what somebody else wants, or refuse it.
    Approve,
    Stop,
    Read,
}

impl Action {
    /// What polkit is asked for.
    fn for_command(command: Command) -> Self {
        match command {
            Command::Exec => Self::Exec,
            Command::Core => Self::Core,
            Command::Attach | Command::Snapshot => Self::Attach,
        }
    }

    fn id(self) -> &'static str {
        match self {
            Self::Attach => "org.godebug1.attach",
            Self::Exec => "org.godebug1.exec",
            Self::Core => "org.godebug1.core",
            Self::Approve => "org.godebug1.approve",
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
    /// Empty where nobody needs to know it.
    pub login: Login,
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
        let login = Login::default();
        Ok(Self { name, uid, user: user_name(uid), interactive, login, subject })
    }

    /// The same, with what is known of how they came to be here: for whoever changes something.
    ///
    /// # Errors
    /// As [`Caller::of`].
    pub async fn with_login(header: &Header<'_>, connection: &Connection) -> Result<Self, Refusal> {
        let mut caller = Self::of(header, connection).await?;
        caller.login = login::of(connection, caller.name.clone().into()).await;
        Ok(caller)
    }
}

/// The name of a user, or its number where it has none.
pub fn user_name(uid: u32) -> String {
    known_user_name(uid).unwrap_or_else(|| uid.to_string())
}

/// The name of a user whom this host knows.
pub fn known_user_name(uid: u32) -> Option<String> {
    nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name)
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
    /// The request that others have consented to, where the rule wants that.
    pub consented: Option<Consented>,
}

/// A request, and who has consented to it.
#[derive(Debug)]
pub struct Consented {
    pub id: SessionId,
    pub approvals: Vec<Approval>,
}

/// What a rule allows as soon as others consent to it.
#[derive(Debug)]
pub struct Unconsented<T> {
    pub what: T,
    pub permit: Permit,
    pub approvals: Approvals,
}

/// What rules and polkit say to a wish.
#[derive(Debug)]
pub enum Answer<T> {
    Granted(Authorized<Permitted<T>>),
    NeedsConsent(Authorized<Unconsented<T>>),
}

impl<T> Answer<T> {
    /// The leave, for what cannot wait for anybody's consent.
    ///
    /// # Errors
    /// Where it would have to; `instead` says what to do.
    pub fn at_once(self, instead: &str) -> Result<Authorized<Permitted<T>>, Denied> {
        match self {
            Self::Granted(granted) => Ok(granted),
            Self::NeedsConsent(Authorized { inner, .. }) => {
                let rule = inner.permit.name();
                let message = format!("the rule {rule} wants {} first", inner.approvals);
                Err(Denied { refusal: Refusal::refused(message, instead), rule: Some(rule) })
            }
        }
    }
}

/// Asks the rules and then polkit whether `caller` may have a session as in `wish`. `running` tells
/// the sessions that there are.
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
) -> Result<Answer<T>, Denied> {
    rules::ask(caller.uid, wish, &running()).await?;
    let action = Action::for_command(wish.command);
    // What their own manager runs is theirs already; `sessions` sees that it has no more rights than they.
    if !wish.is_of(&caller.user) {
        check(connection, &caller, action, Some(&wish.unit), details).await?;
    }
    // polkit may have waited for a password. Rules and groups of now count.
    let permit = rules::ask(caller.uid, wish, &running()).await?;
    Ok(match permit.consent.clone() {
        Consent::Needed(approvals) => {
            let inner = Unconsented { what, permit, approvals };
            Answer::NeedsConsent(Authorized { inner, caller })
        }
        Consent::NotNeeded | Consent::GlassBroken => {
            let inner = Permitted { what, permit, consented: None };
            Answer::Granted(Authorized { inner, caller })
        }
    })
}

/// The same for a request that others were asked to consent to, now that whoever made it takes it up.
/// Rules, groups and approvers of now count. polkit is asked anew, unless it has vouched for just this
/// connection when the request was made.
///
/// # Errors
/// The refusal, with the rule that denies; the request waits on.
pub async fn authorize_claim<T>(
    connection: &Connection,
    caller: Caller,
    wish: &Wish,
    (request, vouched_for): (&SessionInfo, Option<&UniqueName<'static>>),
    running: impl Fn() -> Vec<SessionInfo>,
    what: T,
) -> Result<Authorized<Permitted<T>>, Denied> {
    if caller.uid != request.opened_by_uid {
        let remedy = format!("it is for {} to take up", request.opened_by);
        return Err(Refusal::refused(format!("request {} is not yours", request.id), remedy).into());
    }
    rules::ask(caller.uid, wish, &running()).await?;
    if vouched_for != Some(&caller.name) && !wish.is_of(&caller.user) {
        check(connection, &caller, Action::for_command(wish.command), Some(&wish.unit), &[])
            .await?;
    }
    let permit = rules::ask(caller.uid, wish, &running()).await?;
    let approvals = match &permit.consent {
        Consent::Needed(wanted) => consent::enough(request, wanted, &permit).await?,
        Consent::NotNeeded | Consent::GlassBroken => request.approvals.clone(),
    };
    let consented = Some(Consented { id: request.id.clone(), approvals });
    Ok(Authorized { inner: Permitted { what, permit, consented }, caller })
}

/// Whether `caller` may consent to `request`, which is looked at as if it were made now.
///
/// # Errors
/// The refusal, which is also that of the request itself; it waits on.
pub async fn authorize_approval(
    connection: &Connection,
    caller: Caller,
    wish: &Wish,
    request: &SessionInfo,
    running: impl Fn() -> Vec<SessionInfo>,
) -> Result<Authorized<SessionId>, Denied> {
    consent::may_be_given(&caller, request, wish, &running()).await?;
    let details = consent::details(request);
    check(connection, &caller, Action::Approve, Some(&wish.unit), &details).await?;
    // polkit may have waited for a password.
    consent::may_be_given(&caller, request, wish, &running()).await?;
    Ok(Authorized { inner: request.id.clone(), caller })
}

/// Whether `caller` may refuse `request`: whoever may consent to it, and whoever may end sessions.
///
/// # Errors
/// The refusal.
pub async fn authorize_denial(
    connection: &Connection,
    caller: Caller,
    wish: &Wish,
    request: &SessionInfo,
    running: &[SessionInfo],
) -> Result<Authorized<SessionId>, Refusal> {
    if caller.uid == request.opened_by_uid {
        let remedy = format!("take it back: godebugctl stop {}", request.id);
        return Err(Refusal::refused("the request is your own", remedy));
    }
    let action = match consent::may_be_given(&caller, request, wish, running).await {
        Ok(()) => Action::Approve,
        Err(_) => Action::Stop,
    };
    check(connection, &caller, action, Some(&wish.unit), &consent::details(request)).await?;
    Ok(Authorized { inner: request.id.clone(), caller })
}

/// Whether `caller` may say that they have reviewed what is recorded of a session, whose opener's record
/// this is: never whoever opened it.
///
/// # Errors
/// The refusal.
pub async fn authorize_review(
    connection: &Connection,
    caller: Caller,
    opener: (u32, &Login),
    unit: Option<&UnitName>,
    id: SessionId,
) -> Result<Authorized<SessionId>, Refusal> {
    if same_person((caller.uid, &caller.login), opener) {
        return Err(Refusal::refused(
            "nobody reviews what they did themselves",
            "somebody else has to look at it: godebugctl audit review",
        ));
    }
    check(connection, &caller, Action::Approve, unit, &[]).await?;
    Ok(Authorized { inner: id, caller })
}

/// Whether `caller` may make a session longer. Where it needed consent, whoever gave it, or could have,
/// may, and its owner may not; a session whose glass was broken is its owner's to make longer.
///
/// # Errors
/// The refusal; nothing was changed.
pub async fn authorize_extension(
    connection: &Connection,
    caller: Caller,
    wish: &Wish,
    session: &SessionInfo,
    running: impl Fn() -> Vec<SessionInfo>,
) -> Result<Authorized<Permitted<SessionId>>, Denied> {
    let what = session.id.clone();
    if session.approvals.is_empty() || caller.uid == session.opened_by_uid {
        let answer = authorize_session(connection, caller, wish, running, &[], what).await?;
        return answer.at_once(
            "only somebody who could approve it can make it longer: godebugctl extend ID --ttl TIME",
        );
    }
    consent::may_be_given(&caller, session, wish, &running()).await?;
    let details = consent::details(session);
    check(connection, &caller, Action::Approve, Some(&wish.unit), &details).await?;
    let permit = rules::ask(session.opened_by_uid, wish, &running()).await?;
    consent::alone(&permit)?;
    Ok(Authorized { inner: Permitted { what, permit, consented: None }, caller })
}

/// The same for letting somebody into a session: its owner needs the rules' leave and not polkit's,
/// and where it needed consent, that of those who could give it, as for making it longer.
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
        let allowed = authorize_extension(connection, caller, wish, session, running).await?;
        let Authorized { inner: Permitted { permit, consented, .. }, caller } = allowed;
        return Ok(Authorized { inner: Permitted { what, permit, consented }, caller });
    }
    let permit = rules::ask(caller.uid, wish, &running()).await?;
    if matches!(permit.consent, Consent::Needed(_)) {
        let remedy = "ask one of them to share it: godebugctl share ID --name WHO";
        let message = "whoever could approve this session shares it";
        return Err(Refusal::refused(message, remedy).into());
    }
    Ok(Authorized { inner: Permitted { what, permit, consented: None }, caller })
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
