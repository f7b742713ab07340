//! Golden bytes: what a body looks like on the wire, for whoever writes a peer.
//!
//! The values here are the source; `UPDATE_VECTORS=1 cargo test -p fieldpost-wire --test vectors`
//! writes `wire/vectors/*.json` from them. Without it a difference is a change of the wire, and
//! fails. The invalid bodies are written by hand, each beside the error that a decoder gives.
#![expect(clippy::unwrap_used, reason = "clippy.toml excepts tests, but not what they call")]

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use fieldpost_wire::{
    Ack, Arg, Attempt, Beacon, BootId, Cancel, CatchUp, Cause, Clock, Command, Drops, Entry,
    EntryError, Error, Exit, Finished, Heartbeat, Hello, HubId, JobOffer, List, Missed, Name,
    OutboxId, Output, Overlap, Query, Reason, Report, RunId, RunState, Schedule, ScheduleVersion,
    Seq, SeqRange, StartId, State, Status, Tag, Trigger, UnixMillis, Welcome, When, limits,
    peek_tag,
};
use serde::Serialize;
use serde_json::{Value, json};

const NOW: UnixMillis = UnixMillis(1_767_225_600_000); // 2026-01-01T00:00:00Z

/// Of boot id 1b4e28ba-2fa1-11d2-883f-0016d3cca427.
const BOOT: BootId = BootId(0x1b4e_28ba);

fn run() -> RunId {
    RunId::v7(NOW, [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa])
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Test values live as long as the test: their lists leak.
fn list<T: Serialize>(elements: impl IntoIterator<Item = T>) -> List<'static, T> {
    List::encode(Box::leak(vec![0; 64 * 1024].into_boxed_slice()), elements).unwrap()
}

fn text(character: char, length: usize) -> &'static str {
    String::from(character).repeat(length).leak()
}

fn longest_name(i: usize) -> &'static str {
    format!("{i:0>63}").leak()
}

fn tag(seq: u64) -> Option<Tag> {
    Some(Tag { outbox: OutboxId([0xd0; 16]), seq: Seq(seq) })
}

#[derive(Serialize)]
struct Vector {
    name: &'static str,
    meaning: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Tag>,
    hex: String,
    value: Value,
}

#[derive(Default)]
struct Vectors(Vec<Vector>);

impl Vectors {
    fn command(&mut self, name: &'static str, meaning: &'static str, command: Command<'_>) {
        let mut buffer = vec![0; limits::BODY];
        let body = command.encode(&mut buffer).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(Command::decode(body), Ok(command), "{name}");
        self.add(name, meaning, None, body, serde_json::to_value(command).unwrap());
    }

    fn report(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        tag: Option<Tag>,
        report: Report<'_>,
    ) {
        let mut buffer = vec![0; limits::BODY];
        let body = report.encode(tag, &mut buffer).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(Report::decode(body), Ok((tag, report)), "{name}");
        assert_eq!(peek_tag(body), Ok(tag), "{name}");
        self.add(name, meaning, tag, body, serde_json::to_value(report).unwrap());
    }

    fn add(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        tag: Option<Tag>,
        body: &[u8],
        value: Value,
    ) {
        assert!(self.0.iter().all(|v| v.name != name), "{name} stands twice");
        self.0.push(Vector { name, meaning, tag, hex: hex(body), value: bytes_as_hex(value) });
    }
}

