//! The floor of the fan-out: a raw XPUB and PULL with CURVE, and as many raw SUBs and PUSHes.
//!
//! What one trigger to a fleet is to libzmq: a command to each node, a result from each, an ack to
//! each. Nobody decodes, decides or stores anything; the messages are as long as the real ones.

use std::time::{Duration, Instant};

use fieldpost_sockets::zmq::{Context, SocketType};
use fieldpost_sockets::{Errno, Frame, KeyPair, SecretKey, Socket};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};

use crate::Outcome;
use crate::child::Process;
use crate::figures::Series;
use crate::hops::{client, server};
use crate::machine::{self, watch};
use crate::ports::Ports;

/// As long as a trigger, a result and an ack are.
const TRIGGER: usize = 80;
const RESULT: usize = 130;
const ACK: usize = 48;
/// libzmq makes 1,023 sockets in a context.
const NODES_A_CONTEXT: usize = 500;
const WARM_UP: usize = 3;

/// Milliseconds of a round, and the CPU microseconds of whoever is in the middle for a node.
pub fn out(ports: &Ports, nodes: usize, rounds: usize) -> Outcome<(f64, f64)> {
    let keys = KeyPair::generate();
    let [triggers, results, ..] = ports.take_endpoints();
    let (count, total) = (nodes.to_string(), (rounds + WARM_UP).to_string());
    let role = [&keys.secret.reveal(), &triggers, &results, &count, &total];
    let mut middle = Process::role("fan-hub", role)?;
    middle.line()?;

    let contexts: Vec<Context> =
        (0..nodes.div_ceil(NODES_A_CONTEXT)).map(|_| Context::new()).collect();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut fleet = Vec::with_capacity(nodes);
    for i in 0..nodes {
        let context = &contexts[i / NODES_A_CONTEXT];
        let sub = client(context, SocketType::SUB, &keys.public, &triggers)?;
        sub.set_subscribe(topic(i).as_bytes())?;
        let push = client(context, SocketType::PUSH, &keys.public, &results)?;
        watch(&epoll, &sub, i as u64)?;
        // A handshake costs both ends half a millisecond, and its time is limited.
        if i % 50 == 49 {
            std::thread::sleep(Duration::from_millis(100));
        }
        fleet.push((sub, push));
    }
    let (mut frame, mut acks) = (Frame::new(), 0);
    let mut heard = Instant::now();
    while acks < nodes * (rounds + WARM_UP) {
        if heard.elapsed() > Duration::from_secs(20) {
            return Err("the raw fan-out does not come round".into());
        }
        let mut events = [EpollEvent::empty(); 256];
        let ready = epoll.wait(&mut events, EpollTimeout::from(10u8))?;
        for event in &events[..ready] {
            let (sub, push) = &fleet[event.data() as usize];
            heard = Instant::now();
            while received(sub, &mut frame)? {
                match frame.bytes().len() {
                    TRIGGER => push.send(&[7u8; RESULT][..], 0)?,
                    ACK => acks += 1,
                    _ => {} // a topic
                }
            }
        }
    }
    let line = middle.line()?;
    let mut words = line.split(' ').map(|word| word.parse::<f64>().unwrap_or(0.0));
    Ok((words.next().unwrap_or(0.0), words.next().unwrap_or(0.0)))
}

/// The process in the middle: prints its medians.
pub fn hub(args: &[String]) -> Outcome<()> {
    let [secret, triggers, results, nodes, rounds] = args else {
        return Err("wrong arguments for this role".into());
    };
    let secret: SecretKey = secret.parse()?;
    let (nodes, rounds): (usize, usize) = (nodes.parse()?, rounds.parse()?);
    let context = Context::new();
    let triggers = server(&context, SocketType::XPUB, &secret, triggers)?;
    let results = server(&context, SocketType::PULL, &secret, results)?;
    println!("ready");
    let topics: Vec<String> = (0..nodes).map(topic).collect();
    let mut frame = Frame::new();
    for _ in 0..nodes {
        triggers.recv_bytes(0)?;
    }
    let each = |body: &[u8]| -> Outcome<()> {
        for topic in &topics {
            triggers.transmit_more(topic.as_bytes())?;
            triggers.transmit(body)?;
        }
        Ok(())
    };
    let me = std::process::id();
    let (mut times, mut cpus) = (Series::default(), Series::default());
    for round in 0..rounds {
        // As after a round of the real thing: everybody is at rest.
        std::thread::sleep(Duration::from_millis(5));
        let (begin, cpu) = (Instant::now(), machine::cpu_us(me));
        each(&[7; TRIGGER])?;
        for _ in 0..nodes {
            results.recv(&mut fieldpost_sockets::zmq::Message::new(), 0)?;
        }
        each(&[7; ACK])?;
        while received(&triggers, &mut frame)? {}
        if round >= WARM_UP {
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            cpus.push((machine::cpu_us(me) - cpu) / nodes as f64);
        }
    }
    println!("{} {}", times.p50(), cpus.p50());
    // The last acks leave.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn topic(node: usize) -> String {
    format!("n/fan-{node:05}/")
}

fn received(socket: &Socket, frame: &mut Frame) -> Outcome<bool> {
    match socket.receive(frame) {
        Ok(()) => Ok(true),
        Err(Errno::EAGAIN) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
