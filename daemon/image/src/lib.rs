//! What a guard needs to know of the process that takes images: what a thread of the target has to be
//! given back if that process dies while the thread is copying the target.

#[cfg(feature = "fault-points")]
pub mod points;
pub mod raw;
pub mod stash;

/// A step of taking an image has been taken: a place for a test build to be broken at, nothing else.
pub fn reached(step: &str) {
    #[cfg(feature = "fault-points")]
    points::reach(&format!("step.{step}"));
    let _ = step;
}
