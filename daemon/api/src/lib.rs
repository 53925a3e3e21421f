//! godebug's contract: what passes between its programs, and the words for it.
//!
//! `godebugctl` and the gateway link this crate and nothing else of ours; the words come from
//! `godebug-core` and are re-exported here.

pub mod audit;
pub mod audit_files;
pub mod bus;
pub mod clock;
pub mod control;
pub mod documents;
pub mod handover;
pub mod image;
pub mod rules;
pub mod ticket;
pub mod toolchain;
pub mod transcript;

pub use godebug_core::{
    Absence, Approval, BooleanName, Cidr, CloseReason, Code, ContainerName, Copying, Deadline,
    Dump, Forecast, FreezeLimit, GuestName, HotLimit, ImageName, KeptImage, Login, Mode, Now, Part,
    PauseBudget, Pid, Port, ProcessState, Program, Reason, Refusal, SessionId, StartAt, State,
    TargetName, Ttl, UnitName, UserName, WordError, chain, delve, forecast, hot, pause, plan,
    redact, same_person,
};

/// The well-known bus name.
pub const BUS_NAME: &str = "org.godebug1";
/// The manager's object.
pub const MANAGER_PATH: &str = "/org/godebug1";
/// Sessions live at this path, followed by their ID.
pub const SESSION_PATH: &str = "/org/godebug1/session";
/// The first port that a gateway tries, and the last.
pub const PORTS: (u16, u16) = (2345, 2364);

/// The object path of a session. IDs have only characters that a path may have.
pub fn session_path(id: &SessionId) -> String {
    format!("{SESSION_PATH}/{id}")
}
