//! `fieldpost-agent spool check|dump|export`: looks at the spool's files and changes nothing. An agent
//! may use them meanwhile.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use fieldpost_wire::{Attempt, Report, RunId};

use super::job::quoted;
use super::{Exit, Failure, say};
use crate::config::{Config, Spool};
use crate::io::spool::{self, Found};
use crate::spool::segment::{self, Entry, Kind};

/// What a segment holds.
#[derive(Debug, Default)]
struct Counts {
    records: [u64; 5],
    damaged: u64,
    torn: usize,
}

const KINDS: [Kind; 5] = [Kind::Chunk, Kind::Finished, Kind::Missed, Kind::Dropped, Kind::Took];

impl Counts {
    fn of(bytes: &[u8]) -> Self {
        let mut counts = Self::default();
        for found in segment::read(bytes) {
            match found {
                segment::Found::Record(_, entry) => {
                    let at = KINDS.iter().position(|kind| *kind == entry.kind);
                    counts.records[at.unwrap_or_default()] += 1;
                }
                segment::Found::Bad(range) if range.end == bytes.len() && range.start > 0 => {
                    counts.torn = range.len();
                }
                segment::Found::Bad(_) => counts.damaged += 1,
            }
        }
        counts
    }

    fn words(&self) -> String {
        let kinds = KINDS.iter().zip(self.records).filter(|(_, count)| *count > 0);
        let mut words: Vec<String> =
            kinds.map(|(kind, count)| format!("{count} {}", kind.word())).collect();
        if self.damaged > 0 {
            words.push(format!("{} damaged places", self.damaged));
        }
        if self.torn > 0 {
            words.push(format!("a torn end of {} bytes", self.torn));
        }
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    }

    fn json(&self) -> String {
        let kinds = KINDS.iter().zip(self.records);
        let kinds: String =
            kinds.map(|(kind, count)| format!("\"{}\":{count},", kind.word())).collect();
        format!("{kinds}\"damaged\":{},\"torn_bytes\":{}", self.damaged, self.torn)
    }
}

/// Says what each segment holds. Damage is a failure.
pub(super) fn check(config: &Path, json: bool) -> Result<(), Failure> {
    let spool = spool_of(config)?;
    let segments = spool::segments(&spool.path);
    let used = spool::is_used(&spool.path);
    let mut damaged = 0;
    let mut total = 0;
    let mut buffer = Vec::new();
    for Found { number, path } in &segments {
        let counts = match spool::read(path, &mut buffer) {
            Ok(()) => Counts::of(&buffer),
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                damaged += 1;
                continue;
            }
        };
        damaged += counts.damaged;
        total += buffer.len();
        let line = if json {
            format!("{{\"segment\":{number},\"bytes\":{},{}}}\n", buffer.len(), counts.json())
        } else {
            format!("{number:08x}  {:>7} bytes  {}\n", buffer.len(), counts.words())
        };
        say(&line)?;
    }
    if !json {
        let by = if used { "an agent uses it" } else { "no agent uses it" };
        say(&format!(
            "{}: {} segments, {total} of {} bytes; {by}\n",
            spool.path.display(),
            segments.len(),
            spool.settings.max
        ))?;
    }
    match damaged {
        0 => Ok(()),
        _ => Err(Failure::new(
            Exit::Failed,
            format!(
                "{damaged} damaged places; what is whole is sent all the same\n  \
                 hint: at its next start the agent sets the damaged bytes aside as *.bad"
            ),
        )),
    }
}

/// Shows every record.
pub(super) fn dump(config: &Path, json: bool) -> Result<(), Failure> {
    each(&spool_of(config)?, |number, _, at, entry| {
        let Entry { kind, index, run, attempt, tag, body, .. } = *entry;
        let (kind, seq, attempt) = (kind.word(), tag.seq.0, attempt.0);
        let outbox = RunId(tag.outbox.0);
        let about = about(body);
        say(&if json {
            format!(
                "{{\"segment\":{number},\"index\":{index},\"at\":{at},\"kind\":\"{kind}\",\
                 \"run_id\":\"{run}\",\"attempt\":{attempt},\"outbox\":\"{outbox}\",\"seq\":{seq},\
                 \"durable\":{},\"bytes\":{},\"about\":{}}}\n",
                entry.durable,
                body.len(),
                quoted(&about)
            )
        } else {
            format!("{number:08x}/{index:<4} {kind:<8} {run} {attempt} seq {seq} {about}\n")
        })
    })
}