fn commands() -> Vectors {
    let mut v = Vectors::default();
    let version = ScheduleVersion { epoch: 0x0102_0304_0506_0708, counter: 300 };
    v.command(
        "trigger",
        "Run job `read-meter` with one argument, if not past 2026-01-01T00:01:00Z; an Airflow task asked.",
        Command::Trigger(Trigger {
            run: run(),
            attempt: Attempt::FIRST,
            job: "read-meter",
            args: list([Arg { name: "bus", value: "2" }]),
            deadline: NOW.plus_ms(60_000),
            origin: "meters/collect/manual__1",
        }),
    );
    v.command(
        "trigger-bare",
        "A trigger without arguments or origin; every variable part at its shortest.",
        Command::Trigger(Trigger {
            run: RunId([0; 16]),
            attempt: Attempt(0),
            job: "x",
            args: List::empty(),
            deadline: UnixMillis(0),
            origin: "",
        }),
    );
    v.command(
        "trigger-full",
        "A trigger at every bound: 8 arguments of 256 B with names of 63 B, a job of 63 B, an origin of 128 B, the largest attempt and deadline.",
        Command::Trigger(Trigger {
            run: RunId([0xff; 16]),
            attempt: Attempt(u32::MAX),
            job: longest_name(0),
            args: list((0..limits::ARGS).map(|i| Arg {
                name: longest_name(i),
                value: text('v', limits::ARG_VALUE),
            })),
            deadline: UnixMillis(u64::MAX),
            origin: text('o', limits::ORIGIN),
        }),
    );
    v.command(
        "cancel",
        "Stop the second attempt of a run; for an unknown run keep a tombstone until the deadline.",
        Command::Cancel(Cancel { run: run(), attempt: Attempt(2), deadline: NOW.plus_ms(60_000) }),
    );
    v.command(
        "query",
        "Say the state of two runs: a triggered one (UUIDv7) and a scheduled one (UUIDv8: due time, then a hash of due time, node `gw-017` and entry `night`).",
        Command::Query(Query {
            runs: list([run(), RunId::scheduled(NOW, &name("gw-017"), &name("night"))]),
        }),
    );
    v.command("query-empty", "A query for no run.", Command::Query(Query { runs: List::empty() }));
    v.command(
        "query-full",
        "A query for 64 runs, the most.",
        Command::Query(Query { runs: list((0..64).map(|i| RunId([i; 16]))) }),
    );
    v.command(
        "schedule",
        "Two entries: a cron one with everything set, and an interval one; catch-up `all` and `skip`, overlap `queue` and `skip`.",
        Command::Schedule(Schedule {
            version,
            entries: list([
                Entry {
                    id: "night",
                    job: "read-meter",
                    args: list([Arg { name: "bus", value: "2" }, Arg { name: "unit", value: "" }]),
                    when: When::Cron("0 3 * * *"),
                    splay_ms: 30_000,
                    catch_up: CatchUp::All { max: 10 },
                    overlap: Overlap::Queue,
                    timeout_ms: Some(20_000),
                },
                Entry {
                    id: "vitals",
                    job: "vitals",
                    args: List::empty(),
                    when: When::EveryMs(300_000),
                    splay_ms: 0,
                    catch_up: CatchUp::Skip,
                    overlap: Overlap::Skip,
                    timeout_ms: None,
                },
            ]),
        }),
    );
    v.command(
        "schedule-once",
        "An entry with catch-up `once`, the longest cron text, and numbers at their largest.",
        Command::Schedule(Schedule {
            version: ScheduleVersion { epoch: u64::MAX, counter: u64::MAX },
            entries: list([Entry {
                id: longest_name(1),
                job: longest_name(2),
                args: List::empty(),
                when: When::Cron(text('*', limits::CRON)),
                splay_ms: u64::MAX,
                catch_up: CatchUp::Once,
                overlap: Overlap::Skip,
                timeout_ms: Some(u64::MAX),
            }]),
        }),
    );
    v.command(
        "schedule-empty",
        "No entry: the node has nothing to run by itself.",
        Command::Schedule(Schedule {
            version: ScheduleVersion { epoch: 7, counter: 0 },
            entries: List::empty(),
        }),
    );
    v.command(
        "schedule-full",
        "64 entries, the most; `all` with its largest maximum, and the shortest interval.",
        Command::Schedule(Schedule {
            version,
            entries: list((0..limits::ENTRIES).map(|i| Entry {
                id: format!("e{i}").leak(),
                job: "ping",
                args: List::empty(),
                when: When::EveryMs(1),
                splay_ms: 0,
                catch_up: CatchUp::All { max: u16::MAX },
                overlap: Overlap::Queue,
                timeout_ms: None,
            })),
        }),
    );
    v.command(
        "ack",
        "Records 1 to 3 and record 128 of an outbox are durable.",
        Command::Ack(Ack {
            outbox: OutboxId([0xd0; 16]),
            ranges: list([
                SeqRange { first: Seq(1), last: Seq(3) },
                SeqRange { first: Seq(128), last: Seq(128) },
            ]),
        }),
    );
    v.command(
        "ack-full",
        "64 ranges, the most, the last one ending at the largest number.",
        Command::Ack(Ack {
            outbox: OutboxId([0xff; 16]),
            ranges: list((0..limits::ACK_RANGES as u64).map(|i| SeqRange {
                first: Seq(u64::MAX - 2 * (63 - i)),
                last: Seq(u64::MAX - 2 * (63 - i)),
            })),
        }),
    );
    v.command(
        "welcome",
        "Answers the `Hello` of agent start 0xa1…: hub, its start, its time, version 1, and the node's schedule there.",
        Command::Welcome(Welcome {
            hub: HubId([0xb1; 16]),
            start: StartId([0xc1; 16]),
            agent_start: StartId([0xa1; 16]),
            time: NOW,
            wire: 1,
            schedule: version,
        }),
    );
    v.command(
        "beacon",
        "The hub is there, and this is its time.",
        Command::Beacon(Beacon { hub: HubId([0xb1; 16]), start: StartId([0xc1; 16]), time: NOW }),
    );
    v
}

