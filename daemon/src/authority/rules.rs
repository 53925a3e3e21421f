//! What the host knows of a request, put to its rules: the person's groups, the time, the rules as
//! they are at this moment. Before polkit is asked, and again after it, since a person may need
//! minutes to find a password.

use super::user_name;
use godebug_api::documents::SessionInfo;
use godebug_api::rules::engine::{
    Answer, Command, Consent, Denial, Moment, Permit, Question, Rule, Running, Weekday, Who, decide,
};
use godebug_api::rules::{self, Explanation, Hypothesis, PassedOver};
use godebug_api::{Cidr, Mode, Reason, Refusal, TargetName, Ttl, UnitName};
use jiff::Zoned;
use nix::unistd::{Gid, Group, User, getgrouplist};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::time::Duration;

/// What somebody wants to do to a unit. Who it is comes from the bus.
#[derive(Debug, Clone)]
pub struct Wish {
    pub command: Command,
    /// By the name and in the slice that systemd has for it.
    pub unit: UnitName,
    /// The container or the user's unit in it that is meant.
    pub target: Option<TargetName>,
    pub slice: Option<String>,
    pub mode: Mode,
    pub ttl: Ttl,
    pub reason: Option<Reason>,
    pub sources: Vec<Cidr>,
    /// How long the session has been there; nothing for a new one.
    pub lasted: Option<Duration>,
    /// Without the consent of others.
    pub break_glass: bool,
}

/// A no, and the rule that says it if one does.
#[derive(Debug)]
pub struct Denied {
    pub refusal: Refusal,
    pub rule: Option<String>,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, rule: None }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        denied.refusal
    }
}

impl From<Denial> for Denied {
    fn from(denial: Denial) -> Self {
        // The action, since people know it from polkit's configuration; and that this is not where
        // the no comes from, so that nobody looks there.
        let message =
            format!("{} (org.godebug1.attach; said by the rules, not by polkit)", denial.message);
        Self { refusal: Refusal::refused(message, denial.remedy), rule: denial.rule }
    }
}

/// Asks the rules.
///
/// # Errors
/// The denial, or that the rules or the person's groups cannot be read, which is one too.
pub async fn ask(uid: u32, wish: &Wish, sessions: &[SessionInfo]) -> Result<Permit, Denied> {
    let person = Person::of(uid).await?;
    let rules = current()?;
    let counted = wish.lasted.is_none().then(|| running(sessions, &wish.unit, uid));
    Ok(decide(&rules, &wish.question(&person, now(), counted)).decision?)
}

/// Whether a user is one of these people now.
///
/// # Errors
/// When their groups cannot be looked up.
pub async fn is_one_of(uid: u32, people: &Who) -> Result<bool, Refusal> {
    let person = Person::of(uid).await?;
    Ok(people.includes(&person.user, &person.groups))
}

/// How many sessions there are that a limit may count.
pub fn running(sessions: &[SessionInfo], unit: &UnitName, uid: u32) -> Running {
    let count = |of: &dyn Fn(&SessionInfo) -> bool| {
        u32::try_from(sessions.iter().filter(|session| of(session)).count()).unwrap_or(u32::MAX)
    };
    Running {
        on_unit: count(&|session| session.unit == *unit),
        on_host: count(&|_| true),
        of_person: count(&|session| session.opened_by_uid == uid),
    }
}

/// Says what the rules would say to somebody, and how they come to that.
///
/// # Errors
/// When there is no such user, or the rules cannot be used.
pub async fn explain(
    (unit, target): (UnitName, Option<TargetName>),
    slice: Option<String>,
    what: Hypothesis,
    sessions: &[SessionInfo],
) -> Result<Explanation, Refusal> {
    let Hypothesis { user, command, mode, ttl, reason, from, break_glass } = what;
    let (uid, person) = Person::named(&user).await?;
    let (lasted, sources) = (None, from);
    let wish =
        Wish { command, unit, target, slice, mode, ttl, reason, sources, lasted, break_glass };
    let (rules, now) = (current()?, now());
    let counted = running(sessions, &wish.unit, uid);
    let Answer { passed_over, decision } =
        decide(&rules, &wish.question(&person, now, Some(counted)));
    let passed_over = passed_over.into_iter().map(|passed| PassedOver {
        rule: passed.rule.name.clone(),
        place: passed.rule.place.clone(),
        mismatches: passed.mismatches,
    });
    let (allowed, rule, message, remedy) = match decision {
        Ok(permit) => {
            let consent = match &permit.consent {
                Consent::NotNeeded => String::new(),
                Consent::Needed(wanted) => format!(" after {wanted}"),
                Consent::GlassBroken => " without approval, as an alarm".to_owned(),
            };
            let message = format!("the rule {} allows it{consent}", permit.name());
            let polkit = if wish.is_of(&person.user) {
                "polkit is not asked: it is theirs already"
            } else {
                "polkit is asked besides"
            };
            (true, Some(permit.name()), message, polkit.to_owned())
        }
        Err(denial) => (false, denial.rule, denial.message, denial.remedy),
    };
    Ok(Explanation {
        allowed,
        rule,
        user: person.user,
        groups: person.groups,
        slice: wish.slice,
        now: now.to_string(),
        message,
        remedy,
        passed_over: passed_over.collect(),
    })
}