/// What a report says, in a few words.
fn about(body: &[u8]) -> String {
    match Report::decode(body) {
        Ok((_, Report::Output(output))) => {
            format!("piece {}, {} bytes", output.index, output.bytes.len())
        }
        Ok((_, Report::Finished(end))) => {
            format!("{} {:?}, {} pieces, {} bytes", end.job, end.status, end.chunks, end.bytes)
        }
        Ok((_, Report::Missed(missed))) => format!("{} of {}", missed.count, missed.entry),
        Ok(_) | Err(_) => String::new(),
    }
}

/// One run, as far as the spool holds it.
#[derive(Debug, Default)]
struct Held {
    /// Where each piece of its output is: file, place and length.
    pieces: BTreeMap<u32, (PathBuf, usize, usize)>,
    end: Option<String>,
}

/// Writes for each run its output and how it ended.
pub(super) fn export(config: &Path, directory: &Path) -> Result<(), Failure> {
    let mut runs = BTreeMap::<(RunId, Attempt), Held>::new();
    each(&spool_of(config)?, |_, path, at, entry| {
        match Report::decode(entry.body) {
            Ok((_, Report::Output(output))) => {
                let within = output.bytes.as_ptr() as usize - entry.body.as_ptr() as usize;
                let place =
                    (path.to_owned(), at + segment::RECORD_HEAD + within, output.bytes.len());
                let run = runs.entry((output.run, output.attempt)).or_default();
                run.pieces.insert(output.index, place);
            }
            Ok((_, Report::Finished(end))) => {
                let run = runs.entry((end.run, end.attempt)).or_default();
                let stderr = String::from_utf8_lossy(end.stderr);
                run.end = Some(format!(
                    "\"job\":{},\"status\":\"{:?}\",\"exit\":\"{:?}\",\"started_ms\":{},\
                     \"duration_us\":{},\"pieces\":{},\"bytes\":{},\"crc32c\":{},\
                     \"truncated\":{},\"output_dropped\":{},\"note\":{},\"stderr\":{}",
                    quoted(end.job),
                    end.status,
                    end.exit,
                    end.started.0,
                    end.duration_us,
                    end.chunks,
                    end.bytes,
                    end.crc32c,
                    end.truncated,
                    end.output_dropped,
                    quoted(end.note),
                    quoted(&stderr),
                ));
            }
            Ok(_) | Err(_) => {}
        }
        Ok(())
    })?;
    let wrong = |error: io::Error| {
        Failure::new(Exit::Internal, format!("{}: {error}", directory.display()))
    };
    fs::create_dir_all(directory).map_err(wrong)?;
    for ((run, attempt), held) in &runs {
        held.write(&directory.join(format!("{run}.{}", attempt.0)), *run, *attempt)
            .map_err(wrong)?;
    }
    say(&format!("{} runs written to {}\n", runs.len(), directory.display()))
}

impl Held {
    fn write(&self, to: &Path, run: RunId, attempt: Attempt) -> io::Result<()> {
        let with = |extension: &str| {
            let mut path = to.as_os_str().to_owned();
            path.push(extension);
            OpenOptions::new().write(true).create(true).truncate(true).open(path)
        };
        let held: Vec<String> = self.pieces.keys().map(u32::to_string).collect();
        let end = self.end.as_deref().unwrap_or("\"status\":null");
        let mut json = with(".json")?;
        writeln!(
            json,
            "{{\"run_id\":\"{run}\",\"attempt\":{},{end},\"pieces_held\":[{}]}}",
            attempt.0,
            held.join(",")
        )?;
        if self.pieces.is_empty() {
            return Ok(());
        }
        let mut out = with(".out")?;
        for (path, at, len) in self.pieces.values() {
            copy(path, *at, *len, &mut out)?;
        }
        Ok(())
    }
}

fn copy(from: &Path, at: usize, len: usize, to: &mut File) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; len];
    File::open(from)?.read_exact_at(&mut bytes, at as u64)?;
    to.write_all(&bytes)
}

fn spool_of(config: &Path) -> Result<Spool, Failure> {
    let config = Config::load(config)?;
    config
        .spool
        .ok_or_else(|| Failure::new(Exit::Configuration, "the configuration has no [outbox] spool"))
}

/// Gives every whole record, with its segment's number and file, and where it begins there.
fn each(
    spool: &Spool,
    mut give: impl FnMut(u32, &Path, usize, &Entry<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut buffer = Vec::new();
    for Found { number, path } in spool::segments(&spool.path) {
        if let Err(error) = spool::read(&path, &mut buffer) {
            eprintln!("{}: {error}", path.display());
            continue;
        }
        for found in segment::read(&buffer) {
            if let segment::Found::Record(at, entry) = found {
                give(number, &path, at, &entry)?;
            }
        }
    }
    Ok(())
}