fn finished() -> Finished<'static> {
    Finished {
        run: run(),
        attempt: Attempt::FIRST,
        job: "read-meter",
        cause: Cause::Trigger,
        status: Status::Ok,
        exit: Exit::Code(0),
        started: NOW.plus_ms(5),
        boot: BOOT,
        started_boot_ms: 86_400_000,
        clock: Clock::Trusted,
        duration_us: 1_234,
        chunks: 1,
        bytes: 9,
        crc32c: 0xe306_9283, // of "123456789": the catalogue's check value
        stderr: b"",
        note: "",
        peak_rss_kib: 2_048,
        cpu_us: 900,
        truncated: false,
        output_dropped: false,
    }
}

fn reports() -> Vectors {
    let mut v = Vectors::default();
    liveness(&mut v);
    states(&mut v);
    results(&mut v);
    v
}

fn liveness(v: &mut Vectors) {
    let version = ScheduleVersion { epoch: 0x0102_0304_0506_0708, counter: 300 };
    v.report(
        "hello",
        "The agent is here: its start, the node id it claims, two groups, two jobs (the first to be run again after a restart), its schedule, one outbox.",
        None,
        Report::Hello(Hello {
            start: StartId([0xa1; 16]),
            node: "gw-017",
            agent: "0.1.0",
            groups: list(["berlin", "pi4"]),
            jobs: list([
                JobOffer { name: "read-meter", rerun: true },
                JobOffer { name: "vitals", rerun: false },
            ]),
            partial: false,
            schedule: version,
            outboxes: list([OutboxId([0xd0; 16])]),
        }),
    );
    v.report(
        "hello-partial",
        "The first Hello of an unknown key, kept under 512 B: groups and jobs left out; a node that never got a schedule.",
        None,
        Report::Hello(Hello {
            start: StartId([0xa1; 16]),
            node: "x",
            agent: "",
            groups: List::empty(),
            jobs: List::empty(),
            partial: true,
            schedule: ScheduleVersion::default(),
            outboxes: List::empty(),
        }),
    );
    v.report(
        "hello-full",
        "A Hello at every bound: 16 groups, 64 jobs, 64 outboxes, names of 63 B, a version of 32 B.",
        None,
        Report::Hello(Hello {
            start: StartId([0xff; 16]),
            node: longest_name(0),
            agent: text('9', limits::AGENT_VERSION),
            groups: list((0..limits::GROUPS).map(longest_name)),
            jobs: list(
                (0..limits::JOBS).map(|i| JobOffer { name: longest_name(i), rerun: i % 2 == 0 }),
            ),
            partial: false,
            schedule: ScheduleVersion { epoch: u64::MAX, counter: u64::MAX },
            outboxes: list((0..64).map(|i| OutboxId([i; 16]))),
        }),
    );
    v.report(
        "heartbeat",
        "A node at 43.5 °C, with one schedule entry that can't run and drops of one job.",
        None,
        Report::Heartbeat(Heartbeat {
            boot: BOOT,
            boot_ms: 86_400_123,
            load_milli: 1_250,
            memory_kib: 512_000,
            temperature_milli: Some(43_500),
            schedule: version,
            entry_errors: list([EntryError { entry: "night", error: "no such job: read-meter" }]),
            running: 1,
            queued: 2,
            outbox_records: 3,
            outbox_bytes: 4_096,
            spool_bytes: 0,
            drops: list([Drops { job: "meter-log", count: 7 }]),
            sent_bytes: 123_456,
            written_bytes: 789,
            bad_commands: 0,
            storage: "",
            clock: Clock::Trusted,
        }),
    );
    v.report(
        "heartbeat-cold",
        "A node at -5 °C whose clock nobody vouched for and whose storage is broken.",
        None,
        Report::Heartbeat(Heartbeat {
            boot: BootId(u32::MAX),
            boot_ms: u64::MAX,
            load_milli: 0,
            memory_kib: 1,
            temperature_milli: Some(-5_000),
            schedule: ScheduleVersion::default(),
            entry_errors: List::empty(),
            running: 0,
            queued: 0,
            outbox_records: 0,
            outbox_bytes: 0,
            spool_bytes: 0,
            drops: List::empty(),
            sent_bytes: 0,
            written_bytes: 0,
            bad_commands: u64::MAX,
            storage: text('s', limits::TEXT),
            clock: Clock::Untrusted,
        }),
    );
    v.report(
        "heartbeat-bare",
        "No thermal zone; every number 0.",
        None,
        Report::Heartbeat(Heartbeat {
            boot: BootId::UNKNOWN,
            boot_ms: 0,
            load_milli: 0,
            memory_kib: 0,
            temperature_milli: None,
            schedule: ScheduleVersion::default(),
            entry_errors: List::empty(),
            running: 0,
            queued: 0,
            outbox_records: 0,
            outbox_bytes: 0,
            spool_bytes: 0,
            drops: List::empty(),
            sent_bytes: 0,
            written_bytes: 0,
            bad_commands: 0,
            storage: "",
            clock: Clock::Trusted,
        }),
    );
}

