//! Built-in runs: a piece at a time, so that the core can say when it has no room.

use super::world::{Text, text};
use crate::io::system::{self, Json};
use crate::io::tail::{Cursor, Reading};
use crate::limits::READ;

/// A built-in run in progress.
#[derive(Debug, Default)]
pub(super) enum Builtin {
    /// There is none in this slot.
    #[default]
    None,
    /// The machine is to be described.
    System,
    /// A file is being read.
    File {
        /// How far.
        reading: Reading,
        /// The core has no room.
        paused: bool,
    },
    /// It has ended, with this note.
    Ended(Text),
}

/// A piece of a built-in run.
#[derive(Debug)]
pub(super) enum Piece {
    /// Nothing for now: it waits for room.
    Nothing,
    /// The first so many bytes of the buffer are output.
    Output(usize),
    /// The JSON is output.
    Json,
    /// It has ended, with this note; and the file was read up to here.
    Ended(Text, Option<Cursor>),
    /// It could not do its work.
    Failed(Text),
}

impl Builtin {
    pub(super) fn file(reading: Reading) -> Self {
        Self::File { reading, paused: false }
    }

    /// The core has no room, or has room again. Says whether the run can go on now.
    pub(super) fn pause(&mut self, pause: bool) -> bool {
        match self {
            Self::File { paused, .. } => {
                *paused = pause;
                !pause
            }
            Self::None | Self::System | Self::Ended(_) => false,
        }
    }

    /// Ends it: its time is over, or nobody wants it any more.
    pub(super) fn stop(&mut self) {
        match self {
            Self::File { .. } | Self::System => *self = Self::Ended(Text::new()),
            Self::None | Self::Ended(_) => {}
        }
    }

    /// Does the next piece.
    pub(super) fn step(&mut self, buffer: &mut [u8; READ], json: &mut Json) -> Piece {
        match self {
            Self::None => Piece::Nothing,
            Self::System => {
                system::describe(json);
                *self = Self::Ended(Text::new());
                Piece::Json
            }
            Self::File { paused: true, .. } => Piece::Nothing,
            Self::File { reading, paused: false } => match reading.next(buffer) {
                Ok(Some(lines)) => Piece::Output(lines),
                Ok(None) => {
                    let note = text(format_args!("{}", reading.note()));
                    let cursor = reading.cursor();
                    *self = Self::None;
                    Piece::Ended(note, Some(cursor))
                }
                Err(error) => {
                    *self = Self::None;
                    Piece::Failed(text(format_args!("can't read the file: {error}")))
                }
            },
            Self::Ended(note) => {
                let note = std::mem::take(note);
                *self = Self::None;
                Piece::Ended(note, None)
            }
        }
    }
}
