//! What people ask the audit log: the records of one session, the sessions in short, and how one
//! ended. Read in one pass, with a bound on what is kept.

use super::Kind;
use super::lines::{Head, LONGEST, Log};
use crate::paths;
use godebug_api::audit::{
    AuditFilter, AuditList, AuditRecord, AuditReviews, AuditTrail, AuditedSession, LeftOut, Outcome,
};
use godebug_api::{SessionId, UnitName, audit_files};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What of a long trail is answered: its beginning, which says who asked for what, and its end. A
/// session can be extended and mended without end, and a bus message has a bound.
const FIRST: Bound = Bound { entries: 100, bytes: LONGEST };
const LATEST: Bound = Bound { entries: 400, bytes: 2 * LONGEST };

struct Bound {
    entries: usize,
    bytes: usize,
}

/// All records of one session, from the log and from what was rotated away; no entries when there are
/// none.
///
/// # Errors
/// When a log is there and cannot be read.
pub fn trail(id: &SessionId) -> io::Result<AuditTrail> {
    let mut trail = Trail::of(id);
    for log in all_logs()? {
        trail.read(log)?;
    }
    Ok(trail.kept())
}

/// A trail while it is read.
struct Trail<'a> {
    id: &'a SessionId,
    first: Vec<AuditRecord>,
    first_bytes: usize,
    latest: VecDeque<(AuditRecord, usize)>,
    latest_bytes: usize,
    dropped: u64,
    damaged_lines: u64,
}

impl<'a> Trail<'a> {
    fn of(id: &'a SessionId) -> Self {
        Self {
            id,
            first: Vec::new(),
            first_bytes: 0,
            latest: VecDeque::new(),
            latest_bytes: 0,
            dropped: 0,
            damaged_lines: 0,
        }
    }

    fn read<R: Read>(&mut self, log: Log<R>) -> io::Result<()> {
        let id = self.id;
        let damaged = log.read(
            |head| head.session.as_ref() == Some(id),
            |record, length| self.keep(record, length),
        )?;
        self.damaged_lines += damaged;
        Ok(())
    }

    fn keep(&mut self, record: AuditRecord, length: usize) {
        self.first_bytes += length;
        if self.first.len() < FIRST.entries && self.first_bytes <= FIRST.bytes {
            self.first.push(record);
            return;
        }
        // Once one was too much, all later ones are after the gap, if there is any.
        self.first_bytes = FIRST.bytes;
        self.latest_bytes += length;
        self.latest.push_back((record, length));
        while self.latest.len() > LATEST.entries || self.latest_bytes > LATEST.bytes {
            self.latest_bytes -= self.latest.pop_front().map_or(0, |(_, length)| length);
            self.dropped += 1;
        }
    }

    fn kept(self) -> AuditTrail {
        let Self { id, first: mut entries, latest, dropped, damaged_lines, .. } = self;
        let left_out = (dropped > 0).then_some(LeftOut { after: entries.len(), entries: dropped });
        entries.extend(latest.into_iter().map(|(record, _)| record));
        AuditTrail { session: id.clone(), entries, left_out, damaged_lines }
    }
}

/// Who opened the session of these records, if they tell.
pub fn owner(entries: &[AuditRecord]) -> Option<u32> {
    entries.iter().find_map(|record| {
        let facts = record.facts();
        // An extension has the uid of whoever extended it.
        let opener = (is(&record.event, Kind::Opening)).then_some(record.uid);
        opener.or(facts.opened_by_uid)
    })
}

fn is(event: &str, kind: Kind) -> bool {
    event == kind.name()
}

/// The sessions that `filter` wants, of everybody or of `only_of`. What was rotated away is read where
/// the log itself has not as many.
///
/// # Errors
/// When a log is there and cannot be read.
pub fn list(filter: &AuditFilter, only_of: Option<u32>) -> io::Result<AuditList> {
    let log = Log::open(Path::new(paths::AUDIT_LOG))?;
    let list = listed_in(log.into_iter().collect(), filter, only_of)?;
    if list.sessions.len().max(list.refusals.len()) >= filter.last.get() {
        return Ok(list);
    }
    listed_in(all_logs()?, filter, only_of)
}

