//! What godebugd and godebug-revoke share: they act, core decides.

pub mod audit;
pub mod authority;
pub mod bus;
pub mod certificates;
mod child;
pub mod config;
pub mod doctor;
pub mod dumps;
pub mod engine;
#[cfg(feature = "fault-points")]
pub mod faults;
pub mod freeze;
pub mod hooks;
pub mod host;
pub mod kept;
pub mod launch;
pub mod ledger;
pub mod logging;
pub mod paths;
pub mod rescue;
pub mod sessions;
pub mod target;
pub mod toolchain;
pub mod transcripts;
pub mod watch;
