//! The process that is to be debugged: found, identified, read.

pub mod debuggers;
pub mod executable;
pub mod find;
pub mod inspect;
pub mod process;