fn states(v: &mut Vectors) {
    let mut state = |name, meaning, state| {
        v.report(
            name,
            meaning,
            None,
            Report::State(State { run: run(), attempt: Attempt::FIRST, state }),
        );
    };
    state(
        "state-accepted",
        "It waits for its turn; it can take 20 s at the longest.",
        RunState::Accepted { longest_ms: 20_000 },
    );
    let rejected = |reason, detail| RunState::Rejected { reason, detail };
    state(
        "state-rejected-unknown-job",
        "The node has no such job.",
        rejected(Reason::UnknownJob, "no such job: read-meter"),
    );
    state(
        "state-rejected-bad-argument",
        "An argument does not match its pattern.",
        rejected(Reason::BadArgument, "bus: \"9\" does not match [0-3]"),
    );
    state(
        "state-rejected-busy",
        "The queue, or the table of known runs, is full; no text for people.",
        rejected(Reason::Busy, ""),
    );
    state(
        "state-rejected-expired",
        "Its deadline has passed; the longest text for people.",
        rejected(Reason::Expired, text('d', limits::TEXT)),
    );
    state(
        "state-rejected-stopping",
        "The agent is shutting down.",
        rejected(Reason::Stopping, "the agent is stopping"),
    );
    state(
        "state-running",
        "It is in progress; the largest number there is.",
        RunState::Running { longest_ms: u64::MAX },
    );
    state("state-coming", "It has ended; its `Finished` is on its way.", RunState::Coming);
    state("state-unknown", "The node knows nothing of it.", RunState::Unknown);
    state("state-cancelled", "Cancelled before it came.", RunState::Cancelled);
}

