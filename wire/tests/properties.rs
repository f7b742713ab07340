//! What holds for every message: it comes back as it went, its bounds are exact, and no bytes
//! whatever make a decoder panic. A failure names its seed; `SEED=… CASES=1` replays it.
#![expect(clippy::unwrap_used, reason = "clippy.toml excepts tests, but not what they call")]

use fieldpost_wire::{
    Ack, Arg, Attempt, Beacon, BootId, Cancel, CatchUp, Cause, Clock, Command, Drops, Entry,
    EntryError, Error, Exit, Finished, Heartbeat, Hello, HubId, JobOffer, List, Missed, Name,
    OutboxId, Output, Overlap, Query, Reason, Report, RunId, RunState, Schedule, ScheduleVersion,
    Seq, SeqRange, StartId, State, Status, Tag, Trigger, UnixMillis, Welcome, When, check_name,
    limits, node_topic, peek_tag,
};
use serde::Serialize;

const CASES: u64 = 3_000;

fn cases(test: impl Fn(&mut Make)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("SEED").unwrap_or(0);
    for seed in first..first + number("CASES").unwrap_or(CASES) {
        let mut make = Make { random: fastrand::Rng::with_seed(seed) };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&mut make)));
        assert!(outcome.is_ok(), "failed with SEED={seed}");
    }
}

/// Makes random messages. What they borrow is leaked: some hundred bytes a case.
struct Make {
    random: fastrand::Rng,
}

impl Make {
    fn number(&mut self) -> u64 {
        let bits = self.random.u32(0..=64);
        if bits == 0 { 0 } else { self.random.u64(..) >> (64 - bits) }
    }

    fn id(&mut self) -> [u8; 16] {
        self.random.u128(..).to_be_bytes()
    }

