//! `sampan-runtime`, with runc's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    sampan_runtime::cli::main()
}
