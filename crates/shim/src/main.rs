//! `containerd-shim-sampan-v2`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match sampan_shim::args::parse(std::env::args().skip(1)) {
        Ok(arguments) => sampan_shim::command::run(&arguments).map_err(|error| sampan_base::chain(&error)),
        Err(error) => Err(error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            sampan_shim::note(&message);
            ExitCode::FAILURE
        }
    }
}
