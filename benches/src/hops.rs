//! The floor of the latency: four raw hops, with CURVE, between the same processes.
//!
//! ```text
//! client ── DEALER ──▶ ROUTER hub XPUB ──▶ SUB agent
//! client ◀── SUB ◀── XPUB hub PULL ◀── PUSH agent
//! ```
//!
//! Nobody decodes, decides or stores anything; the messages are as long as the real ones. Each
//! process waits as briefly as libzmq lets it: in a blocking receive where there is one thing to
//! wait for, in poll(2) where there are two.

use std::time::Instant;

use fieldpost_sockets::zmq::{Context, SocketType};
use fieldpost_sockets::{KeyPair, PublicKey, SecretKey, Socket};

use crate::Outcome;
use crate::child::Process;
use crate::ports::Ports;

/// As long as a submit, a trigger, a result and its event are.
const SUBMIT: usize = 190;
const TRIGGER: usize = 80;
const RESULT: usize = 130;
const EVENT: usize = 480;
const NODE_TOPIC: &[u8] = b"n/bench/";
const EVENT_TOPIC: &[u8] = b"job/ping/";

/// The processes, connected.
pub struct Hops {
    dealer: Socket,
    events: Socket,
    _agent: Process,
    _hub: Process,
}

impl Hops {
    /// Starts them, on the cores of the caller.
    pub fn start(ports: &Ports) -> Outcome<Self> {
        let keys = KeyPair::generate();
        let [triggers, results, clients, events] = ports.take_endpoints();
        let server = keys.public.to_string();
        let mut hub = Process::role(
            "hops-hub",
            [&keys.secret.reveal(), &triggers, &results, &clients, &events],
        )?;
        hub.line()?;
        let mut agent = Process::role("hops-agent", [&server, &triggers, &results])?;
        let context = Context::new();
        let dealer = client(&context, SocketType::DEALER, &keys.public, &clients)?;
        let sub = client(&context, SocketType::SUB, &keys.public, &events)?;
        sub.set_subscribe(EVENT_TOPIC)?;
        agent.line()?;
        let mut hops = Self { dealer, events: sub, _agent: agent, _hub: hub };
        // The first ones may come before a subscription.
        hops.events.set_rcvtimeo(200)?;
        for _ in 0..50 {
            if hops.round().is_ok() {
                hops.events.set_rcvtimeo(-1)?;
                while hops.events.recv_bytes(fieldpost_sockets::zmq::DONTWAIT).is_ok() {}
                return Ok(hops);
            }
        }
        Err("the raw hops do not come round".into())
    }

    /// There and back, in microseconds.
    pub fn round(&mut self) -> Outcome<f64> {
        let submit = [7u8; SUBMIT];
        let begin = Instant::now();
        self.dealer.transmit(&submit)?;
        let mut topic = fieldpost_sockets::zmq::Message::new();
        self.events.recv(&mut topic, 0)?;
        self.events.recv(&mut topic, 0)?;
        Ok(begin.elapsed().as_secs_f64() * 1e6)
    }
}

/// A socket with CURVE, bound.
pub fn server(
    context: &Context,
    kind: SocketType,
    secret: &SecretKey,
    at: &str,
) -> Outcome<Socket> {
    let socket = Socket::new(context, kind)?;
    socket.set_curve_server(true)?;
    socket.set_curve_secretkey(secret.bytes())?;
    socket.bind(at)?;
    Ok(socket)
}

/// A socket with CURVE and a key of its own, connected.
pub fn client(context: &Context, kind: SocketType, key: &PublicKey, to: &str) -> Outcome<Socket> {
    let keys = KeyPair::generate();
    let socket = Socket::new(context, kind)?;
    socket.join_curve(key, &keys.public, &keys.secret)?;
    socket.connect(to)?;
    Ok(socket)
}

