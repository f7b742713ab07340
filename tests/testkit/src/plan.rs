//! What a seed plans: the fleet, what is asked of it, and what fails when.

use fastrand::Rng;

use fieldpost_agent::spool::Durability;

use crate::world::{SECOND, Time};

/// One history to be played.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of everything that this plan leaves open.
    pub seed: u64,
    /// How many hubs, each with a store of its own.
    pub hubs: usize,
    /// The nodes: for each its hubs, in order of preference.
    pub nodes: Vec<Vec<usize>>,
    /// The card of this node is copied then, and a second device starts with the copy.
    pub clone: Option<(usize, Time)>,
    /// When what is asked of the fleet.
    pub wishes: Vec<(Time, Wish)>,
    /// What fails when.
    pub faults: Vec<(Time, Fault)>,
    /// One in so many commands is lost, as by a full queue at the hub; 0: none.
    pub lose_one_in: u32,
    /// One in so many reports comes twice, the second time late; 0: none.
    pub repeat_one_in: u32,
    /// How much later, at most.
    pub latest_repeat: Time,
    /// The longest a message takes.
    pub delay: Time,
    /// Reports under way on one connection, until the socket takes no more.
    pub room: u32,
    /// The longest a commit takes.
    pub commit: Time,
    /// What a power cut may take.
    pub durability: Durability,
    /// Nothing fails after this; the world comes to rest.
    pub calm: Time,
    /// Faults planted in the agents.
    #[cfg(feature = "planted-bugs")]
    pub agent_bugs: fieldpost_agent::agent::Bugs,
    /// Faults planted in the hub.
    #[cfg(feature = "planted-bugs")]
    pub hub_bugs: fieldpost_hub::hub::Bugs,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A run on one node, or on all.
    Trigger {
        /// Which hub is asked.
        hub: usize,
        /// Which job of [`crate::node::JOBS`].
        job: usize,
        /// Which node; none: all of the hub's.
        node: Option<usize>,
        /// How long nodes may take to start it.
        ttl: Time,
    },
    /// An end to the run that was asked for `back` wishes ago.
    Cancel {
        /// How many wishes ago.
        back: usize,
    },
    /// Every node runs a job every so often.
    Schedule {
        /// Which job.
        job: usize,
        /// How often.
        every: Time,
    },
    /// No schedule any more.
    NoSchedule,
}

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A hub is killed, and started again after this time.
    KillHub(usize, Time),
    /// An agent is killed with its programs, and started again after this time.
    KillAgent(usize, Time),
    /// A node's link passes nothing for this time; connections die.
    Cut(usize, Time),
    /// A node's connection breaks, and is made again by itself.
    Break(usize),
    /// A node's power is cut, and comes back after this time.
    CutPower(usize, Time),
    /// A node's disk is full for this time.
    FillDisk(usize, Time),
    /// A node's wall clock is set by so many seconds.
    SetClock(usize, i64),
    /// The wall clock of the only hub is set by so many seconds.
    SetHubClock(i64),
    /// A node does not reach one of its hubs for this time.
    Divide(usize, usize, Time),
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x5eed_0f1e_1d00);
        let nodes = rng.usize(1..4);
        let busy = rng.u64(60..400) * SECOND;
        let mut wishes = Vec::new();
        for _ in 0..rng.usize(1..10) {
            wishes.push((rng.u64(0..busy), wish(&mut rng, nodes)));
        }
        let mut faults = Vec::new();
        for _ in 0..rng.usize(0..8) {
            faults.push((rng.u64(0..busy), fault(&mut rng, nodes)));
        }
        // Of its own seed, so that what else happens is what it was without it.
        let mut clock = Rng::with_seed(seed ^ 0xc10c);
        if clock.u32(0..4) == 0 {
            faults.push((clock.u64(0..busy), Fault::SetHubClock(clock.i64(-7200..7200))));
        }
        let mut calm = busy + 60 * SECOND;
        let mut more = Rng::with_seed(seed ^ 0x4a05);
        let mut nodes = vec![vec![0]; nodes];
        let (mut hubs, mut clone) = (1, None);
        match more.u32(0..8) {
            0 => {
                clone = Some((more.usize(0..nodes.len()), more.u64(0..busy)));
                faults.retain(is_no_hub_clock);
            }
            1 | 2 => {
                hubs = 2;
                spread(&mut more, &mut nodes, &mut wishes, &mut faults);
                for _ in 0..more.usize(1..4) {
                    let (at, fault) = (more.u64(0..busy), absence(&mut more, nodes.len()));
                    let (Fault::KillHub(_, time) | Fault::Divide(_, _, time)) = fault else {
                        continue;
                    };
                    faults.push((at, fault));
                    calm = calm.max(at + time);
                }
            }
            _ => {}
        }
        wishes.sort_by_key(|(time, _)| *time);
        wishes.push((busy + 30 * SECOND, Wish::NoSchedule));
        faults.sort_by_key(|(time, _)| *time);
        let one_in = |rng: &mut Rng, most: u32| if rng.bool() { 0 } else { rng.u32(3..most) };
        Self {
            seed,
            hubs,
            nodes,
            clone,
            wishes,
            faults,
            lose_one_in: one_in(&mut rng, 40),
            repeat_one_in: one_in(&mut rng, 20),
            latest_repeat: 20 * SECOND,
            room: *rng.choice([1, 4, 64].iter()).unwrap_or(&64),
            delay: *rng.choice([SECOND / 1000, SECOND / 20, 2 * SECOND].iter()).unwrap_or(&SECOND),
            commit: *rng.choice([SECOND / 500, SECOND / 20, SECOND].iter()).unwrap_or(&SECOND),
            durability: if rng.bool() { Durability::Spill } else { Durability::Always },
            calm,
            #[cfg(feature = "planted-bugs")]
            agent_bugs: fieldpost_agent::agent::Bugs::default(),
            #[cfg(feature = "planted-bugs")]
            hub_bugs: fieldpost_hub::hub::Bugs::default(),
        }
    }
}

