//! `sampan-runtime`, with runc's command line.
#![no_main]

sampan_kernel::entry!(sampan_runtime::main);
