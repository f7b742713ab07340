//! From a submit to its result, on one core, each sample beside one of its floor.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::child::Process;
use crate::figures::{Figure, Series, Target, median};
use crate::hops::Hops;
use crate::machine::Pinned;
use crate::rig::{Agent, Client, Hub, Place};
use crate::store::Commits;
use crate::{Bench, Outcome};

const ROW: &str = "latency";
const NODE: &str = "bench";

/// One run's samples.
#[derive(Default)]
struct Samples {
    hops: Series,
    live: Series,
    later_hops: Series,
    later_live: Series,
    stored: Series,
    commits: Series,
    program: Series,
    spawn: Series,
}

pub fn run(bench: &Bench) -> Outcome<()> {
    let _pinned = Pinned::to_one_core()?;
    let place = Place::make(&bench.dir)?;
    let mut hops = Hops::start(&bench.ports)?;
    let commits = Commits::open(&place.path().join("floor.sqlite"))?;
    let mut real = match Real::start(bench, &place) {
        Ok(real) => Some(real),
        Err(error) => {
            bench.table.note(ROW, &format!("only the floor: {error}"));
            None
        }
    };
    let (runs, count) = bench.depth.pick((3, 100), (5, 250), (7, 500));
    let mut all = Vec::new();
    for _ in 0..runs {
        let mut samples = Samples::default();
        // A core that falls asleep between two hops would make these bimodal. What waits for the
        // disk or for a program is measured without: somebody who keeps the core busy, at
        // whatever low priority, gets a whole tick of it before the hub's store goes on.
        let awake = Process::role::<&str>("awake", [])?;
        for _ in 0..10 {
            rounds(&mut hops, real.as_mut(), count / 2, &mut samples)?;
        }
        drop(awake);
        for i in 0..count {
            take(&mut hops, &commits, real.as_mut(), i % 2 == 0)?.into_series(&mut samples);
        }
        all.push(samples);
    }
    if let Some(real) = real {
        real.agent.stop();
        real.hub.stop();
    }
    show(bench, &all);
    Ok(())
}

/// A stretch of the floor, and a stretch of the real thing: one round after the other.
fn rounds(
    hops: &mut Hops,
    real: Option<&mut Real>,
    count: usize,
    samples: &mut Samples,
) -> Outcome<()> {
    const WARM_UP: usize = 10;
    for i in 0..WARM_UP + count {
        let us = hops.round()?;
        if i >= WARM_UP {
            samples.hops.push(us);
        }
    }
    let Some(real) = real else { return Ok(()) };
    for i in 0..WARM_UP + count {
        let us = real.client.trigger_live("ping", NODE)?;
        if i >= WARM_UP {
            samples.live.push(us);
        }
    }
    // The store comes to rest.
    real.client.trigger("ping", NODE).map(drop)
}

/// One sample of everything, in microseconds.
struct Sample {
    hop: f64,
    commits: f64,
    real: Option<[f64; 4]>,
}

impl Sample {
    fn into_series(self, samples: &mut Samples) {
        samples.later_hops.push(self.hop);
        samples.commits.push(self.commits);
        if let Some([live, stored, program, spawn]) = self.real {
            samples.later_live.push(live);
            samples.stored.push(stored);
            samples.program.push(program);
            samples.spawn.push(spawn);
        }
    }
}

/// The floor and the real thing alternate in who comes first, since whoever comes first finds the
/// caches colder.
fn take(
    hops: &mut Hops,
    commits: &Commits,
    real: Option<&mut Real>,
    floor_first: bool,
) -> Outcome<Sample> {
    let Some(real) = real else {
        let commits = commits.two()?;
        return Ok(Sample { hop: hops.round()?, commits, real: None });
    };
    let ((live, stored), hop);
    if floor_first {
        hop = hops.round()?;
        (live, stored) = real.client.trigger("ping", NODE)?;
    } else {
        (live, stored) = real.client.trigger("ping", NODE)?;
        hop = hops.round()?;
    }
    let commits = commits.two()?;
    let (program, _) = real.client.trigger("true", NODE)?;
    let spawn = spawn_and_wait()?;
    Ok(Sample { hop, commits, real: Some([live, stored, program, spawn]) })
}

fn spawn_and_wait() -> Outcome<f64> {
    let begin = Instant::now();
    Command::new("/bin/true").env_clear().stdin(Stdio::null()).spawn()?.wait()?;
    Ok(begin.elapsed().as_secs_f64() * 1e6)
}

struct Real {
    client: Client,
    agent: Agent,
    hub: Hub,
}

impl Real {
    fn start(bench: &Bench, place: &Place) -> Outcome<Self> {
        let hub = Hub::start(&bench.programs, place, &bench.ports)?;
        let key = Agent::prepare(&hub, place, NODE)?;
        hub.import(&[(NODE.to_owned(), key)])?;
        let agent = Agent::start(&bench.programs, place)?;
        let mut client = hub.client_with(&["job/ping/", "job/true/"])?;
        agent.welcomed()?;
        client.trigger("ping", NODE)?;
        Ok(Self { client, agent, hub })
    }
}

fn show(bench: &Bench, all: &[Samples]) {
    let of = |figure: fn(&Samples) -> f64| median(all.iter().map(figure));
    let table = &bench.table;
    let hops = (of(|s| s.hops.p50()), of(|s| s.hops.p99()));
    let later_hops = of(|s| s.later_hops.p50());
    let commits = of(|s| s.commits.p50());
    if all.iter().any(|samples| samples.live.is_empty()) {
        table.add(ROW, &Figure::new("four raw hops, p50", hops.0, "µs", Target::None));
        table.add(ROW, &Figure::new("four raw hops, p99", hops.1, "µs", Target::None));
        table.add(ROW, &Figure::new("the same after a pause, p50", later_hops, "µs", Target::None));
        table.add(ROW, &Figure::new("two commits, p50", commits, "µs", Target::None));
        return;
    }
    let ratio = |what, value, floor, most| {
        table.add(ROW, &Figure::ratio(what, value, "µs", floor, Target::AtMost(most)));
    };
    ratio("submit → live result, p50", of(|s| s.live.p50()), hops.0, 1.15);
    ratio("submit → live result, p99", of(|s| s.live.p99()), hops.1, 1.3);
    let later = of(|s| s.later_live.p50());
    let figure = Figure::new("the same after a pause, p50", later, "µs", Target::None);
    table.add(ROW, &figure.beside(later_hops));
    let stored = of(|s| s.stored.p50());
    ratio("submit → stored result, p50", stored, later_hops + commits, 1.3);
    let (program, spawn) = (of(|s| s.program.p50()), of(|s| s.spawn.p50()));
    ratio("submit → live result of /bin/true, p50", program, later + spawn, 1.2);
    table.note(
        ROW,
        &format!(
            "all on one core, which is kept awake for the first two; two commits alone {commits:.0} µs, /bin/true spawned and waited for \
             alone {spawn:.0} µs"
        ),
    );
}
