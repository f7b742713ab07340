//! How small an agent is: its memory, its binary, what it does when there is nothing to do.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fieldpost_sockets::KeyPair;
use serde_json::json;

use crate::child::Process;
use crate::figures::{Figure, Series, Target, median};
use crate::machine::{self, Memory};
use crate::rig::{Agent, Hub, Place, run_id};
use crate::{Bench, Outcome};

const NODE: &str = "bench";

/// A hub, and an agent that was welcomed.
fn pair(bench: &Bench, place: &Place) -> Outcome<(Hub, Agent)> {
    let hub = Hub::start(&bench.programs, place, &bench.ports)?;
    let key = Agent::prepare(&hub, place, NODE)?;
    hub.import(&[(NODE.to_owned(), key)])?;
    let agent = Agent::start(&bench.programs, place)?;
    agent.welcomed()?;
    Ok((hub, agent))
}

pub fn at_rest(bench: &Bench) -> Outcome<()> {
    const ROW: &str = "rest";
    let place = Place::make(&bench.dir)?;
    let (hub, agent) = pair(bench, &place)?;
    let skeleton = skeleton(&bench.programs.skeleton, &hub)?;
    // It has run each kind of job before: that is how an agent is found.
    let mut client = hub.client_with(&["job/ping/", "job/true/", "job/vitals/"])?;
    for job in ["ping", "true", "vitals"] {
        client.trigger(job, NODE)?;
    }
    drop(client);
    std::thread::sleep(Duration::from_secs(5));
    let pid = agent.pid();
    let (sleeps, cpu, begin) = (machine::sleeps(pid), machine::cpu_us(pid), Instant::now());
    std::thread::sleep(Duration::from_secs(bench.depth.pick(10, 65, 600)));
    let seconds = begin.elapsed().as_secs_f64();
    let sleeps = (machine::sleeps(pid) - sleeps) as f64 / seconds;
    let cpu = (machine::cpu_us(pid) - cpu) / seconds / 1e4;
    let threads = machine::threads(pid).len() as f64;
    let (mine, bare) = (machine::memory(pid), machine::memory(skeleton.pid()));
    let is_static = machine::is_static(&bench.programs.agent);
    let alike = is_static == machine::is_static(&bench.programs.skeleton);
    agent.stop();
    skeleton.stop();
    hub.stop();

    let table = &bench.table;
    let kb = |what: &str, value, floor, target| {
        let figure = Figure::new(what, value, "KB", target);
        table.add(ROW, &if alike { figure.beside(floor) } else { figure });
    };
    let Memory { rss, pss, anonymous } = mine;
    let beyond = |static_most: f64, bare: f64| match (is_static, alike) {
        (true, _) => Target::AtMost(static_most),
        (false, true) => Target::AtMost(bare + 400.0),
        (false, false) => Target::None,
    };
    kb("agent at rest, RSS", rss, bare.rss, beyond(2_000.0, bare.rss));
    kb("agent at rest, PSS", pss, bare.pss, Target::None);
    kb("agent at rest, anonymous", anonymous, bare.anonymous, beyond(400.0, bare.anonymous));
    table.add(ROW, &Figure::new("threads", threads, "", Target::Exactly(3.0)));
    table.add(ROW, &Figure::new("wake-ups a second", sleeps, "", Target::AtMost(1.0)));
    table.add(ROW, &Figure::new("CPU of a core", cpu, "%", Target::AtMost(0.02)));
    let mode = if is_static { "static" } else { "dynamic" };
    table.note(
        ROW,
        &format!("{mode}; beside the skeleton: libzmq, two CURVE sockets, nothing else"),
    );
    Ok(())
}

fn skeleton(program: &Path, hub: &Hub) -> Outcome<Process> {
    let keys = KeyPair::generate();
    hub.import(&[("skeleton".to_owned(), keys.public)])?;
    let mut command = Command::new(program);
    command.args([&hub.triggers, &hub.results, &hub.public.to_string(), &keys.secret.reveal()]);
    Ok(Process::start(command.stdout(Stdio::null()))?)
}