    fn bytes(&mut self, most: usize) -> &'static [u8] {
        let length = self.length(most);
        (0..length).map(|_| self.random.u8(..)).collect::<Vec<u8>>().leak()
    }

    /// Mostly short; now and then at the bound.
    fn length(&mut self, most: usize) -> usize {
        match self.random.u8(0..8) {
            0 => 0,
            1 => most,
            _ => self.random.usize(0..=most.min(6)),
        }
    }

    fn text(&mut self, most: usize) -> &'static str {
        let length = self.length(most);
        let mut text = String::new();
        while text.len() < length {
            let character =
                if self.random.u8(0..8) == 0 { 'é' } else { self.random.alphanumeric() };
            if text.len() + character.len_utf8() > most {
                break;
            }
            text.push(character);
        }
        text.leak()
    }

    fn name(&mut self) -> &'static str {
        let length = self.length(limits::NAME).max(1);
        let name: String =
            (0..length).map(|_| *self.random.choice(b"abz019._-").unwrap() as char).collect();
        name.leak()
    }

    fn list<T: Serialize>(
        &mut self,
        most: usize,
        mut each: impl FnMut(&mut Self) -> T,
    ) -> List<'static, T> {
        let elements: Vec<T> = (0..self.length(most)).map(|_| each(self)).collect();
        let mut buffer = vec![0; 64 * 1024];
        let length = List::encode(&mut buffer, &elements).unwrap().encoded_len();
        buffer.truncate(length);
        buffer.shrink_to_fit();
        List::encode(buffer.leak(), elements).unwrap()
    }

    fn args(&mut self) -> List<'static, Arg<'static>> {
        self.list(limits::ARGS, |m| Arg { name: m.name(), value: m.text(limits::ARG_VALUE) })
    }

    fn run(&mut self) -> RunId {
        RunId(self.id())
    }

    fn attempt(&mut self) -> Attempt {
        Attempt(self.number() as u32)
    }

    fn time(&mut self) -> UnixMillis {
        UnixMillis(self.number())
    }

    fn version(&mut self) -> ScheduleVersion {
        ScheduleVersion { epoch: self.number(), counter: self.number() }
    }

    fn boot(&mut self) -> BootId {
        BootId(self.number() as u32)
    }

    fn clock(&mut self) -> Clock {
        if self.random.bool() { Clock::Trusted } else { Clock::Untrusted }
    }

    fn tag(&mut self) -> Option<Tag> {
        self.random.bool().then(|| Tag { outbox: OutboxId(self.id()), seq: Seq(self.number()) })
    }

    fn entry(&mut self) -> Entry<'static> {
        Entry {
            id: self.name(),
            job: self.name(),
            args: self.list(2, |m| Arg { name: m.name(), value: m.text(20) }),
            when: if self.random.bool() {
                When::Cron(self.text(limits::CRON))
            } else {
                When::EveryMs(self.number().max(1))
            },
            splay_ms: self.number(),
            catch_up: match self.random.u8(0..3) {
                0 => CatchUp::Skip,
                1 => CatchUp::Once,
                _ => CatchUp::All { max: self.number() as u16 },
            },
            overlap: if self.random.bool() { Overlap::Skip } else { Overlap::Queue },
            timeout_ms: self.random.bool().then(|| self.number()),
        }
    }

    fn command(&mut self) -> Command<'static> {
        match self.random.u8(0..7) {
            0 => Command::Trigger(Trigger {
                run: self.run(),
                attempt: self.attempt(),
                job: self.name(),
                args: self.args(),
                deadline: self.time(),
                origin: self.text(limits::ORIGIN),
            }),
            1 => Command::Cancel(Cancel {
                run: self.run(),
                attempt: self.attempt(),
                deadline: self.time(),
            }),
            2 => Command::Query(Query { runs: self.list(limits::QUERY_RUNS, Self::run) }),
            3 => Command::Schedule(Schedule {
                version: self.version(),
                entries: self.list(limits::ENTRIES, Self::entry),
            }),
            4 => Command::Ack(Ack {
                outbox: OutboxId(self.id()),
                ranges: self.list(limits::ACK_RANGES, |m| {
                    let (a, b) = (m.number(), m.number());
                    SeqRange { first: Seq(a.min(b)), last: Seq(a.max(b)) }
                }),
            }),
            5 => Command::Welcome(Welcome {
                hub: HubId(self.id()),
                start: StartId(self.id()),
                agent_start: StartId(self.id()),
                time: self.time(),
                wire: self.random.u8(..),
                schedule: self.version(),
            }),
            _ => Command::Beacon(Beacon {
                hub: HubId(self.id()),
                start: StartId(self.id()),
                time: self.time(),
            }),
        }
    }

    fn report(&mut self) -> Report<'static> {
        match self.random.u8(0..6) {
            0 => Report::Hello(Hello {
                start: StartId(self.id()),
                node: self.name(),
                agent: self.text(limits::AGENT_VERSION),
                groups: self.list(limits::GROUPS, Self::name),
                jobs: self
                    .list(limits::JOBS, |m| JobOffer { name: m.name(), rerun: m.random.bool() }),
                partial: self.random.bool(),
                schedule: self.version(),
                outboxes: self.list(limits::OUTBOXES, |m| OutboxId(m.id())),
            }),
            1 => Report::Heartbeat(self.heartbeat()),
            2 => Report::State(State {
                run: self.run(),
                attempt: self.attempt(),
                state: self.state(),
            }),
            3 => Report::Output(Output {
                run: self.run(),
                attempt: self.attempt(),
                index: self.number() as u32,
                bytes: self.bytes(limits::CHUNK),
            }),
            4 => Report::Finished(self.finished()),
            _ => Report::Missed(Missed {
                entry: self.name(),
                from: self.time(),
                to: self.time(),
                count: self.number(),
            }),
        }
    }

    fn heartbeat(&mut self) -> Heartbeat<'static> {
        Heartbeat {
            boot: self.boot(),
            boot_ms: self.number(),
            load_milli: self.number() as u32,
            memory_kib: self.number(),
            temperature_milli: self.random.bool().then(|| self.random.i32(..)),
            schedule: self.version(),
            entry_errors: self.list(limits::ENTRIES, |m| EntryError {
                entry: m.name(),
                error: m.text(limits::TEXT),
            }),
            running: self.number() as u32,
            queued: self.number() as u32,
            outbox_records: self.number(),
            outbox_bytes: self.number(),
            spool_bytes: self.number(),
            drops: self.list(limits::JOBS, |m| Drops { job: m.name(), count: m.number() }),
            sent_bytes: self.number(),
            written_bytes: self.number(),
            bad_commands: self.number(),
            storage: self.text(limits::TEXT),
            clock: self.clock(),
        }
    }

    fn state(&mut self) -> RunState<'static> {
        match self.random.u8(0..6) {
            0 => RunState::Accepted { longest_ms: self.number() },
            1 => RunState::Rejected {
                reason: match self.random.u8(0..5) {
                    0 => Reason::UnknownJob,
                    1 => Reason::BadArgument,
                    2 => Reason::Busy,
                    3 => Reason::Expired,
                    _ => Reason::Stopping,
                },
                detail: self.text(limits::TEXT),
            },
            2 => RunState::Running { longest_ms: self.number() },
            3 => RunState::Coming,
            4 => RunState::Unknown,
            _ => RunState::Cancelled,
        }
    }

    fn finished(&mut self) -> Finished<'static> {
        let statuses = [
            Status::Ok,
            Status::Failed,
            Status::Signalled,
            Status::TimedOut,
            Status::Cancelled,
            Status::Skipped,
            Status::Rejected,
            Status::Lost,
        ];
        Finished {
            run: self.run(),
            attempt: self.attempt(),
            job: self.name(),
            cause: if self.random.bool() {
                Cause::Trigger
            } else {
                Cause::Entry { entry: self.name(), due: self.time() }
            },
            status: self.random.choice(statuses).unwrap(),
            exit: match self.random.u8(0..3) {
                0 => Exit::None,
                1 => Exit::Code(self.random.i32(..)),
                _ => Exit::Signal(self.random.i32(..)),
            },
            started: self.time(),
            boot: self.boot(),
            started_boot_ms: self.number(),
            clock: self.clock(),
            duration_us: self.number(),
            chunks: self.number() as u32,
            bytes: self.number(),
            crc32c: self.random.u32(..),
            stderr: self.bytes(limits::STDERR_TAIL),
            note: self.text(limits::TEXT),
            peak_rss_kib: self.number(),
            cpu_us: self.number(),
            truncated: self.random.bool(),
            output_dropped: self.random.bool(),
        }
    }
}

