//! What a guard needs to know of the process that takes images: what a thread of the target has to be
//! given back if that process dies while the thread is copying the target.

pub mod raw;
pub mod stash;
