//! The shim as a program, over Debian's runc and with containerd. Needs root and runc; without them each test says
//! so and passes.

#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute; these are their helpers
#![allow(clippy::print_stderr)] // and say why a test is skipped

mod containerd;
mod harness;
mod lifecycle;
mod streams;