#[test]
fn every_command_comes_back_as_it_went() {
    cases(|make| {
        let command = make.command();
        let mut buffer = [0; limits::BODY];
        let body = command.encode(&mut buffer).unwrap();
        assert_eq!(Command::decode(body), Ok(command));
        assert_eq!(peek_tag(body), Ok(None));
    });
}

#[test]
fn every_report_comes_back_as_it_went() {
    cases(|make| {
        let (tag, report) = (make.tag(), make.report());
        let mut buffer = [0; limits::BODY];
        let body = report.encode(tag, &mut buffer).unwrap();
        assert_eq!(Report::decode(body), Ok((tag, report)));
        assert_eq!(peek_tag(body), Ok(tag));
    });
}

#[test]
fn a_body_that_was_cut_anywhere_is_an_error() {
    cases(|make| {
        let (tag, report) = (make.tag(), make.report());
        let mut buffer = [0; limits::BODY];
        let body = report.encode(tag, &mut buffer).unwrap();
        let end = make.random.usize(0..body.len());
        assert!(Report::decode(&body[..end]).is_err());
        let command = make.command();
        let mut buffer = [0; limits::BODY];
        let body = command.encode(&mut buffer).unwrap();
        let end = make.random.usize(0..body.len());
        assert!(Command::decode(&body[..end]).is_err());
    });
}

