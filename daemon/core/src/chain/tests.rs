//! Every kind of tampering, on logs of all lengths.

use super::*;
use proptest::prelude::*;

fn stamp(wall_ms: u64, boot_ms: u64) -> Stamp {
    let (host, boot) = ("web1".to_owned(), "0".repeat(32));
    Stamp { host, boot, now: Now { wall_ms, boot_ms } }
}

/// A writer, as it keeps its log.
#[derive(Clone)]
struct Log {
    lines: Vec<Vec<u8>>,
    head: Head,
    time: u64,
}

impl Log {
    fn of(count: u64) -> Self {
        let mut log = Self { lines: Vec::new(), head: Head::START, time: 1_000_000 };
        for number in 0..count {
            log.write(&format!(r#"{{"event":"refused","number":{number}}}"#));
        }
        log
    }

    fn write(&mut self, document: &str) {
        self.write_so(document, Circumstances::default());
    }

    fn write_so(&mut self, document: &str, circumstances: Circumstances) {
        self.time += 1000;
        let stamp = stamp(self.time, self.time);
        let (line, head) = self.head.seal(document.as_bytes(), &stamp, circumstances).unwrap();
        self.lines.push(line);
        self.head = head;
    }

    /// Every hash made anew from this line on, as somebody does who has all but the key.
    fn reseal_from(&mut self, index: usize) {
        self.head =
            index.checked_sub(1).map_or(Head::START, |at| Head::of(&self.lines[at]).unwrap());
        for line in self.lines.split_off(index) {
            let text = String::from_utf8(line).unwrap();
            let (document, _) = text.split_once(",\"chain\":").unwrap();
            self.write(&format!("{document}}}"));
        }
    }

    fn verified(&self, checkpoints: &[Checkpoint]) -> Result<Checked, Fault> {
        verify(self.lines.iter().map(Vec::as_slice), checkpoints, Some(self.head))
    }

    fn fault(&self) -> (u64, Kind) {
        let fault = self.verified(&[]).unwrap_err();
        (fault.line, fault.kind)
    }
}

fn key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()
}

#[test]
fn a_log_as_it_was_written_holds() {
    let log = Log::of(20);
    let checked = log.verified(&[]).unwrap();
    assert_eq!((checked.lines, checked.last, checked.warnings), (20, Some(log.head), vec![]));
    for line in &log.lines {
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(value["event"], "refused");
        assert_eq!(value["chain"]["host"], "web1");
    }
    assert_eq!(Head::of(&log.lines[19]), Some(log.head));
    assert_eq!(Log::of(0).verified(&[]).unwrap().lines, 0);
}

#[test]
fn a_document_is_one_object_and_may_be_empty_or_speak_of_chains() {
    let mut log = Log::of(1);
    log.write("{}");
    log.write(r#"{"chain":{"seq":1},"text":"\"chain\":{\"seq\":7,\"hash\":\"aa\"}}"}"#);
    log.verified(&[]).unwrap();
    for bad in ["", "[]", "null", "{", "{\n}"] {
        let sealed = log.head.seal(bad.as_bytes(), &stamp(0, 0), Circumstances::default());
        assert_eq!(sealed.unwrap_err(), NotALine, "{bad:?}");
    }
}

#[test]
fn a_flipped_bit_is_found_in_whichever_line_and_byte() {
    let log = Log::of(5);
    for line in 0..log.lines.len() {
        for byte in 0..log.lines[line].len() {
            let mut other = log.clone();
            other.lines[line][byte] ^= 1;
            let (at, kind) = other.fault();
            assert_eq!((at, kind), (line as u64 + 1, Kind::Altered), "byte {byte}");
        }
    }
}

#[test]
fn a_removed_line_is_found_wherever_it_stood() {
    let log = Log::of(6);
    for line in 1..5 {
        let mut other = log.clone();
        other.lines.remove(line);
        assert_eq!(other.fault(), (line as u64 + 1, Kind::Removed { missing: 1 }));
    }
    let mut other = log.clone();
    other.lines.drain(1..4);
    assert_eq!(other.fault(), (2, Kind::Removed { missing: 3 }));
    let mut other = log;
    other.lines.remove(0);
    assert_eq!(other.fault(), (1, Kind::Beheaded));
}

#[test]
fn an_added_line_is_found_be_it_a_document_a_copy_or_sealed() {
    let log = Log::of(6);
    let plain = br#"{"event":"closed"}"#.to_vec();
    let copy_of_a_later_one = log.lines[4].clone();
    for (added, kind) in [(plain, Kind::Added), (copy_of_a_later_one, Kind::Swapped)] {
        let mut other = log.clone();
        other.lines.insert(2, added);
        assert_eq!(other.fault(), (3, kind));
    }
    for copied in [0, 1, 2] {
        let mut other = log.clone();
        other.lines.insert(3, log.lines[copied].clone());
        assert_eq!(other.fault(), (4, Kind::Added), "{copied}");
    }
    let mut other = log.clone();
    other.lines.push(br#"{"event":"closed"}"#.to_vec());
    assert_eq!(other.fault(), (7, Kind::Added));
    // Sealed after the same line as the one that is there.
    let head = Head::of(&log.lines[2]).unwrap();
    let (sealed, _) = head.seal(b"{}", &stamp(0, 0), Circumstances::default()).unwrap();
    let mut other = log;
    other.lines.insert(3, sealed);
    assert_eq!(other.fault(), (5, Kind::TwoWriters));
}

#[test]
fn swapped_lines_are_found() {
    for line in 1..4 {
        let mut log = Log::of(6);
        log.lines.swap(line, line + 1);
        assert_eq!(log.fault(), (line as u64 + 1, Kind::Swapped));
    }
}

#[test]
fn a_line_that_was_replaced_and_sealed_is_found_by_the_next() {
    let mut log = Log::of(6);
    let mut other = Log { lines: log.lines[..3].to_vec(), ..log.clone() };
    other.lines.pop();
    other.head = Head::of(&other.lines[1]).unwrap();
    other.write(r#"{"event":"nothing happened"}"#);
    log.lines[2] = other.lines[2].clone();
    assert_eq!(log.fault(), (3, Kind::Rewritten));
}

#[test]
fn a_cut_tail_is_found_by_what_the_writer_remembers_or_by_a_checkpoint() {
    let log = Log::of(6);
    let checkpoint = key().checkpoint("audit", "web1", log.head, 0);
    let mut other = log.clone();
    other.lines.truncate(4);
    assert_eq!(other.fault(), (4, Kind::TailCut { missing: 2 }));
    let lines = || other.lines.iter().map(Vec::as_slice);
    let fault = verify(lines(), std::slice::from_ref(&checkpoint), None).unwrap_err();
    assert_eq!(fault, Fault { line: 4, kind: Kind::TailCut { missing: 2 } });
    verify(lines(), &[], None).unwrap();
    other.lines.clear();
    assert_eq!(other.fault(), (0, Kind::TailCut { missing: 6 }));
}

#[test]
fn a_log_that_was_sealed_anew_is_found_by_a_checkpoint_alone() {
    let log = Log::of(10);
    let checkpoint = key().checkpoint("audit", "web1", Head::of(&log.lines[7]).unwrap(), 0);
    let mut other = log.clone();
    let text = String::from_utf8(other.lines[2].clone()).unwrap().replace("refused", "allowed");
    other.lines[2] = text.into_bytes();
    other.reseal_from(2);
    other.verified(&[]).unwrap();
    let fault = other.verified(std::slice::from_ref(&checkpoint)).unwrap_err();
    assert_eq!(fault, Fault { line: 8, kind: Kind::Resealed { seq: 8 } });
    assert_eq!(log.verified(&[checkpoint]).unwrap().checkpoints, 1);
    // And by the writer, where only the end was.
    let fault = verify(other.lines.iter().map(Vec::as_slice), &[], Some(log.head)).unwrap_err();
    assert_eq!(fault.kind, Kind::Resealed { seq: 10 });
}

#[test]
fn two_writers_are_found_unless_one_of_them_told() {
    let (mut log, mut beside) = (Log::of(3), Log::of(3));
    log.write(r#"{"by":"one"}"#);
    beside.write_so(r#"{"by":"two"}"#, Circumstances { unlocked: true, ..Default::default() });
    let mut unlocked = log.clone();
    unlocked.lines.insert(3, beside.lines[3].clone());
    unlocked.write("{}");
    let checked = unlocked.verified(&[]).unwrap();
    assert_eq!(checked.warnings, [Warning::Unlocked { line: 4 }]);
    let mut beside = Log::of(3);
    beside.write(r#"{"by":"two"}"#);
    log.lines.push(beside.lines[3].clone());
    assert_eq!(log.fault(), (5, Kind::TwoWriters));
}

#[test]
fn a_clock_that_was_stepped_back_is_told_and_slow_corrections_are_not() {
    let write = |log: &mut Log, wall_ms, boot_ms| {
        let (line, head) =
            log.head.seal(b"{}", &stamp(wall_ms, boot_ms), Circumstances::default()).unwrap();
        log.lines.push(line);
        log.head = head;
    };
    let mut log = Log::of(0);
    write(&mut log, 5_000_000, 1_000);
    write(&mut log, 8_598_500, 3_601_000); // an hour later, and slewed by 1.5 s
    assert_eq!(log.verified(&[]).unwrap().warnings, []);
    // Later than before, but not by as much as has passed.
    write(&mut log, 8_600_000, 3_701_000);
    let warnings = log.verified(&[]).unwrap().warnings;
    assert_eq!(warnings, [Warning::ClockSteppedBack { line: 3, by_ms: 98_500 }]);
}

#[test]
fn a_torn_line_is_told_and_its_removal_is_found() {
    let mut log = Log::of(3);
    let torn = log.lines[1][..40].to_vec();
    let gap = {
        let mut tail = Tail::default();
        log.lines.iter().for_each(|line| tail.line(line));
        tail.line(&torn);
        tail.end()
    };
    assert_eq!(gap.0, Some(log.head));
    log.lines.push(torn);
    log.write_so("{}", Circumstances { gap: gap.1, ..Default::default() });
    log.write("{}");
    let checked = log.verified(&[]).unwrap();
    assert_eq!(checked.warnings, [Warning::Torn { line: 4 }]);
    let mut other = log.clone();
    other.lines.remove(3);
    assert_eq!(other.fault(), (4, Kind::Removed { missing: 0 }));
    log.lines[3][0] ^= 1;
    assert_eq!(log.fault(), (4, Kind::Added));
}

#[test]
fn a_log_from_before_the_chain_is_held_to_what_it_was_when_the_chain_began() {
    let old: Vec<Vec<u8>> =
        (0..3).map(|number| format!(r#"{{"old":{number}}}"#).into_bytes()).collect();
    let mut tail = Tail::default();
    old.iter().for_each(|line| tail.line(line));
    let (None, gap @ Some(_)) = tail.end() else { panic!("no gap") };
    let mut log = Log::of(0);
    log.write_so("{}", Circumstances { gap, ..Default::default() });
    log.write("{}");
    log.lines.splice(0..0, old);
    let checked = log.verified(&[]).unwrap();
    assert_eq!((checked.before_the_chain, checked.lines), (3, 2));
    let mut other = log.clone();
    other.lines[1][3] ^= 1;
    assert_eq!(other.fault(), (1, Kind::BeforeTheChain));
    let mut other = log.clone();
    other.lines.drain(..3);
    assert_eq!(other.fault(), (1, Kind::BeforeTheChain));
}

#[test]
fn a_file_begun_after_another_is_verified_with_it_or_without_it() {
    let mut log = Log::of(3);
    log.write_so("{}", Circumstances { continues: true, ..Default::default() });
    log.write("{}");
    let (first, second) = log.lines.split_at(3);
    let mut verifier = Verifier::default();
    first.iter().try_for_each(|line| verifier.line(line)).unwrap();
    verifier.next_file().unwrap();
    second.iter().try_for_each(|line| verifier.line(line)).unwrap();
    assert_eq!(verifier.end(Some(log.head)).unwrap().lines, 5);
    let checked = verify(second.iter().map(Vec::as_slice), &[], Some(log.head)).unwrap();
    assert_eq!(checked.warnings, [Warning::BeginsLater { seq: 4 }]);
    // With a file between them missing, a number is.
    let mut verifier = Verifier::default();
    first[..2].iter().try_for_each(|line| verifier.line(line)).unwrap();
    verifier.next_file().unwrap();
    verifier.line(&second[0]).unwrap();
    let fault = verifier.end(None).unwrap_err();
    assert_eq!(fault, Fault { line: 1, kind: Kind::Removed { missing: 1 } });
}

#[test]
fn a_checkpoint_is_signed_whole() {
    let checkpoint = key().checkpoint("audit", "web1", Log::of(3).head, 77);
    let text = serde_json::to_string(&checkpoint).unwrap();
    let back: Checkpoint = serde_json::from_str(&text).unwrap();
    back.check().unwrap();
    let changes: [fn(&mut Checkpoint); 6] = [
        |it| it.log.push('x'),
        |it| it.host = "web2".to_owned(),
        |it| it.seq += 1,
        |it| it.hash = Hash::of(b"another"),
        |it| it.wall_ms -= 1,
        |it| it.key = key().public(),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut other = back.clone();
        change(&mut other);
        assert_eq!(other.check(), Err(BadCheckpoint { seq: other.seq }), "{number}");
    }
    assert!(SigningKey::from_pkcs8(b"no key").is_err());
}

proptest! {
    #[test]
    fn hostile_lines_never_panic(lines: Vec<Vec<u8>>, tail in "[{}\",:a-f0-9chainseqprevhash]{0,300}") {
        let mut verifier = Verifier::default();
        for line in lines.iter().map(Vec::as_slice).chain([tail.as_bytes()]) {
            if verifier.line(line).is_err() {
                break;
            }
        }
    }

    #[test]
    fn whatever_is_done_to_a_log_is_found(
        length in 2u64..12, from: prop::sample::Index, to: prop::sample::Index, what in 0u8..4,
    ) {
        let log = Log::of(length);
        let mut other = log.clone();
        let (from, to) = (from.index(log.lines.len()), to.index(log.lines.len()));
        match what {
            0 => drop(other.lines.remove(from)),
            1 => other.lines.swap(from, to),
            2 => {
                let line = other.lines.remove(from);
                other.lines.insert(to, line);
            }
            _ => other.lines.insert(to, log.lines[from].clone()),
        }
        prop_assert_eq!(other.verified(&[]).is_ok(), other.lines == log.lines);
    }
}