fn results(v: &mut Vectors) {
    v.report(
        "output",
        "The first chunk of a run's output, reliable: record 1 of its outbox.",
        tag(1),
        Report::Output(Output {
            run: run(),
            attempt: Attempt::FIRST,
            index: 0,
            bytes: b"123456789",
        }),
    );
    v.report(
        "output-empty",
        "A chunk of no bytes decodes (an agent does not send one); a seq of two varint bytes, the smallest.",
        tag(128),
        Report::Output(Output { run: run(), attempt: Attempt::FIRST, index: u32::MAX, bytes: b"" }),
    );
    v.report(
        "output-full",
        "A chunk of 16 KiB, the longest, with the largest seq.",
        tag(u64::MAX),
        Report::Output(Output {
            run: run(),
            attempt: Attempt::FIRST,
            index: 1,
            bytes: vec![0xab; limits::CHUNK].leak(),
        }),
    );
    v.report(
        "finished-ok",
        "A triggered run that ended with exit code 0 after 1,234 µs and printed `123456789`.",
        tag(2),
        Report::Finished(finished()),
    );
    let mut ended = |name, meaning, seq, change: fn(&mut Finished<'static>)| {
        let mut value = finished();
        change(&mut value);
        v.report(name, meaning, tag(seq), Report::Finished(value));
    };
    ended("finished-failed", "Exit code 3, with words on standard error.", 127, |f| {
        f.status = Status::Failed;
        f.exit = Exit::Code(3);
        f.stderr = b"no answer on bus 2\n";
    });
    ended("finished-signalled", "Ended by SIGSEGV.", 16_383, |f| {
        f.status = Status::Signalled;
        f.exit = Exit::Signal(11);
    });
    ended("finished-timed-out", "Stopped by SIGKILL when its time was over.", 16_384, |f| {
        f.status = Status::TimedOut;
        f.exit = Exit::Signal(9);
        f.note = "ignored SIGTERM";
    });
    ended("finished-cancelled", "Cancelled before it started.", u64::from(u32::MAX), |f| {
        f.status = Status::Cancelled;
        f.exit = Exit::None;
    });
    ended("finished-skipped", "A scheduled run, not run because its job was still busy.", 3, |f| {
        f.cause = Cause::Entry { entry: "night", due: NOW };
        f.run = RunId::scheduled(NOW, &name("gw-017"), &name("night"));
        f.status = Status::Skipped;
        f.exit = Exit::None;
        f.chunks = 0;
        f.bytes = 0;
        f.crc32c = 0;
    });
    ended("finished-rejected", "A scheduled run that the configuration does not allow.", 4, |f| {
        f.cause = Cause::Entry { entry: "night", due: NOW };
        f.run = RunId::scheduled(NOW, &name("gw-017"), &name("night"));
        f.status = Status::Rejected;
        f.exit = Exit::None;
        f.note = "no such job: read-meter";
    });
    ended(
        "finished-lost",
        "The agent was restarted while it ran; in which boot it started is not known.",
        5,
        |f| {
            f.status = Status::Lost;
            f.exit = Exit::None;
            f.boot = BootId::UNKNOWN;
            f.clock = Clock::Untrusted;
        },
    );
    ended(
        "finished-full",
        "Every field at its bound: 4 KiB of standard error, a note of 256 B, negative exit code, both flags set.",
        6,
        |f| {
            f.run = RunId([0xff; 16]);
            f.attempt = Attempt(u32::MAX);
            f.job = longest_name(0);
            f.cause = Cause::Entry { entry: longest_name(1), due: UnixMillis(u64::MAX) };
            f.status = Status::Failed;
            f.exit = Exit::Code(i32::MIN);
            f.started = UnixMillis(u64::MAX);
            f.boot = BootId(u32::MAX);
            f.started_boot_ms = u64::MAX;
            f.duration_us = u64::MAX;
            f.chunks = u32::MAX;
            f.bytes = u64::MAX;
            f.crc32c = u32::MAX;
            f.stderr = vec![0x65; limits::STDERR_TAIL].leak();
            f.note = text('n', limits::TEXT);
            f.peak_rss_kib = u64::MAX;
            f.cpu_us = u64::MAX;
            f.truncated = true;
            f.output_dropped = true;
        },
    );
    v.report(
        "missed",
        "Three due times of entry `night` were not run.",
        tag(7),
        Report::Missed(Missed {
            entry: "night",
            from: NOW,
            to: NOW.plus_ms(2 * 86_400_000),
            count: 3,
        }),
    );
}