fn wish(rng: &mut Rng, nodes: usize) -> Wish {
    let job = rng.usize(0..crate::node::JOBS.len());
    match rng.u32(0..10) {
        0..6 => Wish::Trigger {
            hub: 0,
            job,
            node: rng.bool().then(|| rng.usize(0..nodes)),
            ttl: rng.u64(1..120) * SECOND,
        },
        6 => Wish::Cancel { back: rng.usize(1..3) },
        7..9 => Wish::Schedule { job, every: rng.u64(1..60) * SECOND },
        _ => Wish::NoSchedule,
    }
}

/// A second hub: some nodes have only the one or the other, and some both, in either order.
fn spread(
    rng: &mut Rng,
    nodes: &mut [Vec<usize>],
    wishes: &mut [(Time, Wish)],
    faults: &mut Vec<(Time, Fault)>,
) {
    for hubs in nodes.iter_mut() {
        *hubs = [vec![0, 1], vec![1, 0], vec![0], vec![1]][rng.usize(0..4).min(rng.usize(0..4))]
            .clone();
    }
    for (_, wish) in wishes {
        if let Wish::Trigger { hub, node, .. } = wish {
            *hub = rng.usize(0..2);
            *node = node.filter(|&node| nodes[node].contains(hub));
        }
    }
    // Their clocks agree: docs/OPERATING.md asks for that.
    faults.retain(is_no_hub_clock);
    for (_, fault) in faults {
        if let Fault::KillHub(hub, _) = fault {
            *hub = rng.usize(0..2);
        }
    }
}

/// A hub that is started anew with its clock set back has its triggers refused as expired.
fn is_no_hub_clock((_, fault): &(Time, Fault)) -> bool {
    !matches!(fault, Fault::SetHubClock(_))
}

/// A hub is out of reach for so long that nodes may move to the other.
fn absence(rng: &mut Rng, nodes: usize) -> Fault {
    let (hub, time) = (rng.usize(0..2), rng.u64(100..600) * SECOND);
    if rng.bool() {
        Fault::KillHub(hub, time)
    } else {
        Fault::Divide(rng.usize(0..nodes), hub, time)
    }
}

fn fault(rng: &mut Rng, nodes: usize) -> Fault {
    let node = rng.usize(0..nodes);
    let time = rng.u64(1..100) * SECOND / *rng.choice([1, 10].iter()).unwrap_or(&1);
    match rng.u32(0..14) {
        0..3 => Fault::KillHub(0, time),
        3..5 => Fault::KillAgent(node, time),
        5..8 => Fault::Cut(node, 2 * time),
        8..10 => Fault::Break(node),
        10..12 => Fault::CutPower(node, time),
        12 => Fault::FillDisk(node, time),
        _ => Fault::SetClock(node, rng.i64(-7200..7200)),
    }
}