/// What decodes from damaged bytes is still within the bounds: it can be encoded again.
#[test]
fn damaged_bodies_never_panic_and_never_break_a_bound() {
    cases(|make| {
        let mut buffer = [0; limits::BODY];
        let as_report = make.random.bool();
        let length = if as_report {
            let (tag, report) = (make.tag(), make.report());
            report.encode(tag, &mut buffer).unwrap().len()
        } else {
            make.command().encode(&mut buffer).unwrap().len()
        };
        let body = &mut buffer[..length];
        for _ in 0..make.random.usize(1..=4) {
            let place = make.random.usize(0..body.len());
            body[place] = make.random.u8(..);
        }
        hostile(body);
    });
}

#[test]
fn arbitrary_bytes_never_panic() {
    cases(|make| {
        let mut body: Vec<u8> =
            (0..make.random.usize(0..300)).map(|_| make.random.u8(..)).collect();
        // Most of them get past the header: the interesting errors are behind it.
        if body.len() > 3 && make.random.u8(0..8) != 0 {
            body[0] = 1;
            body[1] &= 1;
            if body[1] == 0 {
                body[2] %= 8;
            }
        }
        hostile(&body);
    });
}

fn hostile(body: &[u8]) {
    let mut room = vec![0; limits::BODY];
    if let Ok(command) = Command::decode(body) {
        let length = command.encode(&mut room).unwrap().len();
        assert_eq!(Command::decode(&room[..length]), Ok(command));
        drop(format!("{command:?}"));
    }
    if let Ok((tag, report)) = Report::decode(body) {
        assert_eq!(peek_tag(body), Ok(tag));
        let length = report.encode(tag, &mut room).unwrap().len();
        assert_eq!(Report::decode(&room[..length]), Ok((tag, report)));
        drop(format!("{report:?}"));
    }
}

#[test]
fn a_buffer_too_small_by_one_byte_is_an_error_and_not_a_panic() {
    cases(|make| {
        let (tag, report) = (make.tag(), make.report());
        let mut buffer = vec![0; limits::BODY];
        let length = report.encode(tag, &mut buffer).unwrap().len();
        assert!(report.encode(tag, &mut buffer[..length]).is_ok());
        for short in [length - 1, make.random.usize(0..length)] {
            assert_eq!(report.encode(tag, &mut buffer[..short]), Err(Error::Room));
        }
    });
}

#[test]
fn sequence_numbers_take_as_many_bytes_as_they_need() {
    let missed =
        Report::Missed(Missed { entry: "e", from: UnixMillis(0), to: UnixMillis(0), count: 0 });
    let header = 2 + 16;
    let rest = 1 + 2 + 1 + 1 + 1;
    for (seq, varint) in [
        (0, 1),
        (1, 1),
        (127, 1),
        (128, 2),
        (16_383, 2),
        (16_384, 3),
        (u64::from(u32::MAX), 5),
        (u64::from(u32::MAX) + 1, 5),
        ((1 << 35) - 1, 5),
        (1 << 35, 6),
        ((1 << 63) - 1, 9),
        (1 << 63, 10),
        (u64::MAX, 10),
    ] {
        let tag = Some(Tag { outbox: OutboxId([9; 16]), seq: Seq(seq) });
        let mut buffer = [0; 64];
        let body = missed.encode(tag, &mut buffer).unwrap();
        assert_eq!(body.len(), header + varint + rest, "{seq}");
        assert_eq!(Report::decode(body), Ok((tag, missed)));
    }
}

/// Encodes with `n` of something: the outcome.
fn trigger_with(args: usize, value: usize, origin: usize, job: usize) -> Result<usize, Error> {
    let (value, origin, job) = ("v".repeat(value), "o".repeat(origin), "j".repeat(job));
    let mut list = vec![0; 8_192];
    let args =
        List::encode(&mut list, (0..args).map(|_| Arg { name: "n", value: &value })).unwrap();
    let command = Command::Trigger(Trigger {
        run: RunId::default(),
        attempt: Attempt::FIRST,
        job: &job,
        args,
        deadline: UnixMillis(0),
        origin: &origin,
    });
    let mut buffer = vec![0; limits::BODY];
    command.encode(&mut buffer).map(<[u8]>::len)
}

