//! What a host says of some sessions, signed, to be read elsewhere: the lines of its audit log and of their
//! transcripts as they stand there, and checkpoints of the log.
//!
//! A line tells by itself whether it is as it was written, and the signature that the host has handed
//! out these and no others. That the log itself was not sealed anew before, only a checkpoint that was
//! kept elsewhere can tell.

use super::{
    BadCheckpoint, Checkpoint, Fault, Hash, Head, PublicKey, Read, Signature, SigningKey, read,
    verify,
};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The version of the format that is written and read.
pub const VERSION: u32 = 1;

/// What was handed out. Its text forms are made from it, and hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    pub godebug_export: u32,
    pub host: String,
    /// RFC 3339 in UTC.
    pub exported_at: String,
    pub exported_by: String,
    pub exported_by_uid: u32,
    /// Where the log ended then.
    pub log_end: Option<Head>,
    pub sessions: Vec<BundledSession>,
    pub checkpoints: Vec<Checkpoint>,
    pub key: PublicKey,
    pub signature: Signature,
}

/// One session's lines, whole and unchanged, without their line breaks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledSession {
    pub id: String,
    pub records: Vec<String>,
    /// Empty where none was kept.
    pub transcript: Vec<String>,
}

/// Why a bundle is not what a host has handed out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBundle {
    #[error("it is of version {0} of the format, and this program reads version {VERSION}")]
    Version(u32),
    #[error(
        "its signature is not that of its key: something in it was changed, added or taken out"
    )]
    Signature,
    #[error("session {session}, record {number}: its bytes were changed")]
    Record { session: String, number: usize },
    #[error("session {session}, record {number}: it does not follow the one before it")]
    Order { session: String, number: usize },
    #[error("session {session}, the transcript: {fault}")]
    Transcript { session: String, fault: Fault },
    #[error("{0}")]
    Checkpoint(#[from] BadCheckpoint),
    #[error("record {seq} is not what a checkpoint says that it was: the log was sealed anew")]
    Resealed { seq: u64 },
}

impl Bundle {
    /// Signs it, whatever signature and key it had.
    #[must_use]
    pub fn signed(mut self, key: &SigningKey) -> Self {
        self.key = key.public();
        self.signature = key.sign(&self.message());
        self
    }

    /// What is signed. Names are quoted and lines hashed, so that nothing can be read as another part.
    fn message(&self) -> Vec<u8> {
        let Self { host, exported_at, exported_by, exported_by_uid, .. } = self;
        let version = self.godebug_export;
        let mut text = format!(
            "godebug export {version}\n{host:?}\n{exported_at:?}\n{exported_by:?}\n{exported_by_uid}\n"
        );
        // Writing to a String cannot fail.
        if let Some(head) = self.log_end {
            let _ = writeln!(text, "end {} {}", head.seq, head.hash);
        }
        for session in &self.sessions {
            let _ = writeln!(text, "session {:?}", session.id);
            for record in &session.records {
                let _ = writeln!(text, "record {}", Hash::of(record.as_bytes()));
            }
            for line in &session.transcript {
                let _ = writeln!(text, "transcript {}", Hash::of(line.as_bytes()));
            }
        }
        for checkpoint in &self.checkpoints {
            let _ = writeln!(text, "checkpoint {}", checkpoint.signature);
        }
        text.into_bytes()
    }

    /// Whether whoever has its key has handed it out, and every line in it is as it was written.
    /// `known` are checkpoints from elsewhere, whose signatures were looked at.
    ///
    /// # Errors
    /// The first thing that is not so.
    pub fn check(&self, known: &[Checkpoint]) -> Result<(), BadBundle> {
        if self.godebug_export != VERSION {
            return Err(BadBundle::Version(self.godebug_export));
        }
        UnparsedPublicKey::new(&ED25519, self.key.0)
            .verify(&self.message(), &self.signature.0)
            .map_err(|_| BadBundle::Signature)?;
        for session in &self.sessions {
            session.check()?;
        }
        for checkpoint in &self.checkpoints {
            checkpoint.check()?;
        }
        for checkpoint in self.checkpoints.iter().chain(known) {
            self.is_as_at(checkpoint)?;
        }
        Ok(())
    }

    fn is_as_at(&self, checkpoint: &Checkpoint) -> Result<(), BadBundle> {
        let records = self.sessions.iter().flat_map(|session| &session.records);
        let heads = records.filter_map(|record| Head::of(record.as_bytes())).chain(self.log_end);
        let mut same = heads.filter(|head| head.seq == checkpoint.seq);
        match same.find(|head| head.hash != checkpoint.hash) {
            Some(head) => Err(BadBundle::Resealed { seq: head.seq }),
            None => Ok(()),
        }
    }
}

