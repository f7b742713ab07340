//! Many nodes: how many results a second, and how long until a whole fleet has answered.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::figures::{Figure, Series, Target, median, number};
use crate::fleet::{Fleet, Load};
use crate::rig::{Hub, Place, run_id};
use crate::{Bench, Depth, Outcome, fan, hops, machine, store};

/// A result on the wire, in bytes.
const BYTES: usize = 256;
/// Unacked results of a node; it sends when half of them are acked.
const WINDOW: u64 = 64;
/// Rows that a store is to hold for the second round.
const MANY: u64 = 5_000_000;

/// A while of load: results a second, and the hub's CPU for one.
struct Measured {
    rate: f64,
    cpu: f64,
    load: Load,
}

pub fn reports(bench: &Bench) -> Outcome<()> {
    const ROW: &str = "ingest";
    let (runs, seconds) = bench.depth.pick((3, 2), (5, 4), (7, 5));
    let each = Duration::from_secs(seconds);
    let raw: Vec<(f64, f64)> =
        (0..runs).map(|_| hops::stream(&bench.ports, BYTES, 1_000_000)).collect::<Outcome<_>>()?;
    let raw = (median(raw.iter().map(|r| r.0)), median(raw.iter().map(|r| r.1)));
    let place = Place::make(&bench.dir)?;
    let hub = match Hub::start(&bench.programs, &place, &bench.ports) {
        Ok(hub) => hub,
        Err(error) => {
            let table = &bench.table;
            table.add(ROW, &Figure::new("raw PUSH → PULL", raw.0, "/s", Target::None));
            table.add(ROW, &Figure::new("raw PULL, CPU", raw.1, "µs", Target::None));
            return Err(error);
        }
    };
    let mut fleet = Fleet::join(&hub, "load", bench.nodes)?;
    let mut stored = fleet.flood(u64::MAX, each, WINDOW, BYTES)?.acked;
    let before = commits(&hub)?;
    let mut first = Vec::new();
    let begun = stored;
    let (hub_before, own_before) =
        (machine::cpu_by_thread(hub.pid()), machine::cpu_us(std::process::id()));
    for _ in 0..runs {
        first.push(while_loaded(&hub, &mut fleet, each)?);
    }
    let own = machine::cpu_us(std::process::id()) - own_before;
    let mut hub_threads = machine::cpu_by_thread(hub.pid());
    for (name, us) in &mut hub_threads {
        *us -= hub_before.get(name).copied().unwrap_or(0.0);
    }
    stored += first.iter().map(|m| m.load.acked).sum::<u64>();
    let batch = (stored - begun) as f64 / (commits(&hub)? - before).max(1.0);
    let rate = median(first.iter().map(|m| m.rate));
    let mut later = Vec::new();
    let missing = MANY.saturating_sub(stored);
    let takes = missing as f64 / rate;
    let is_short = takes < 120.0 && bench.depth == Depth::Usual;
    if is_short || bench.depth == Depth::Full {
        fleet.flood(missing, Duration::MAX, WINDOW, BYTES)?;
        for _ in 0..runs {
            later.push(while_loaded(&hub, &mut fleet, each)?);
        }
    }
    fleet.settle()?;
    drop(fleet);
    let memory = machine::memory(hub.pid());
    hub.stop();
    let file = place.path().join("hub/hub.sqlite");
    let beside = place.path().join("floor.sqlite");
    let bare = store::inserts(&file, &beside, 400_000, batch as usize)?;

    let cpu = median(first.iter().map(|m| m.cpu));
    let table = &bench.table;
    let floor = raw.0.min(bare.0);
    table.add(
        ROW,
        &Figure::new(
            format!("results of {} nodes, stored and acked", number(bench.nodes as f64)),
            rate,
            "/s",
            Target::AtLeast(250_000.0),
        )
        .beside(floor),
    );
    table.add(
        ROW,
        &Figure::new("hub CPU for one", cpu, "µs", Target::AtMost(3.0)).beside(raw.1 + bare.1),
    );
    table.note(
        ROW,
        &format!(
            "raw PUSH → PULL {} /s at {:.2} µs; bare inserts {} /s at {:.2} µs, {} rows a commit",
            number(raw.0),
            raw.1,
            number(bare.0),
            bare.1,
            number(batch.round()),
        ),
    );
    let fresh = (stored - begun) as f64;
    let parts: Vec<String> = hub_threads
        .iter()
        .filter(|(_, us)| **us / fresh > 0.01)
        .map(|(name, us)| format!("{name} {:.2}", us / fresh))
        .collect();
    table.note(
        ROW,
        &format!(
            "the hub's threads: {} µs; whoever plays the nodes {:.2} µs, on the same cores",
            parts.join(", "),
            own / fresh
        ),
    );
    let acks = first.iter().map(|m| m.load.acks).sum::<u64>() as f64;
    let acked = first.iter().map(|m| m.load.acked).sum::<u64>() as f64;
    table.note(
        ROW,
        &format!(
            "{:.1} results an ack; hub's memory at the end {} MB",
            acked / acks.max(1.0),
            number(memory.rss / 1_000.0)
        ),
    );
    if later.is_empty() {
        table.note(ROW, &format!("5 M results would take {takes:.0} s: --full waits for them"));
    } else {
        let late = median(later.iter().map(|m| m.rate));
        let what = "the same with 5 M results in the store";
        table.add(ROW, &Figure::ratio(what, late, "/s", rate, Target::AtLeast(0.9)));
        let late = median(later.iter().map(|m| m.cpu));
        table.add(ROW, &Figure::new("hub CPU for one", late, "µs", Target::None).beside(cpu));
    }
    Ok(())
}