fn listed_in<R: Read>(
    logs: Vec<Log<R>>,
    filter: &AuditFilter,
    only_of: Option<u32>,
) -> io::Result<AuditList> {
    let mut list = AuditList {
        sessions: Vec::new(),
        refusals: Vec::new(),
        own_only: only_of.is_some(),
        damaged_lines: 0,
    };
    let (mut sessions, mut refusals) = (Latest::new(filter, only_of), VecDeque::new());
    for log in logs {
        list.damaged_lines += match filter.refused {
            true => refusals_in(log, filter, only_of, &mut refusals)?,
            false => list_in(log, filter, &mut sessions)?,
        };
    }
    list.sessions = sessions.in_order();
    list.refusals = refusals.into();
    Ok(list)
}

/// Adds to the latest; gives how many lines are damaged.
fn refusals_in<R: Read>(
    log: Log<R>,
    filter: &AuditFilter,
    only_of: Option<u32>,
    latest: &mut VecDeque<AuditRecord>,
) -> io::Result<u64> {
    let unit = filter.unit.as_ref().map(UnitName::as_str);
    log.read(
        |head| is(&head.event, Kind::Refused) && unit.is_none_or(|unit| head.unit == unit),
        |record, _| {
            let theirs = only_of.is_none_or(|uid| uid == record.uid);
            if theirs && filter.wants(&record.user, &record.time) {
                latest.push_back(record);
            }
            if latest.len() > filter.last.get() {
                latest.pop_front();
            }
        },
    )
}

fn list_in<R: Read>(
    log: Log<R>,
    filter: &AuditFilter,
    sessions: &mut Latest<'_>,
) -> io::Result<u64> {
    let unit = filter.unit.as_ref().map(UnitName::as_str);
    let wanted =
        |head: &Head<'_>| head.session.is_some() && unit.is_none_or(|unit| head.unit == unit);
    log.read(wanted, |record, _| sessions.learn(&record))
}

/// The sessions that were opened last, as far as the log was read.
struct Latest<'a> {
    filter: &'a AuditFilter,
    only_of: Option<u32>,
    /// By the time they were opened; the number tells those of one second apart.
    sessions: BTreeMap<(String, u64), AuditedSession>,
    places: HashMap<SessionId, (String, u64)>,
    count: u64,
}

impl<'a> Latest<'a> {
    fn new(filter: &'a AuditFilter, only_of: Option<u32>) -> Self {
        let (sessions, places) = (BTreeMap::new(), HashMap::new());
        Self { filter, only_of, sessions, places, count: 0 }
    }

    fn learn(&mut self, record: &AuditRecord) {
        let Some(id) = &record.session else { return };
        if let Some(session) = self.places.get(id).and_then(|place| self.sessions.get_mut(place)) {
            return update(session, record);
        }
        let Some(mut session) = begun(id, record) else { return };
        let others = self.only_of.is_some_and(|uid| uid != session.opened_by_uid);
        if others || !self.filter.wants(&session.opened_by, &session.opened_at) {
            return;
        }
        update(&mut session, record);
        self.count += 1;
        let place = (session.opened_at.clone(), self.count);
        self.places.insert(id.clone(), place.clone());
        self.sessions.insert(place, session);
        // The oldest one goes. What is recorded of it later brings it in with its old place, and it
        // goes again.
        if self.sessions.len() > self.filter.last.get()
            && let Some((_, oldest)) = self.sessions.pop_first()
        {
            self.places.remove(&oldest.id);
        }
    }

    fn in_order(self) -> Vec<AuditedSession> {
        self.sessions.into_values().collect()
    }
}

/// A session that this record is the first of, or the first that is left of it: the log may have
/// been rotated. `None` when the record does not tell when it was opened and by whom.
fn begun(id: &SessionId, record: &AuditRecord) -> Option<AuditedSession> {
    let facts = record.facts();
    let opening = is(&record.event, Kind::Opening) || is(&record.event, Kind::BreakGlass);
    let (opened_by, opened_by_uid) = if opening {
        (record.user.clone(), record.uid)
    } else {
        (facts.opened_by?, facts.opened_by_uid?)
    };
    Some(AuditedSession {
        opened_at: facts.opened_at.or_else(|| opening.then(|| record.time.clone()))?,
        id: id.clone(),
        unit: record.unit.parse().ok()?,
        opened_by,
        opened_by_uid,
        mode: facts.mode,
        ended_at: None,
        close_reason: None,
        break_glass: false,
        outcome: Outcome::NotRecorded,
    })
}

