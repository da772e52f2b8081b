//! The program's own executable, sealed before anything else happens.
//!
//! A runtime must not be written to by its containers (CVE-2019-5736), so it executes itself anew from a read-only
//! copy of the mount that its executable is on. The preparations that the C library makes before `main` are then made
//! twice, and they are not cheap everywhere: they ask the processor dozens of questions (`cpuid`), each of which
//! traps where there is a hypervisor, which takes a third of a millisecond in all on some. So this happens before
//! them: the program's entry point is [`sampan_entry`], which goes on to the C library's when it need not, or can't,
//! execute anew. Whether the executable is sealed is looked at again later, by who depends on it.
//!
//! What runs here, runs before relocation: it may use neither addresses in data nor functions of the C library (not
//! even `memcpy`, which the compiler calls for moves and cleared variables of some size if it does not optimise), nor
//! thread-local variables. It makes system calls.

/// Where the program can be entered in place of the C library's `_start`; links with `-e sampan_entry`. Only for
/// programs that name it: elsewhere it is left out.
#[cfg(target_arch = "x86_64")]
#[doc(hidden)]
pub use entry::sampan_entry;

#[cfg(target_arch = "x86_64")]
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "one reason holds for a step and the look that follows it"
)]
mod entry {
    use core::arch::{asm, naked_asm};
    use core::mem::MaybeUninit;

    /// As the kernel has it at a program's start: the stack pointer is at the number of arguments; what is in `rdx` is
    /// for the C library.
    ///
    /// # Safety
    /// Only for the kernel to enter.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn sampan_entry() -> ! {
        naked_asm!(
            "mov rbx, rdx",
            "mov rdi, rsp",
            "call {seal}",
            "mov rdx, rbx",
            "jmp _start",
            seal = sym seal,
        )
    }

    /// Executes the program anew, if it is to become a process of a container. Returns if it need not or can't.
    unsafe extern "C" fn seal(stack: *const usize) {
        // SAFETY: the kernel has put there the number of arguments, pointers to them and null, pointers to the
        // variables of the environment and null, and the auxiliary vector. The strings are terminated. All of it
        // lives as long as the process.
        unsafe {
            let count = stack.read();
            let arguments = stack.add(1);
            let variables = arguments.add(count + 1);
            if makes_processes(arguments, count) && !is_second_run(variables) {
                execute(arguments, variables);
            }
        }
    }

    /// Whether the program was executed by descriptor: then it is not tried again, come what may. The kernel tells the
    /// name by which a program was executed, and for one without a name, `/dev/fd/N`.
    unsafe fn is_second_run(variables: *const usize) -> bool {
        let mut at = variables;
        // SAFETY: the variables end with null, and behind that the auxiliary vector is: pairs, until one of key 0.
        unsafe {
            while at.read() != 0 {
                at = at.add(1);
            }
            at = at.add(1);
            while at.read() != 0 {
                if at.read() == libc::AT_EXECFN as usize {
                    return starts_with(at.add(1).read(), b"/dev/fd/").is_some();
                }
                at = at.add(2);
            }
        }
        false
    }

    /// Whether one of the arguments is a command of the runtime's that makes processes, or the option by which the shim
    /// is told to serve, which then is the runtime, too. (An option's value may be one of these words as well; then the
    /// program is sealed for nothing.)
    unsafe fn makes_processes(arguments: *const usize, count: usize) -> bool {
        let mut at = 1;
        while at < count {
            // SAFETY: there are `count` pointers to terminated strings.
            let argument = unsafe { arguments.add(at).read() };
            // SAFETY: as above.
            let one = |word: &[u8]| unsafe { is(argument, word) };
            if one(b"run") || one(b"create") || one(b"exec") || one(b"restore") || one(b"-socket") {
                return true;
            }
            at += 1;
        }
        false
    }

    /// Whether the terminated string at an address is `word`.
    unsafe fn is(string: usize, word: &[u8]) -> bool {
        // SAFETY: what follows is in the string, or its end.
        unsafe { starts_with(string, word).is_some_and(|rest| rest.read() == 0) }
    }

    /// What follows `word` in the terminated string at an address, if that is how it begins.
    unsafe fn starts_with(string: usize, word: &[u8]) -> Option<*const u8> {
        let string = core::ptr::with_exposed_provenance::<u8>(string);
        let mut at = 0;
        while at < word.len() {
            // SAFETY: everything before was equal to a byte of `word`, none of which is NUL: the string goes on.
            if unsafe { string.add(at).read() } != word[at] {
                return None;
            }
            at += 1;
        }
        // SAFETY: as above.
        Some(unsafe { string.add(at) })
    }

    unsafe fn execute(arguments: *const usize, environment: *const usize) {
        const ST_RDONLY: i64 = 1;
        let own = c"/proc/self/exe".as_ptr().addr();
        let empty = c"".as_ptr().addr();
        let mut statfs = MaybeUninit::<linux_raw_sys::general::statfs64>::uninit();
        // SAFETY: the path is a terminated string; the structure is the kernel's.
        if unsafe { call(libc::SYS_statfs, [own, statfs.as_mut_ptr().addr(), 0, 0, 0]) } != 0 {
            return;
        }
        // SAFETY: the kernel has filled it.
        if unsafe { (&raw const (*statfs.as_ptr()).f_flags).read() } & ST_RDONLY != 0 {
            return;
        }
        let clone = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize;
        // SAFETY: the path is a terminated string.
        let tree = unsafe { call(libc::SYS_open_tree, [libc::AT_FDCWD as usize, own, clone, 0, 0]) };
        if tree < 0 {
            return;
        }
        let tree = tree as usize;
        let at_tree = libc::AT_EMPTY_PATH as usize;
        let readonly =
            libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
        let attributes = (&raw const readonly).addr();
        let size = size_of::<libc::mount_attr>();
        // SAFETY: the kernel reads `size` bytes of the structure, which lives through the call.
        let set = unsafe { call(libc::SYS_mount_setattr, [tree, empty, at_tree, attributes, size]) };
        if set == 0 {
            let (argv, envp) = (arguments.addr(), environment.addr());
            // SAFETY: both are arrays of pointers to terminated strings that end with null. Returns only on failure.
            unsafe { call(libc::SYS_execveat, [tree, empty, argv, envp, at_tree]) };
        }
        // SAFETY: the descriptor is ours and is not used again.
        unsafe { call(libc::SYS_close, [tree, 0, 0, 0, 0]) };
    }

    /// A system call. Returns what the kernel does: errors are negative.
    unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> isize {
        let result: isize;
        // SAFETY: the instruction changes only the registers that are named and what the call's pointers lead to.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number as isize => result,
                in("rdi") arguments[0],
                in("rsi") arguments[1],
                in("rdx") arguments[2],
                in("r10") arguments[3],
                in("r8") arguments[4],
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result
    }
}