/// A body that a decoder refuses, and how.
#[derive(Serialize)]
struct Invalid {
    name: &'static str,
    meaning: &'static str,
    /// Whether it is read as a command or as a report.
    read_as: &'static str,
    hex: String,
    error: &'static str,
    /// What the error is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    /// Whether the header still says what to ack.
    tag_readable: bool,
}

const ID: &str = "00112233445566778899aabbccddeeff";

fn trigger(job: &str, args: &str, origin: &str) -> String {
    format!("010000{ID}01{job}{args}00{origin}")
}

fn query(length: &str, ids: usize) -> String {
    format!("010002{length}{}", ID.repeat(ids))
}

/// A schedule of one entry.
fn interval(when: &str) -> String {
    format!("01000301010b0178017800{when}00000000")
}

fn hello(partial: &str) -> String {
    format!("010000{ID}0178000000{partial}000000")
}

fn reason(reason: &str) -> String {
    format!("010002{ID}0101{reason}00")
}

fn ack(first: &str, last: &str) -> String {
    format!("010004{ID}02{first}{last}")
}

/// Without its fault each of the bodies below would be right: they fail for their own reason.
#[test]
fn the_hand_written_bodies_are_right_but_for_their_fault() {
    for right in [
        trigger("0178", "00", "00"),
        trigger("0178", "0401780179", "00"),
        query("10", 1),
        interval("0101"),
        ack("01", "02"),
    ] {
        Command::decode(&unhex(&right)).unwrap_or_else(|error| panic!("{right}: {error}"));
    }
    for right in [hello("01"), reason("04")] {
        Report::decode(&unhex(&right)).unwrap_or_else(|error| panic!("{right}: {error}"));
    }
}

