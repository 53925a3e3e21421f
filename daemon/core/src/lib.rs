//! godebug's decisions, free of effects: what a session is, which moves it may make, what it takes
//! from the host and in which order, and how its ledger is read.
//!
//! Nothing here touches a bus, a clock, a process or a file: everything arrives as a value, so all
//! of it can be tested with values. `godebug-api` re-exports the words for the other programs.

pub mod chain;
pub mod consent;
pub mod deadline;
pub mod delve;
mod dump;
pub mod error;
pub mod forecast;
pub mod grant;
pub mod hot;
pub mod ledger;
pub mod pause;
pub mod plan;
pub mod process_state;
pub mod program;
pub mod redact;
pub mod rules;
pub mod state;
pub mod supported;
mod target_name;
pub mod words;

pub use consent::{Approval, Login, same_person};
pub use deadline::{Deadline, Now};
pub use dump::{Dump, ImageName, KeptImage};
pub use error::{Code, Refusal};
pub use forecast::{Copying, Forecast, FreezeLimit};
pub use hot::HotLimit;
pub use pause::PauseBudget;
pub use process_state::ProcessState;
pub use program::Program;
pub use state::{CloseReason, Event, IllegalMove, State, next};
pub use target_name::{ContainerName, Part, TargetName, UserName};
pub use words::{
    Absence, BooleanName, Cidr, GuestName, InvocationId, Mode, Pid, Port, Reason, SessionId,
    StartAt, Ttl, UnitName, WordError,
};
