//! `fieldpost-agent`: reads the command line, and turns errors into exit codes.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use fieldpost_agent::cli::{Asked, Exit, Failure, device_key};
use fieldpost_agent::config::Config;
use fieldpost_agent::event_loop::{self, EventLoop};
use fieldpost_agent::io::logger;
use fieldpost_agent::io::storage;

fn main() -> ExitCode {
    let asked = Asked::parse(std::env::args_os().skip(1));
    match asked.and_then(|asked| asked.perform(run)) {
        Ok(()) => Exit::Ok.into(),
        Err(Failure { exit, message }) => {
            if !message.is_empty() {
                eprintln!("fieldpost-agent: {message}");
            }
            exit.into()
        }
    }
}

fn run(file: PathBuf) -> Result<(), Failure> {
    logger::start();
    fieldpost_sockets::check_library().map_err(|bad| Failure::new(Exit::Internal, bad))?;
    let config = Config::load(&file)?;
    let keys = device_key(&config)?;
    let event_loop =
        EventLoop::new(file, config, keys).map_err(|failure| start_failure(&failure))?;
    event_loop.run().map_err(|failure| Failure::new(Exit::Internal, failure))
}

fn start_failure(failure: &event_loop::Failure) -> Failure {
    let exit = match failure {
        // Not for ever: an agent that was killed may hold them until its last fsync returns.
        event_loop::Failure::Storage(storage::Failure::Taken { .. }) => Exit::Unavailable,
        event_loop::Failure::Storage(storage::Failure::Directory(_, error)) => match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::NotFound | ErrorKind::NotADirectory => {
                Exit::Configuration
            }
            _ => Exit::Internal,
        },
        event_loop::Failure::Sockets(_) | event_loop::Failure::System(..) => Exit::Internal,
    };
    Failure::new(exit, failure)
}
