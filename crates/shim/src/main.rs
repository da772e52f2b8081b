//! `containerd-shim-sampan-v2`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    // A server starts this program so for itself.
    let done = if std::env::args().nth(1).as_deref() == Some("compress") {
        let path = std::path::PathBuf::from(words.nth(1).unwrap_or_default());
        sampan_shim::stdio::log::compress(&path)
            .map_err(|error| format!("cannot compress `{}`: {error}", path.display()))
    } else {
        match sampan_shim::args::parse(words) {
            Ok(arguments) => {
                sampan_shim::command::run(&arguments).map_err(|error| sampan_base::chain(&error))
            }
            Err(error) => Err(error.to_string()),
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            sampan_shim::note(&message);
            ExitCode::FAILURE
        }
    }
}
