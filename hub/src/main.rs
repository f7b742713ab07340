//! `fieldpost`: the hub, and the tool to operate it. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fieldpost_hub::cli::main(std::env::args_os())
}
