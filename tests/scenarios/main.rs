//! What people do with godebug, on booted hosts: `cargo test -p godebug-tests --test scenarios`, as root.
//! Each scenario ends with `nothing_left`.

use godebug_tests::scenario;

mod attach;
mod harness;
mod support;

fn main() {
    scenario::main(&[harness::ALL, attach::ALL].concat());
}