fn update(session: &mut AuditedSession, record: &AuditRecord) {
    session.break_glass |= is(&record.event, Kind::BreakGlass);
    let outcome = match record.event.as_str() {
        event if is(event, Kind::Closed) => Outcome::Proved,
        event if is(event, Kind::Stuck) => Outcome::Stuck,
        event if is(event, Kind::Denied) || is(event, Kind::Dropped) => Outcome::NotOpened,
        _ => return,
    };
    session.outcome = outcome;
    session.ended_at = Some(record.time.clone());
    session.close_reason = record.facts().close_reason.or(session.close_reason);
}

/// The records of sessions whose glass was broken and that nobody has reviewed, the oldest first, from
/// the log and from what was rotated away.
///
/// # Errors
/// When a log cannot be read.
pub fn unreviewed() -> io::Result<AuditReviews> {
    let mut reviews = Reviews::default();
    for log in all_logs()? {
        reviews.read(log)?;
    }
    Ok(reviews.open())
}

/// The log and what was rotated away, the oldest first.
pub(super) fn all_logs() -> io::Result<Vec<Log<io::Take<File>>>> {
    let folder = Path::new(paths::AUDIT_LOG).parent().unwrap_or(Path::new("/"));
    let files = match audit_files::in_order(folder) {
        Ok(files) => files,
        Err(wrong) if wrong.error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(wrong) => return Err(io::Error::new(wrong.error.kind(), wrong.to_string())),
    };
    let mut logs = Vec::new();
    for file in files {
        logs.extend(Log::open(&file)?);
    }
    Ok(logs)
}

#[derive(Default)]
struct Reviews {
    broken: Vec<AuditRecord>,
    reviewed: HashSet<SessionId>,
    damaged_lines: u64,
}

impl Reviews {
    fn read<R: Read>(&mut self, log: Log<R>) -> io::Result<()> {
        let (broken, reviewed) = (&mut self.broken, &mut self.reviewed);
        self.damaged_lines += log.read(
            |head| is(&head.event, Kind::BreakGlass) || is(&head.event, Kind::Reviewed),
            |record, _| match is(&record.event, Kind::BreakGlass) {
                true => broken.push(record),
                false => reviewed.extend(record.session),
            },
        )?;
        Ok(())
    }

    fn open(mut self) -> AuditReviews {
        self.broken.retain(|record| {
            record.session.as_ref().is_none_or(|session| !self.reviewed.contains(session))
        });
        AuditReviews { open: self.broken, damaged_lines: self.damaged_lines }
    }
}

