//! The gateway: the one process of a session that the network can reach.
//!
//! Outside is TLS 1.3 with a certificate of this session's CA on both ends, inside is dlv's Unix
//! socket. It has no capability, no file but its socket folder, and one session's key. All of it
//! is a library so that tests run it in-process; `main.rs` only reads the configuration and starts.
//!
//! A connection's way through the modules: `accept` (source, bounds) → `connection` (handshake,
//! which of the `guests` it is, first byte) → `release` (dial; lets the target go when the last client has gone) → `relay` (bytes)
//! → `screen` (messages of each `protocol`, held to the mode's `policy`, which reads every
//! `expression`, and what is `shown` without what `godebug_api::redact` hides) → `transcript`. `keeper` lets the target
//! go when it has stood too long, `cooler` turns off a breakpoint that is hit too often (`stops` counts);
//! they speak to the `clients`, each of whom has a `line`. `dlv` is the gateway's own questions. `control` is how root and dlv's attendant
//! steer it, `gateway` holds what they all share and the deadline.

mod accept;
mod clients;
pub mod configuration;
mod connection;
mod control;
mod cooler;
mod dlv;
mod events;
pub mod expression;
mod gateway;
mod guests;
#[cfg(test)]
mod hostile;
mod images;
mod keeper;
mod limits;
mod line;
mod listen;
#[cfg(test)]
mod measure;
pub mod notify;
mod policy;
mod protocol;
mod refusals;
mod relay;
mod release;
mod screen;
mod shown;
mod stops;
mod subject;
mod target;
mod tls;
mod traffic;
mod transcript;

pub use gateway::{End, Gateway, OpenError};
pub use limits::Limits;