impl BundledSession {
    fn check(&self) -> Result<(), BadBundle> {
        let session = || self.id.clone();
        let mut last: Option<Head> = None;
        for (index, record) in self.records.iter().enumerate() {
            let number = index + 1;
            let Read::Whole(link) = read(record.as_bytes()) else {
                return Err(BadBundle::Record { session: session(), number });
            };
            let follows = last.is_none_or(|last| {
                link.seq > last.seq && (link.seq != last.seq + 1 || link.prev == last.hash)
            });
            if !follows {
                return Err(BadBundle::Order { session: session(), number });
            }
            last = Some(link.head());
        }
        verify(self.transcript.iter().map(String::as_bytes), &[], None)
            .map(drop)
            .map_err(|fault| BadBundle::Transcript { session: session(), fault })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Circumstances, Stamp};
    use crate::deadline::Now;

    fn lines(count: u64) -> Vec<String> {
        let now = Now { wall_ms: 7, boot_ms: 7 };
        let stamp = Stamp { host: "h".to_owned(), boot: "b".to_owned(), now };
        let mut head = Head::START;
        (0..count)
            .map(|number| {
                let document = format!("{{\"number\":{number}}}");
                let sealed = head.seal(document.as_bytes(), &stamp, Circumstances::default());
                let (line, next) = sealed.unwrap();
                head = next;
                String::from_utf8(line).unwrap()
            })
            .collect()
    }

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()
    }

    fn bundle(key: &SigningKey) -> Bundle {
        let all = lines(6);
        let records = vec![all[0].clone(), all[1].clone(), all[4].clone()];
        let head = Head::of(all[4].as_bytes()).unwrap();
        Bundle {
            godebug_export: VERSION,
            host: "web1".to_owned(),
            exported_at: "2026-01-01T00:00:00Z".to_owned(),
            exported_by: "lea".to_owned(),
            exported_by_uid: 7,
            log_end: Head::of(all[5].as_bytes()),
            sessions: vec![BundledSession {
                id: "0000000a".to_owned(),
                records,
                transcript: lines(3),
            }],
            checkpoints: vec![key.checkpoint("audit", "web1", head, 7)],
            key: key.public(),
            signature: Signature([0; 64]),
        }
        .signed(key)
    }

    #[test]
    fn what_was_handed_out_is_told_from_what_was_changed() {
        let key = key();
        let good = bundle(&key);
        good.check(&[]).unwrap();
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Bundle>(&text).unwrap(), good);
        let changes: [fn(&mut Bundle); 9] = [
            |it| it.host.push('x'),
            |it| it.exported_by_uid = 0,
            |it| it.log_end = None,
            |it| drop(it.sessions[0].records.pop()),
            |it| drop(it.sessions[0].transcript.pop()),
            |it| it.sessions[0].records[1] = it.sessions[0].records[1].replace(":1,", ":2,"),
            |it| it.sessions[0].records.swap(0, 1),
            |it| it.sessions.clear(),
            |it| it.checkpoints.clear(),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut changed = good.clone();
            change(&mut changed);
            assert_eq!(changed.check(&[]), Err(BadBundle::Signature), "change {number}");
        }
    }

    #[test]
    fn a_signature_does_not_make_false_lines_true() {
        let key = key();
        let signed = |change: fn(&mut Bundle)| {
            let mut bundle = bundle(&key);
            change(&mut bundle);
            bundle.signed(&key).check(&[])
        };
        let session = || "0000000a".to_owned();
        let altered = signed(|it| {
            it.sessions[0].records[1] = it.sessions[0].records[1].replace("number", "nummer")
        });
        assert_eq!(altered, Err(BadBundle::Record { session: session(), number: 2 }));
        let swapped = signed(|it| it.sessions[0].records.swap(0, 1));
        assert_eq!(swapped, Err(BadBundle::Order { session: session(), number: 2 }));
        let cut = signed(|it| drop(it.sessions[0].transcript.remove(1)));
        assert!(matches!(cut, Err(BadBundle::Transcript { .. })), "{cut:?}");
    }

    #[test]
    fn a_checkpoint_from_elsewhere_finds_a_log_that_was_sealed_anew() {
        let (key, other) = (key(), key());
        let bundle = bundle(&key);
        let elsewhere = |hash| other.checkpoint("audit", "web1", Head { seq: 5, hash }, 9);
        let now = Head::of(bundle.sessions[0].records[2].as_bytes()).unwrap();
        bundle.check(&[elsewhere(now.hash)]).unwrap();
        let found = bundle.check(&[elsewhere(Hash::of(b"what it was"))]);
        assert_eq!(found, Err(BadBundle::Resealed { seq: 5 }));
    }
}