pub fn under_load(bench: &Bench) -> Outcome<()> {
    const ROW: &str = "load";
    let place = Place::make(&bench.dir)?;
    let (hub, agent) = pair(bench, &place)?;
    let mut client = hub.client()?;
    let rest = machine::memory(agent.pid()).anonymous;
    let (warm, whole) = bench.depth.pick((5, 15), (20, 60), (60, 600));
    let (mut early, mut late, mut last) = (Series::default(), Series::default(), Series::default());
    let (begin, mut runs, mut sampled) = (Instant::now(), 0_u32, Instant::now());
    let mut under_way = std::collections::VecDeque::new();
    while begin.elapsed() < Duration::from_secs(whole) {
        // Built-in runs as fast as the hub takes them, and megabytes of output beside them.
        let job = if runs.is_multiple_of(50) { "megabyte" } else { "ping" };
        let fields = json!({
            "run_id": run_id().to_string(), "job": job, "select": { "nodes": [NODE] },
            "ttl_ms": 60_000,
        });
        under_way.push_back(client.send("submit", fields)?);
        runs += 1;
        if under_way.len() > 16
            && let Some(id) = under_way.pop_front()
        {
            client.reply(id)?;
        }
        if sampled.elapsed() > Duration::from_millis(200) {
            sampled = Instant::now();
            let anonymous = machine::memory(agent.pid()).anonymous;
            let at = begin.elapsed().as_secs();
            if at < warm {
                early.push(anonymous)
            } else {
                late.push(anonymous)
            }
            if at >= whole - warm {
                last.push(anonymous);
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    agent.stop();
    hub.stop();
    let table = &bench.table;
    let (early, late, last) = (early.quantile(1.0), late.quantile(1.0), last.p50());
    table.add(
        ROW,
        &Figure::new(
            format!("agent under load, anonymous, most in {warm} s"),
            early,
            "KB",
            Target::None,
        )
        .beside(rest),
    );
    // Does it grow? A peak does not say so: what libzmq queues while the other end is held up
    // goes back.
    let what = format!("the same, median of the last {warm} s of {whole}");
    table.add(ROW, &Figure::ratio(what, last, "KB", early, Target::AtMost(1.02)));
    let what = format!("the same, most after the first {warm} s");
    table.add(ROW, &Figure::new(what, late, "KB", Target::None).beside(early));
    table.note(
        ROW,
        &format!(
            "{:.0} runs a second, each 50th with a megabyte of output",
            f64::from(runs) / seconds
        ),
    );
    Ok(())
}

pub fn size(bench: &Bench) -> Outcome<()> {
    let program = &bench.programs.agent;
    let bytes = std::fs::metadata(program)?.len() as f64 / 1e6;
    let (what, most) = match machine::is_static(program) {
        true => ("agent's binary, static", 2.2),
        false => ("agent's binary, dynamic", 1.5),
    };
    bench.table.add("size", &Figure::new(what, bytes, "MB", Target::AtMost(most)));
    Ok(())
}

pub fn start(bench: &Bench) -> Outcome<()> {
    let place = Place::make(&bench.dir)?;
    let hub = Hub::start(&bench.programs, &place, &bench.ports)?;
    let key = Agent::prepare(&hub, &place, NODE)?;
    hub.import(&[(NODE.to_owned(), key)])?;
    let mut times = Vec::new();
    for _ in 0..bench.depth.pick(5, 11, 21) {
        let begin = Instant::now();
        let agent = Agent::start(&bench.programs, &place)?;
        agent.welcomed()?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        agent.stop();
    }
    hub.stop();
    let what = "exec → Welcome received, p50";
    bench.table.add("start", &Figure::new(what, median(times), "ms", Target::AtMost(50.0)));
    Ok(())
}