/// The last record of the end of a session, for `show` after godebugd has forgotten it.
///
/// # Errors
/// When the log is there and cannot be read.
pub fn last_end(id: &SessionId) -> io::Result<Option<AuditRecord>> {
    let Some(log) = Log::open(Path::new(paths::AUDIT_LOG))? else { return Ok(None) };
    let mut found = None;
    const ENDS: [Kind; 4] = [Kind::Closed, Kind::Stuck, Kind::Denied, Kind::Dropped];
    let end = |event: &str| ENDS.iter().any(|kind| is(event, *kind));
    log.read(
        |head| head.session.as_ref() == Some(id) && end(&head.event),
        |record, _| found = Some(record),
    )?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Entry;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn trail_in<R: Read>(log: Log<R>, id: &SessionId) -> io::Result<AuditTrail> {
        let mut trail = Trail::of(id);
        trail.read(log)?;
        Ok(trail.kept())
    }

    fn line(kind: Kind, id: &str, uid: u32, details: Value) -> Vec<u8> {
        let mut entry = Entry::new(kind, "shop.service", uid, &format!("user{uid}"), "a sentence")
            .session(id)
            .details(details);
        entry.time = "2026-01-01T00:00:00Z".to_owned();
        let mut line = serde_json::to_vec(&entry).unwrap();
        line.push(b'\n');
        line
    }

    fn opening(id: &str, uid: u32, opened_at: &str) -> Vec<u8> {
        line(Kind::Opening, id, uid, json!({"opened_at": opened_at, "mode": "modify"}))
    }

    fn end(kind: Kind, id: &str, uid: u32, opened_at: &str) -> Vec<u8> {
        let user = format!("user{uid}");
        let details = json!({"opened_at": opened_at, "opened_by": user, "opened_by_uid": uid,
            "mode": "modify", "close_reason": "expired"});
        line(kind, id, 0, details)
    }

    fn id(text: &str) -> SessionId {
        text.parse().unwrap()
    }

    fn listed(text: &[u8], last: u32, only_of: Option<u32>) -> (Vec<AuditedSession>, u64) {
        let filter = AuditFilter { last: last.try_into().unwrap(), ..AuditFilter::default() };
        filtered(text, &filter, only_of)
    }

    fn filtered(
        text: &[u8],
        filter: &AuditFilter,
        only_of: Option<u32>,
    ) -> (Vec<AuditedSession>, u64) {
        let mut sessions = Latest::new(filter, only_of);
        let damaged = list_in(Log::new(text), filter, &mut sessions).unwrap();
        (sessions.in_order(), damaged)
    }

    #[test]
    fn damaged_lines_are_passed_over_and_counted() {
        let mut text = opening("0000000a", 7, "2026-01-01T00:00:00Z");
        text.extend(b"{\"time\":\n\n\xff\xfe\n[1]\nnull\n{}\n");
        text.extend(vec![b'x'; LONGEST + 1]);
        text.push(b'\n');
        text.extend(end(Kind::Closed, "0000000a", 7, "2026-01-01T00:00:00Z"));
        text.extend(&end(Kind::Closed, "0000000a", 7, "2026-01-01T00:00:00Z")[..50]);
        let trail = trail_in(Log::new(text.as_slice()), &id("0000000a")).unwrap();
        let events: Vec<&str> = trail.entries.iter().map(|entry| entry.event.as_str()).collect();
        assert_eq!(events, ["opening", "closed"]);
        assert_eq!(trail.damaged_lines, 8);
        assert_eq!(owner(&trail.entries), Some(7));
        let (sessions, damaged) = listed(&text, 5, None);
        assert_eq!((sessions.len(), damaged), (1, 8));
        assert_eq!(sessions[0].outcome, Outcome::Proved);
    }

    #[test]
    fn an_answer_has_a_bound_whatever_the_log_holds() {
        let mut text = opening("0000000a", 7, "2026-01-01T00:00:00Z");
        for _ in 0..5000 {
            text.extend(end(Kind::Stuck, "0000000a", 7, "2026-01-01T00:00:00Z"));
        }
        text.extend(end(Kind::Closed, "0000000a", 7, "2026-01-01T00:00:00Z"));
        let trail = trail_in(Log::new(text.as_slice()), &id("0000000a")).unwrap();
        assert_eq!(trail.entries.len(), FIRST.entries + LATEST.entries);
        let gap = trail.left_out.unwrap();
        assert_eq!((gap.after, gap.entries), (100, 5002 - 500));
        assert_eq!(trail.entries[0].event, "opening");
        assert_eq!(trail.entries.last().unwrap().event, "closed");
    }

    #[test]
    fn big_records_are_bounded_too() {
        let big = "x".repeat(LONGEST / 3);
        let mut text = Vec::new();
        for number in 0..20 {
            text.extend(line(Kind::Stuck, "0000000a", 0, json!({"n": number, "found": big})));
        }
        let trail = trail_in(Log::new(text.as_slice()), &id("0000000a")).unwrap();
        let gap = trail.left_out.unwrap();
        assert_eq!(trail.entries.len() as u64 + gap.entries, 20);
        assert!(serde_json::to_vec(&trail).unwrap().len() <= FIRST.bytes + LATEST.bytes + 4096);
        assert_eq!(trail.entries.last().unwrap().details["n"], 19);
    }

    #[test]
    fn a_session_that_ends_late_does_not_come_back_as_a_new_one() {
        let mut text = opening("0000000a", 7, "2026-01-01T00:00:00Z");
        for number in 1..=3 {
            let at = format!("2026-01-02T00:00:0{number}Z");
            text.extend(opening(&format!("0000000{number}"), 8, &at));
        }
        text.extend(line(Kind::Recovered, "0000000a", 7, Value::Null));
        text.extend(end(Kind::Closed, "0000000a", 7, "2026-01-01T00:00:00Z"));
        let ids = |last, of| -> Vec<String> {
            listed(&text, last, of).0.iter().map(|session| session.id.to_string()).collect()
        };
        assert_eq!(ids(2, None), ["00000002", "00000003"]);
        assert_eq!(ids(4, None), ["0000000a", "00000001", "00000002", "00000003"]);
        assert_eq!(ids(2, Some(7)), ["0000000a"]);
        assert!(ids(2, Some(9)).is_empty());
    }

    #[test]
    fn sessions_are_found_by_person_and_time_and_refusals_by_both() {
        let mut text = opening("0000000a", 7, "2026-01-01T00:00:00Z");
        text.extend(opening("0000000b", 8, "2026-01-02T00:00:00Z"));
        for uid in [7, 8, 7] {
            let entry = Entry::new(Kind::Refused, "shop.service", uid, &format!("user{uid}"), "no");
            text.extend(serde_json::to_vec(&entry).unwrap());
            text.push(b'\n');
        }
        let by = |user: &str| AuditFilter { user: Some(user.to_owned()), ..Default::default() };
        assert_eq!(filtered(&text, &by("user8"), None).0[0].id, id("0000000b"));
        let since = Some("2026-01-02".parse().unwrap());
        let late = AuditFilter { since, ..Default::default() };
        assert_eq!(filtered(&text, &late, None).0.len(), 1);
        let refusals = |filter: &AuditFilter, only_of| {
            let filter = AuditFilter { refused: true, ..filter.clone() };
            listed_in(vec![Log::new(text.as_slice())], &filter, only_of).unwrap().refusals.len()
        };
        assert_eq!(refusals(&by("user7"), None), 2);
        assert_eq!(refusals(&by("user7"), Some(8)), 0);
        assert_eq!(refusals(&AuditFilter { last: 1.try_into().unwrap(), ..by("user7") }, None), 1);
        assert_eq!(refusals(&AuditFilter::default(), None), 3);
    }

    #[test]
    fn what_was_rotated_away_is_listed_before_the_rest() {
        let rotated = opening("0000000a", 7, "2026-01-01T00:00:00Z");
        let log = opening("0000000b", 7, "2026-01-02T00:00:00Z");
        let logs = || vec![Log::new(rotated.as_slice()), Log::new(log.as_slice())];
        let ids = |last: u32| {
            let filter = AuditFilter { last: last.try_into().unwrap(), ..Default::default() };
            let list = listed_in(logs(), &filter, None).unwrap();
            list.sessions.iter().map(|session| session.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(ids(5), ["0000000a", "0000000b"]);
        assert_eq!(ids(1), ["0000000b"]);
    }

    #[test]
    fn what_rotation_has_left_of_a_session_is_listed() {
        let text = end(Kind::Stuck, "0000000a", 7, "2026-01-01T00:00:00Z");
        let (sessions, _) = listed(&text, 2, Some(7));
        assert_eq!(sessions[0].outcome, Outcome::Stuck);
        assert_eq!(sessions[0].opened_by, "user7");
    }

    #[test]
    fn broken_glass_shows_in_the_list() {
        let details = json!({"opened_at": "2026-01-01T00:00:00Z", "mode": "step"});
        let mut text = line(Kind::BreakGlass, "0000000a", 7, details);
        text.extend(opening("0000000a", 7, "2026-01-01T00:00:00Z"));
        text.extend(opening("0000000b", 7, "2026-01-01T00:00:00Z"));
        let (sessions, _) = listed(&text, 5, Some(7));
        let broken: Vec<bool> = sessions.iter().map(|session| session.break_glass).collect();
        assert_eq!(broken, [true, false]);
    }

    #[test]
    fn what_was_broken_needs_a_review_until_there_is_one() {
        let mut reviews = Reviews::default();
        let rotated = line(Kind::BreakGlass, "0000000a", 7, Value::Null);
        let mut text = line(Kind::BreakGlass, "0000000b", 7, Value::Null);
        text.extend(line(Kind::Reviewed, "0000000a", 8, Value::Null));
        text.extend(b"torn\n");
        reviews.read(Log::new(rotated.as_slice())).unwrap();
        reviews.read(Log::new(text.as_slice())).unwrap();
        let open = reviews.open();
        assert_eq!((open.open.len(), open.damaged_lines), (1, 1));
        assert_eq!(open.open[0].session, Some(id("0000000b")));
    }

    #[test]
    fn whoever_extends_a_session_does_not_own_it() {
        let extended = line(Kind::Extended, "0000000a", 9, json!({"opened_by_uid": 7}));
        let read = |text: &[u8]| trail_in(Log::new(text), &id("0000000a")).unwrap().entries;
        assert_eq!(owner(&read(&extended)), Some(7));
        assert_eq!(owner(&read(&line(Kind::Extended, "0000000a", 9, Value::Null))), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_every_line_counts(bytes: Vec<u8>) {
            let mut text = bytes.clone();
            text.push(b'\n');
            text.extend(opening("0000000a", 7, "2026-01-01T00:00:00Z"));
            let trail = trail_in(Log::new(text.as_slice()), &id("0000000a")).unwrap();
            prop_assert_eq!(trail.entries.len(), 1);
            let lines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
            prop_assert_eq!(trail.damaged_lines, lines - 1);
        }
    }
}
