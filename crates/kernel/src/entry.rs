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
    for number in 0..3 {
        // SAFETY: asks for a descriptor's flags; there is no memory behind it.
        let is_closed = unsafe { libc::fcntl(number, libc::F_GETFD) } < 0;
        // SAFETY: the path is a terminated string. The lowest free number is `number`, since those before are open.
        if is_closed && unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } != number {
            crate::process::exit_now(1);
        }
    }
    // SAFETY: to ignore a signal names no code. A reader that is gone is an error to report, not a reason to die.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // A panic must not unwind into C.
    let status = std::panic::catch_unwind(main).unwrap_or(101);
    crate::process::exit_now(i32::from(status))
}
