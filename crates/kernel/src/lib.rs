//! The only unsafe code: system calls and kernel interfaces that rustix does not have, each behind a safe function
//! that says what it does. What rustix has, callers take from rustix.
//!
//! * [`beneath`]: paths inside a tree that someone else filled.
//! * [`signals`]: signals as a descriptor to poll.

pub mod beneath;
pub mod signals;