fn while_loaded(hub: &Hub, fleet: &mut Fleet, most: Duration) -> Outcome<Measured> {
    let cpu = machine::cpu_us(hub.pid());
    let load = fleet.flood(u64::MAX, most, WINDOW, BYTES)?;
    let acked = load.acked as f64;
    let cpu = (machine::cpu_us(hub.pid()) - cpu) / acked;
    Ok(Measured { rate: acked / load.seconds, cpu, load })
}

/// Transactions that the hub's store has made.
fn commits(hub: &Hub) -> Outcome<f64> {
    let status = hub.client()?.call("status", json!({}))?;
    let found = find(&status, "commits").ok_or("the hub's status names no commits")?;
    Ok(found)
}

fn find(value: &serde_json::Value, name: &str) -> Option<f64> {
    let fields = value.as_object()?;
    fields
        .get(name)
        .and_then(serde_json::Value::as_f64)
        .or_else(|| fields.values().find_map(|inner| find(inner, name)))
}

pub fn fan_out(bench: &Bench) -> Outcome<()> {
    const ROW: &str = "fanout";
    const AGENTS: usize = 1_000;
    let runs = bench.depth.pick(10, 30, 60);
    let raw = fan::out(&bench.ports, AGENTS, runs)?;
    let place = Place::make(&bench.dir)?;
    let hub = Hub::start(&bench.programs, &place, &bench.ports)?;
    let mut fleet = Fleet::join(&hub, "fan", AGENTS)?;
    let mut client = hub.client()?;
    let (mut times, mut cpus) = (Series::default(), Series::default());
    for i in 0..runs + 3 {
        let run = run_id().to_string();
        let cpu = machine::cpu_us(hub.pid());
        let begin = Instant::now();
        let submit = json!({
            "run_id": run, "job": "ping", "select": { "all": true }, "ttl_ms": 60_000,
        });
        client.send("submit", submit)?;
        let fields = json!({ "run_id": run, "wait_ms": 20_000, "until": "final" });
        let asked = client.send("runs", fields)?;
        fleet.serve(AGENTS)?;
        client.reply(asked)?;
        let ended = begin.elapsed();
        if i >= 3 {
            times.push(ended.as_secs_f64() * 1e3);
            cpus.push((machine::cpu_us(hub.pid()) - cpu) / AGENTS as f64);
        }
    }
    hub.stop();
    let table = &bench.table;
    let what = "one trigger to 1,000 nodes, all results stored, p50";
    table.add(ROW, &Figure::new(what, times.p50(), "ms", Target::AtMost(30.0)).beside(raw.0));
    table.add(ROW, &Figure::new("the same, p99", times.p99(), "ms", Target::None));
    let cpu = Figure::new("hub CPU for a node", cpus.p50(), "µs", Target::AtMost(25.0));
    table.add(ROW, &cpu.beside(raw.1));
    let what = "the floor: raw XPUB → SUB, PUSH → PULL and XPUB → SUB, nothing decoded or stored";
    table.note(ROW, what);
    Ok(())
}