fn invalid() -> Vec<Invalid> {
    let id = ID;
    let tagged = "0101d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d001";
    let x = "0178"; // the text "x"
    vec![
        bad("empty", "No byte at all.", "command", String::new()),
        bad("header-cut", "A version and no flags.", "report", "01".into()),
        bad("version-0", "A version that never was.", "command", "000006".into()),
        bad(
            "version-2",
            "A version of the future, checked before anything else.",
            "report",
            "02ff".into(),
        ),
        bad("flags-unknown", "Flag bit 1 is not known.", "report", "010203".into()),
        bad(
            "command-reliable",
            "A command with the reliable bit; the flags are the error.",
            "command",
            format!("{tagged}03"),
        ),
        bad("tag-cut", "The outbox id ends after 3 bytes.", "report", "0101d0d0d0".into()),
        bad(
            "tag-without-seq",
            "The outbox id is whole, the seq missing.",
            "report",
            "0101d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0".into(),
        ),
        bad(
            "seq-too-long",
            "A seq of more than 64 bits: the tenth varint byte may be 1 at the most.",
            "report",
            "0101d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0ffffffffffffffffff02".into(),
        ),
        bad("no-message", "A header and nothing else.", "command", "0100".into()),
        bad(
            "command-unknown",
            "Command number 7 does not exist in this version.",
            "command",
            "010007".into(),
        ),
        bad(
            "report-unknown",
            "Report number 6, reliable: acked by its tag and stored as it is.",
            "report",
            format!("{tagged}06"),
        ),
        bad("trailing", "A beacon, and a byte after it.", "command", format!("010006{id}{id}0000")),
        bad("cut", "A beacon without its time.", "command", format!("010006{id}{id}")),
        bad(
            "job-empty",
            "A name has at least one character.",
            "command",
            trigger("00", "00", "00"),
        ),
        bad(
            "job-capital",
            "`X` is not a character of a name.",
            "command",
            trigger("0158", "00", "00"),
        ),
        bad(
            "job-64",
            "A name has 63 bytes at the most.",
            "command",
            trigger(&format!("40{}", "61".repeat(64)), "00", "00"),
        ),
        bad("job-not-utf8", "A text must be UTF-8.", "command", trigger("01ff", "00", "00")),
        bad(
            "origin-129",
            "An origin has 128 bytes at the most.",
            "command",
            trigger(x, "00", &format!("8101{}", "6f".repeat(129))),
        ),
        bad(
            "args-9",
            "Nine arguments.",
            "command",
            trigger(x, &format!("24{}", "01780179".repeat(9)), "00"),
        ),
        bad(
            "arg-value-257",
            "A value has 256 bytes at the most.",
            "command",
            trigger(x, &format!("850201788102{}", "76".repeat(257)), "00"),
        ),
        bad(
            "args-cut",
            "The list ends within an argument's value.",
            "command",
            trigger(x, "0401780279", "00"),
        ),
        bad(
            "list-too-long",
            "The list says 127 bytes, the body has fewer.",
            "command",
            trigger(x, "7f0178", "00"),
        ),
        bad("query-65", "65 runs.", "command", query("9008", 65)),
        bad(
            "query-cut",
            "A list of 17 bytes is one run and a piece.",
            "command",
            format!("01000211{id}00"),
        ),
        bad("ack-backwards", "A range that ends before it starts.", "command", ack("03", "02")),
        bad(
            "interval-0",
            "An interval of 0 ms would be due for ever.",
            "command",
            interval("0100"),
        ),
        bad("when-unknown", "`When` has two variants.", "command", interval("0205")),
        bad("reason-unknown", "`Reason` has five variants.", "report", reason("05")),
        bad("bool-2", "A bool is 0 or 1: `partial` is 2.", "report", hello("02")),
        bad(
            "status-unknown",
            "`Status` has eight variants; the tag says what to ack.",
            "report",
            format!("{tagged}04{id}0101780008"),
        ),
        bad(
            "chunk-16385",
            "A chunk has 16 KiB at the most; the tag says what to ack.",
            "report",
            format!("{tagged}03{id}0100818001{}", "00".repeat(16_385)),
        ),
        bad(
            "attempt-too-large",
            "An attempt of more than 32 bits.",
            "command",
            format!("010001{id}ffffffff1f00"),
        ),
    ]
}

fn bad(name: &'static str, meaning: &'static str, read_as: &'static str, hex: String) -> Invalid {
    let body = unhex(&hex);
    let error = match read_as {
        "command" => Command::decode(&body).map(|c| format!("{c:?}")),
        _ => Report::decode(&body).map(|r| format!("{r:?}")),
    }
    .expect_err(name);
    let (error, what) = match error {
        Error::Truncated => ("truncated", None),
        Error::Version(v) => ("version", Some(v.to_string())),
        Error::Flags(f) => ("flags", Some(f.to_string())),
        Error::Malformed => ("malformed", None),
        Error::Bound(what) => ("bound", Some(what.to_owned())),
        Error::Room => panic!("{name}: only encoders run out of room"),
    };
    let tag_readable = matches!(peek_tag(&body), Ok(Some(_)));
    Invalid { name, meaning, read_as, hex, error, what, tag_readable }
}

#[test]
fn every_command_has_its_golden_bytes() {
    golden("commands.json", &commands().0);
}

#[test]
fn every_report_has_its_golden_bytes() {
    golden("reports.json", &reports().0);
}

#[test]
fn every_invalid_body_has_its_error() {
    golden("invalid.json", &invalid());
}