/// The rules as they are now. With a broken file there are none.
///
/// # Errors
/// The first problem, with its file and line.
pub fn current() -> Result<Vec<Rule>, Refusal> {
    rules::load().map_err(|problems| {
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        let more = match problems.len() {
            0 | 1 => String::new(),
            count => format!(", and {} more problems", count - 1),
        };
        Refusal::refused(
            format!("the rules cannot be used, so nothing is granted: {first}{more}"),
            "`godebugctl rules check` shows all that is wrong; sessions that run go on",
        )
    })
}

impl Wish {
    /// Whether it is a unit that this user's own manager runs.
    pub fn is_of(&self, user: &str) -> bool {
        self.target.as_ref().and_then(TargetName::owner) == Some(user)
    }

    fn question<'a>(
        &'a self,
        person: &'a Person,
        now: Moment,
        running: Option<Running>,
    ) -> Question<'a> {
        Question {
            user: &person.user,
            groups: &person.groups,
            command: self.command,
            unit: &self.unit,
            slice: self.slice.as_deref(),
            container: self.target.as_ref().and_then(TargetName::container),
            owner: self.target.as_ref().and_then(TargetName::owner),
            mode: self.mode,
            ttl: self.ttl.get(),
            lasted: self.lasted.unwrap_or_default(),
            reason: self.reason.as_ref(),
            sources: &self.sources,
            now,
            running,
            break_glass: self.break_glass,
        }
    }
}

/// This minute on the host's own clock on the wall.
fn now() -> Moment {
    let now = Zoned::now();
    let day = usize::try_from(now.weekday().to_monday_zero_offset()).unwrap_or(0);
    let minute = i32::from(now.hour()) * 60 + i32::from(now.minute());
    Moment { day: Weekday::ALL[day % 7], minute: u16::try_from(minute).unwrap_or(0) }
}

/// Who asks, as the host's user database knows them: files, SSSD, LDAP, whatever NSS has.
struct Person {
    user: String,
    groups: Vec<String>,
}

impl Person {
    /// Looked up at every decision, so that who has lost a group has lost it.
    async fn of(uid: u32) -> Result<Self, Refusal> {
        // A directory on the network may take its time; nothing else waits for it.
        let found = tokio::task::spawn_blocking(move || match User::from_uid(uid.into())? {
            Some(user) => Self::from_database(&user),
            // A user whom no database knows has no groups that a rule could name.
            None => Ok(Self { user: user_name(uid), groups: Vec::new() }),
        });
        let failed = |why: String| {
            Refusal::host(
                format!(
                    "the groups of uid {uid} cannot be looked up, so nothing is granted: {why}"
                ),
                "see `id` for that user, and the services that /etc/nsswitch.conf names",
            )
        };
        found.await.map_err(|error| failed(error.to_string()))?.map_err(|e| failed(e.to_string()))
    }

    async fn named(name: &str) -> Result<(u32, Self), Refusal> {
        let wanted = name.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            let user = User::from_name(&wanted)?;
            user.map(|user| Ok((user.uid.as_raw(), Self::from_database(&user)?))).transpose()
        });
        let failed = |why: String| Refusal::host(format!("users cannot be looked up: {why}"), "");
        let found: Result<_, nix::Error> =
            found.await.map_err(|error| failed(error.to_string()))?;
        found
            .map_err(|error| failed(error.to_string()))?
            .ok_or_else(|| Refusal::usage("there is no such user on this host", "see `id USER`"))
    }

    fn from_database(user: &User) -> Result<Self, nix::Error> {
        let name = CString::new(user.name.as_str()).map_err(|_| nix::Error::EINVAL)?;
        let mut groups = BTreeSet::new();
        for gid in getgrouplist(&name, user.gid)? {
            groups.insert(group_name(gid)?);
        }
        Ok(Self { user: user.name.clone(), groups: groups.into_iter().collect() })
    }
}

/// The name of a group, or its number where it has none.
fn group_name(gid: Gid) -> Result<String, nix::Error> {
    Ok(Group::from_gid(gid)?.map_or_else(|| gid.to_string(), |group| group.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn root_is_known_with_its_groups_and_a_stranger_has_none() {
        let root = Person::of(0).await.unwrap();
        assert_eq!(root.user, "root");
        assert!(root.groups.contains(&"root".to_owned()), "{:?}", root.groups);
        let stranger = Person::of(4_000_000_001).await.unwrap();
        assert_eq!((stranger.user.as_str(), stranger.groups.len()), ("4000000001", 0));
        assert!(Person::named("no such user").await.is_err());
    }

    #[test]
    fn the_moment_is_one_of_the_week() {
        assert!(now().minute < 24 * 60);
    }
}