#[test]
fn a_triggers_bounds_are_exact() {
    for args in [0, 1, 7, 8] {
        assert!(trigger_with(args, 256, 128, 63).is_ok());
    }
    assert_eq!(trigger_with(9, 0, 0, 1), Err(Error::Bound("args")));
    assert_eq!(trigger_with(1, 257, 0, 1), Err(Error::Bound("argument value")));
    assert_eq!(trigger_with(0, 0, 129, 1), Err(Error::Bound("origin")));
    assert_eq!(trigger_with(0, 0, 0, 0), Err(Error::Bound("job")));
    assert_eq!(trigger_with(0, 0, 0, 64), Err(Error::Bound("job")));
}

fn list_of<T: Serialize>(n: usize, element: impl Fn(usize) -> T) -> List<'static, T> {
    List::encode(vec![0; 64 * 1024].leak(), (0..n).map(element)).unwrap()
}

fn encodes(command: Command<'_>) -> Result<(), Error> {
    command.encode(&mut vec![0; limits::BODY]).map(drop)
}

fn reports(report: Report<'_>) -> Result<(), Error> {
    report.encode(None, &mut vec![0; limits::BODY]).map(drop)
}

#[test]
fn the_bounds_of_commands_lists_are_exact() {
    let query = |n| encodes(Command::Query(Query { runs: list_of(n, |_| RunId::default()) }));
    let ack = |n| {
        encodes(Command::Ack(Ack {
            outbox: OutboxId::default(),
            ranges: list_of(n, |_| SeqRange { first: Seq(1), last: Seq(1) }),
        }))
    };
    let schedule = |n, cron: &str| {
        let cron: &'static str = cron.to_owned().leak();
        encodes(Command::Schedule(Schedule {
            version: ScheduleVersion::default(),
            entries: list_of(n, |_| Entry {
                id: "e",
                job: "j",
                args: List::empty(),
                when: When::Cron(cron),
                splay_ms: 0,
                catch_up: CatchUp::Skip,
                overlap: Overlap::Skip,
                timeout_ms: None,
            }),
        }))
    };
    for n in [0, 1, 63, 64] {
        assert_eq!((query(n), ack(n), schedule(n, "* * * * *")), (Ok(()), Ok(()), Ok(())));
    }
    assert_eq!(query(65), Err(Error::Bound("runs")));
    assert_eq!(ack(65), Err(Error::Bound("ranges")));
    assert_eq!(schedule(65, ""), Err(Error::Bound("entries")));
    assert_eq!(schedule(1, &"*".repeat(128)), Ok(()));
    assert_eq!(schedule(1, &"*".repeat(129)), Err(Error::Bound("cron")));
}

#[test]
fn the_bounds_of_reports_are_exact() {
    let hello = |groups, jobs, outboxes, agent: usize| {
        let agent = "v".repeat(agent);
        reports(Report::Hello(Hello {
            start: StartId::default(),
            node: "n",
            agent: &agent,
            groups: list_of(groups, |_| "g"),
            jobs: list_of(jobs, |_| JobOffer { name: "j", rerun: false }),
            partial: false,
            schedule: ScheduleVersion::default(),
            outboxes: list_of(outboxes, |_| OutboxId::default()),
        }))
    };
    assert_eq!(hello(0, 0, 0, 0), Ok(()));
    assert_eq!(hello(16, 64, 64, 32), Ok(()));
    assert_eq!(hello(17, 0, 0, 0), Err(Error::Bound("groups")));
    assert_eq!(hello(0, 65, 0, 0), Err(Error::Bound("jobs")));
    assert_eq!(hello(0, 0, 65, 0), Err(Error::Bound("outboxes")));
    assert_eq!(hello(0, 0, 0, 33), Err(Error::Bound("agent version")));

    let output = |n| {
        reports(Report::Output(Output {
            run: RunId::default(),
            attempt: Attempt::FIRST,
            index: 0,
            bytes: &vec![7; n],
        }))
    };
    assert_eq!((output(0), output(limits::CHUNK)), (Ok(()), Ok(())));
    assert_eq!(output(limits::CHUNK + 1), Err(Error::Bound("chunk")));

    let finished = |stderr, note| {
        let mut make = Make { random: fastrand::Rng::with_seed(1) };
        let (stderr, note) = (vec![1; stderr], "n".repeat(note));
        reports(Report::Finished(Finished { stderr: &stderr, note: &note, ..make.finished() }))
    };
    assert_eq!((finished(0, 0), finished(4_096, 256)), (Ok(()), Ok(())));
    assert_eq!(finished(4_097, 0), Err(Error::Bound("stderr")));
    assert_eq!(finished(0, 257), Err(Error::Bound("note")));

    let rejected = |n| {
        let detail = "d".repeat(n);
        reports(Report::State(State {
            run: RunId::default(),
            attempt: Attempt::FIRST,
            state: RunState::Rejected { reason: Reason::Busy, detail: &detail },
        }))
    };
    assert_eq!((rejected(0), rejected(256)), (Ok(()), Ok(())));
    assert_eq!(rejected(257), Err(Error::Bound("detail")));
}