/// The process in the middle.
pub fn hub(args: &[String]) -> Outcome<()> {
    let [secret, triggers, results, clients, events] = args else { return Err(usage()) };
    let secret: SecretKey = secret.parse()?;
    let context = Context::new();
    let triggers = server(&context, SocketType::XPUB, &secret, triggers)?;
    let results = server(&context, SocketType::PULL, &secret, results)?;
    let clients = server(&context, SocketType::ROUTER, &secret, clients)?;
    let events = server(&context, SocketType::XPUB, &secret, events)?;
    println!("ready");
    let (trigger, event) = ([7u8; TRIGGER], [7u8; EVENT]);
    let mut message = fieldpost_sockets::zmq::Message::new();
    let mut fds = Vec::new();
    for socket in [&results, &clients] {
        fds.push(libc::pollfd { fd: socket.descriptor()?, events: libc::POLLIN, revents: 0 });
    }
    loop {
        let mut idle = true;
        if clients.recv(&mut message, fieldpost_sockets::zmq::DONTWAIT).is_ok() {
            clients.recv(&mut message, 0)?;
            triggers.transmit_more(NODE_TOPIC)?;
            triggers.transmit(&trigger)?;
            idle = false;
        }
        if results.recv(&mut message, fieldpost_sockets::zmq::DONTWAIT).is_ok() {
            events.transmit_more(EVENT_TOPIC)?;
            events.transmit(&event)?;
            idle = false;
        }
        if idle {
            // Subscriptions are worked off inside libzmq at each send.
            while triggers.recv(&mut message, fieldpost_sockets::zmq::DONTWAIT).is_ok() {}
            while events.recv(&mut message, fieldpost_sockets::zmq::DONTWAIT).is_ok() {}
            wait(&mut fds);
        }
    }
}

#[expect(unsafe_code, reason = "nix's poll wants descriptors that it can borrow")]
fn wait(fds: &mut [libc::pollfd]) {
    // SAFETY: the slice is valid for its length; a bad descriptor is only reported.
    // The time-out lets subscriptions in that came while nothing was sent.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 10) };
}

/// The process at the far end.
pub fn agent(args: &[String]) -> Outcome<()> {
    let [server, triggers, results] = args else { return Err(usage()) };
    let server: PublicKey = server.parse()?;
    let context = Context::new();
    let sub = client(&context, SocketType::SUB, &server, triggers)?;
    let push = client(&context, SocketType::PUSH, &server, results)?;
    sub.set_subscribe(NODE_TOPIC)?;
    println!("ready");
    let result = [7u8; RESULT];
    let mut message = fieldpost_sockets::zmq::Message::new();
    loop {
        sub.recv(&mut message, 0)?;
        sub.recv(&mut message, 0)?;
        push.send(&result[..], 0)?;
    }
}

/// A receiver of raw messages: prints messages a second and CPU microseconds a message.
pub fn pull(args: &[String]) -> Outcome<()> {
    let [secret, at, count] = args else { return Err(usage()) };
    let secret: SecretKey = secret.parse()?;
    let count: u64 = count.parse()?;
    let context = Context::new();
    let socket = server(&context, SocketType::PULL, &secret, at)?;
    println!("ready");
    let mut message = fieldpost_sockets::zmq::Message::new();
    let me = std::process::id();
    let (mut begin, mut cpu) = (Instant::now(), 0.0);
    for i in 0..count {
        if i == count / 10 {
            (begin, cpu) = (Instant::now(), crate::machine::cpu_us(me));
        }
        socket.recv(&mut message, 0)?;
    }
    let measured = (count - count / 10) as f64;
    let rate = measured / begin.elapsed().as_secs_f64();
    println!("{rate} {}", (crate::machine::cpu_us(me) - cpu) / measured);
    Ok(())
}

/// How fast one PUSH fills one PULL with messages of this many bytes: messages a second, and the
/// receiver's CPU microseconds a message.
pub fn stream(ports: &Ports, bytes: usize, count: u64) -> Outcome<(f64, f64)> {
    let keys = KeyPair::generate();
    let [at, ..] = ports.take_endpoints();
    let mut receiver = Process::role("pull", [&keys.secret.reveal(), &at, &count.to_string()])?;
    receiver.line()?;
    let context = Context::new();
    let push = client(&context, SocketType::PUSH, &keys.public, &at)?;
    push.set_linger(1_000)?;
    let message = vec![7u8; bytes];
    for _ in 0..count {
        push.send(&message[..], 0)?;
    }
    let line = receiver.line()?;
    let mut words = line.split(' ').map(|word| word.parse::<f64>().unwrap_or(0.0));
    Ok((words.next().unwrap_or(0.0), words.next().unwrap_or(0.0)))
}

fn usage() -> Box<dyn std::error::Error> {
    "a role of the benchmark got the wrong arguments".into()
}
