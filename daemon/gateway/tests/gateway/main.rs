//! The gateway from outside: in-process with a fake dlv (`serving`, `controlling`), and as the
//! program that systemd starts (`program`).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod controlling;
mod program;
mod serving;
mod support;
