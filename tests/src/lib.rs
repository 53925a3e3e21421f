//! The test hosts: real Debian machines in containers, which boot in seconds, or with a kernel of their own
//! in QEMU, and what scenarios need to act on them, reach them from a laptop of their own, and prove that
//! nothing is left.
//!
//! `image` makes what a host starts from (`layer` caches it), `network` makes its wires, `host` boots it
//! (`vm` boots the virtual ones; `machine` is what both have in common),
//! `process` and `nothing_left` read back what it is like, `dap`, `jsonrpc` and `tls` are clients; `fault_points`
//! builds the product so that it can be broken at a named place.

mod command;
pub mod dap;
pub mod fault_points;
mod files;
pub mod host;
pub mod image;
pub mod jsonrpc;
mod layer;
pub mod machine;
pub mod network;
pub mod nothing_left;
pub mod process;
mod samples;
pub mod scenario;
pub mod ticket;
pub mod tls;
pub mod vm;
mod wire;

pub use command::{Output, Spawned};
pub use host::{Host, HostOptions};
pub use image::Suite;
pub use machine::Machine;
pub use network::Port;
pub use nothing_left::{Snapshot, nothing_left, nothing_left_but_targets_ended};
pub use vm::Vm;
pub use wire::Wire;
