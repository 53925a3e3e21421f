//! The process that is to be debugged: found, identified, read.

mod containers;
pub mod debuggers;
pub mod executable;
pub mod find;
pub mod inspect;
mod namespace;
pub mod place;
pub mod process;
