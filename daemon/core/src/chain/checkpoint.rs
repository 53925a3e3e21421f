//! Checkpoints: a chain's end at one moment, signed with Ed25519, to be kept where whoever can write
//! the log cannot. A log that was sealed anew from some line on is found out by the next of them.

use super::{Hash, Head, hex};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub(super) [u8; 32]);

hex::as_text!(PublicKey, 32, "Ed25519 public key");

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub(super) [u8; 64]);

hex::as_text!(Signature, 64, "Ed25519 signature");

impl Signature {
    /// That of nobody: what stands there before it is signed.
    pub const NONE: Self = Self([0; 64]);
}

/// One line of a file of checkpoints, or of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Which log: `audit`, or a session's ID.
    pub log: String,
    pub host: String,
    pub seq: u64,
    pub hash: Hash,
    pub wall_ms: u64,
    pub key: PublicKey,
    pub signature: Signature,
}

/// A checkpoint that was not made by whoever has its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint at record {seq} has a signature that is not its key's")]
pub struct BadCheckpoint {
    pub seq: u64,
}

/// The key cannot be made or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no Ed25519 key in PKCS #8")]
pub struct KeyError;

/// The key that checkpoints are signed with.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

impl SigningKey {
    /// A new key, as PKCS #8 to keep.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Vec<u8>, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError)?;
        Ok(pair.to_pkcs8().map_err(|_| KeyError)?.as_ref().to_vec())
    }

    /// A key that was kept.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_pkcs8(bytes).map(Self).map_err(|_| KeyError)
    }

    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = Signature([0; 64]);
        signature.0.copy_from_slice(self.0.sign(message).as_ref());
        signature
    }

    /// The checkpoint of a chain that ends here.
    pub fn checkpoint(&self, log: &str, host: &str, head: Head, wall_ms: u64) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            log: log.to_owned(),
            host: host.to_owned(),
            seq: head.seq,
            hash: head.hash,
            wall_ms,
            key: self.public(),
            signature: Signature([0; 64]),
        };
        checkpoint.signature = self.sign(&checkpoint.message());
        checkpoint
    }
}

impl Checkpoint {
    /// What is signed. Names are quoted, so that none of them can be read as another field.
    fn message(&self) -> Vec<u8> {
        let Self { log, host, seq, hash, wall_ms, .. } = self;
        format!("godebug checkpoint 1\n{log:?}\n{host:?}\n{seq}\n{hash}\n{wall_ms}\n").into_bytes()
    }

    /// Whether whoever has the key made it.
    ///
    /// # Errors
    /// When not.
    pub fn check(&self) -> Result<(), BadCheckpoint> {
        UnparsedPublicKey::new(&ED25519, self.key.0)
            .verify(&self.message(), &self.signature.0)
            .map_err(|_| BadCheckpoint { seq: self.seq })
    }
}
