//! What people do with godebug, on booted hosts: `cargo test -p godebug-tests --test scenarios`, as root.
//! Each scenario ends with `nothing_left`.

use godebug_tests::scenario;

mod answers;
mod apparmor;
mod attach;
mod audit;
mod authority;
mod bad_input;
mod boolean_faults;
mod boots;
mod chain;
mod clock;
mod consent;
mod core;
mod differential;
mod ends;
mod exec;
mod export;
mod far;
mod forecast;
mod gateway;
mod generations;
mod glass;
mod harness;
mod hooks;
mod hot;
mod ides;
mod kept;
mod kinds;
mod known;
mod login;
mod matrix;
mod museum;
mod observe;
mod on_vm;
mod outside;
mod pauses;
mod pods;
mod redaction;
mod rules;
mod secrets;
mod selinux;
mod sharing;
mod snapshot;
mod strangers;
mod support;
mod survival;
mod toolchain;
mod trimmed;

fn main() {
    scenario::main(
        &[
            harness::ALL,
            attach::ALL,
            kept::ALL,
            kinds::ALL,
            strangers::ALL,
            trimmed::ALL,
            ends::ALL,
            survival::ALL,
            snapshot::ALL,
            observe::ALL,
            exec::ALL,
            core::ALL,
            far::ALL,
            outside::ALL,
            bad_input::ALL,
            authority::ALL,
            rules::ALL,
            consent::ALL,
            glass::ALL,
            export::ALL,
            login::ALL,
            secrets::ALL,
            hooks::ALL,
            answers::ALL,
            forecast::ALL,
            audit::ALL,
            chain::ALL,
            gateway::ALL,
            pauses::ALL,
            pods::ALL,
            hot::ALL,
            differential::ALL,
            ides::ALL,
            &ides::with_nvim(),
            &matrix::all(),
            &known::all(),
            sharing::ALL,
            redaction::ALL,
            generations::ALL,
            toolchain::ALL,
        ]
        .concat(),
        &[apparmor::ALL, boots::ALL, clock::ALL, selinux::ALL].concat(),
    );
}