#[test]
fn a_body_over_60_kib_is_refused_whatever_it_holds() {
    let mut body = vec![0; limits::BODY + 1];
    body[0] = 1;
    assert_eq!(Command::decode(&body), Err(Error::Bound("body")));
    assert_eq!(Report::decode(&body), Err(Error::Bound("body")));
}

/// Every variant of every enum stands in some vector, by its name in JSON.
#[test]
fn no_variant_is_without_a_vector() {
    let all = format!(
        "{}{}",
        serde_json::to_string(&commands().0).unwrap(),
        serde_json::to_string(&reports().0).unwrap()
    );
    for variant in [
        "trigger",
        "cancel",
        "query",
        "schedule",
        "ack",
        "welcome",
        "beacon",
        "hello",
        "heartbeat",
        "state",
        "output",
        "finished",
        "missed",
        "cron",
        "every_ms",
        "skip",
        "once",
        "all",
        "queue",
        "accepted",
        "rejected",
        "running",
        "coming",
        "unknown",
        "cancelled",
        "unknown_job",
        "bad_argument",
        "busy",
        "expired",
        "stopping",
        "entry",
        "ok",
        "failed",
        "signalled",
        "timed_out",
        "skipped",
        "lost",
        "none",
        "code",
        "signal",
        "trusted",
        "untrusted",
    ] {
        assert!(all.contains(&format!("\"{variant}\"")), "{variant}");
    }
}

/// The byte-by-byte examples of the specification are the vectors' bytes.
#[test]
fn the_specification_shows_the_vectors_bytes() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let all: Vec<_> = commands().0.into_iter().chain(reports().0).collect();
    for name in ["trigger", "finished-ok"] {
        let block = readme.split(&format!("```text {name}\n")).nth(1).unwrap();
        let shown: String = block
            .lines()
            .take_while(|line| *line != "```")
            .map(|line| line.split("  ").next().unwrap().replace(' ', ""))
            .collect();
        assert_eq!(shown, all.iter().find(|v| v.name == name).unwrap().hex, "{name}");
    }
}

/// Compares with the file, or writes it.
fn golden<T: Serialize>(file: &str, vectors: &[T]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file);
    let fresh = readable(vectors);
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        fs::write(&path, fresh).unwrap();
        return;
    }
    let held: Vec<Value> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (fresh, held) in vectors.iter().zip(&held) {
        let fresh = serde_json::to_value(fresh).unwrap();
        assert_eq!(&fresh, held, "{file}: the wire changed; see the head of this test");
    }
    assert_eq!(vectors.len(), held.len(), "{file}");
}

/// A JSON array with one field a line: as short as a file for people and programs can be.
fn readable<T: Serialize>(vectors: &[T]) -> String {
    let mut out = String::from("[\n");
    for (i, vector) in vectors.iter().enumerate() {
        let Value::Object(fields) = serde_json::to_value(vector).unwrap() else { panic!() };
        let order =
            ["name", "meaning", "read_as", "tag", "hex", "value", "error", "what", "tag_readable"];
        let lines: Vec<_> = order
            .iter()
            .filter_map(|key| fields.get(*key).map(|value| format!("  {}: {value}", json!(key))))
            .collect();
        assert_eq!(lines.len(), fields.len());
        let comma = if i + 1 < vectors.len() { "," } else { "" };
        write!(out, "{{\n{}\n}}{comma}\n", lines.join(",\n")).unwrap();
    }
    out + "]\n"
}

/// Byte strings as hex, as the bodies are: serde would give arrays of numbers.
fn bytes_as_hex(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| match value {
                Value::Array(bytes) if matches!(key.as_str(), "bytes" | "stderr") => {
                    let bytes: Vec<u8> =
                        bytes.iter().map(|b| b.as_u64().unwrap().try_into().unwrap()).collect();
                    (key, Value::String(hex(&bytes)))
                }
                other => (key, bytes_as_hex(other)),
            })
            .collect(),
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}
