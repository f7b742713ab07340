//! How a command ends: one sentence, a hint, and an exit code that programs can rely on.

use std::fmt;
use std::process::ExitCode;

use fieldpost_settings::Problem;

/// The exit codes, after sysexits.h where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The work failed: a job was not ok, a run is not known.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 64,
    /// No hub answers; or one that starts finds its address taken or its disk full. Later it may work.
    Unavailable = 69,
    /// A bug, or a machine in trouble.
    Internal = 70,
    /// It took longer than allowed.
    TimedOut = 75,
    /// The hub does not allow it.
    NotAllowed = 77,
    /// The configuration is wrong.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ends without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure with one sentence.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// A failure of which everything was said already.
    #[must_use]
    pub fn said(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// What may help.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        self.hint = if hint.is_empty() { None } else { Some(hint) };
        self
    }

    /// The exit code it asks for.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.message.is_empty()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::new(Exit::Configuration, problem.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::said(Exit::Ok);
        }
        Self::new(Exit::Internal, format!("can't write: {error}"))
    }
}
