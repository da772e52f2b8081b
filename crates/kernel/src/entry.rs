//! A program's entry without the preparations of Rust's own.
//!
//! Before `main`, Rust's standard library reads `/proc/self/maps` to find its stack's guard page, installs two signal
//! handlers on a stack of their own, and more: a dozen and a half system calls, which a program that lives for half
//! a millisecond notices. What remains of that here is what safety needs. Overflowing the stack ends the process
//! by SIGSEGV all the same, only without a message.

/// Makes a function the program's `main`: `fn() -> u8`, which returns the exit status. The crate needs
/// `#![no_main]`. Nothing buffered is flushed after it.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        // The C library calls the symbol of this name when it has set itself up.
        #[unsafe(no_mangle)]
        extern "C" fn main(_: core::ffi::c_int, _: *const *const core::ffi::c_char) -> core::ffi::c_int {
            $crate::entry::run($main)
        }
    };
}

/// Runs a program's main function. For [`entry!`](crate::entry!) only.
#[doc(hidden)]
pub fn run(main: fn() -> u8) -> ! {
    // What Rust does at this place: a file that is opened must never get the number of standard error. A closed
    // one is filled with `/dev/null`.
    let mut streams = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the kernel reads and writes three structures, which live through the call. It fails only if memory is
    // short, and then `revents` stays 0.
    unsafe { libc::poll(streams.as_mut_ptr(), 3, 0) };
    for stream in streams.iter().filter(|stream| stream.revents & libc::POLLNVAL != 0) {
        // SAFETY: the path is a terminated string. The lowest free number is taken, which is the one looked at, since
        // those before are open.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } != stream.fd {
            crate::process::exit_now(1);
        }
    }
    crate::signals::ignore_broken_pipes();
    // A panic must not unwind into C.
    let status = std::panic::catch_unwind(main).unwrap_or(101);
    crate::process::exit_now(i32::from(status))
}