/// 64 entries fit their bound, 64 large ones don't fit a body: whoever makes a schedule is told.
#[test]
fn a_schedule_that_does_not_fit_a_body_is_refused_when_it_is_made() {
    let value = "v".repeat(limits::ARG_VALUE);
    let mut inner = vec![0; 4_096];
    let args = List::encode(&mut inner, (0..8).map(|_| Arg { name: "n", value: &value })).unwrap();
    let entry = Entry {
        id: "e",
        job: "j",
        args,
        when: When::EveryMs(1),
        splay_ms: 0,
        catch_up: CatchUp::Skip,
        overlap: Overlap::Skip,
        timeout_ms: None,
    };
    let mut outer = vec![0; 256 * 1024];
    let entries = List::encode(&mut outer, (0..64).map(|_| entry)).unwrap();
    let schedule = Command::Schedule(Schedule { version: ScheduleVersion::default(), entries });
    assert_eq!(schedule.encode(&mut vec![0; 256 * 1024]), Err(Error::Room));
}

#[test]
fn names_are_what_the_specification_says() {
    for right in ["a", "0", ".", "_", "-", "gw-017", &"x".repeat(63)] {
        assert!(check_name(right).is_ok(), "{right}");
        assert_eq!(&*node_topic(&right.parse::<Name>().unwrap()), format!("n/{right}/").as_bytes());
    }
    for wrong in ["", "A", "a b", "a/b", "ä", "a\0", "a\n", &"x".repeat(64)] {
        assert!(check_name(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_scheduled_runs_id_is_the_same_whoever_computes_it() {
    let (node, entry) = ("gw-017".parse::<Name>().unwrap(), "night".parse::<Name>().unwrap());
    let due = UnixMillis(1_767_225_600_000);
    let id = RunId::scheduled(due, &node, &entry);
    assert_eq!(id.time(), due);
    assert_eq!(id.to_string(), SCHEDULED);
    assert!(id < RunId::scheduled(UnixMillis(due.0 + 1), &node, &entry));
    assert_ne!(id, RunId::scheduled(due, &entry, &node));
    assert_eq!(id.to_string().parse(), Ok(id));
}

#[test]
fn runs_of_an_interval_differ_by_boot_and_by_time_since() {
    let (node, entry) = ("gw-017".parse::<Name>().unwrap(), "night".parse::<Name>().unwrap());
    let due = UnixMillis(1_767_225_600_000);
    let boot = std::array::from_fn(|n| n as u8);
    let id = RunId::of_interval(due, &node, &entry, &boot, 3_600_000);
    assert_eq!(id.time(), due);
    assert_eq!(id.to_string(), INTERVAL);
    assert_ne!(id, RunId::of_interval(due, &node, &entry, &[7; 16], 3_600_000));
    assert_ne!(id, RunId::of_interval(due, &node, &entry, &boot, 3_600_001));
    assert_ne!(id, RunId::scheduled(due, &node, &entry));
}

const INTERVAL: &str = "019b76da-a800-8191-bbc6-4ee34ac71ce4";
const SCHEDULED: &str = "019b76da-a800-8393-8758-80bab7372668";
