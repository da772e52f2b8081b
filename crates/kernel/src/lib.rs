//! The only unsafe code: system calls and kernel interfaces that rustix does not have, each behind a safe function
//! that says what it does. What rustix has, callers take from rustix.
//!
//! * [`inherit`]: descriptors that a child program finds at fixed numbers.
//! * [`signals`]: signals as a descriptor to poll.

pub mod inherit;
pub mod signals;
