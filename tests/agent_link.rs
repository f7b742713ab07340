//! The agent's two sockets against a bare hub: XPUB and PULL with CURVE, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::time::{Duration, Instant};

use fieldpost_agent::io::sockets::{HubAddress, Link};
use fieldpost_sockets::{Frame, KeyPair, Socket, zmq};

struct Hub {
    commands: Socket,
    reports: Socket,
    address: HubAddress,
    _context: zmq::Context,
}

impl Hub {
    fn new() -> Self {
        let context = zmq::Context::new();
        let keys = KeyPair::generate();
        let bound = |kind| {
            let socket = Socket::new(&context, kind).unwrap();
            // Without a ZAP handler and without a domain everybody is let in.
            socket.set_curve_server(true).unwrap();
            socket.set_curve_secretkey(keys.secret.bytes()).unwrap();
            socket.bind("tcp://127.0.0.1:*").unwrap();
            let address = socket.get_last_endpoint().unwrap().unwrap();
            (socket, address)
        };
        let ((commands, triggers), (reports, results)) = (bound(zmq::XPUB), bound(zmq::PULL));
        let address = HubAddress { triggers, results, server_keys: vec![keys.public] };
        Self { commands, reports, address, _context: context }
    }

    /// Waits for what two subscriptions or cancellations say, while the agent does its part.
    fn topics(&self, link: &Link) -> [Vec<u8>; 2] {
        [(); 2].map(|()| {
            let mut frame = Frame::new();
            until(|| link.events().is_ok() && self.commands.receive(&mut frame).is_ok());
            frame.bytes().to_vec()
        })
    }

    fn say(&self, frames: &[&[u8]]) {
        let (last, first) = frames.split_last().unwrap();
        for frame in first {
            self.commands.transmit_more(frame).unwrap();
        }
        self.commands.transmit(last).unwrap();
    }
}

/// Calls until it is so, as a loop around poll(2) would, but not for ever.
fn until(mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never came");
        std::thread::yield_now();
    }
}

fn receive(link: &mut Link) -> Vec<u8> {
    let mut body = Frame::new();
    until(|| link.receive(&mut body).unwrap());
    body.bytes().to_vec()
}

#[test]
fn commands_and_reports_pass_and_pass_again_after_a_new_connection() {
    let hub = Hub::new();
    let mut link = Link::new(&"gw-1".parse().unwrap(), KeyPair::generate()).unwrap();
    for _ in 0..2 {
        link.connect(&hub.address, &hub.address.server_keys[0]).unwrap();
        assert_eq!(hub.topics(&link), [b"\x01all/".to_vec(), b"\x01n/gw-1/".to_vec()]);
        hub.say(&[b"n/gw-1/", b"one"]);
        hub.say(&[b"n/gw-1/", b"a frame", b"too many"]);
        hub.say(&[b"n/gw-1/"]);
        hub.say(&[b"n/gw-2/", b"another's"]);
        hub.say(&[b"all/", b"two"]);
        assert_eq!(receive(&mut link), b"one");
        assert_eq!(receive(&mut link), b"two");
        until(|| link.send(b"report").unwrap());
        let mut frame = Frame::new();
        until(|| hub.reports.receive(&mut frame).is_ok());
        assert_eq!(frame.bytes(), b"report");
        link.disconnect();
        // Two cancellations, so that the next round starts clean.
        hub.topics(&link);
    }
}

#[test]
fn a_hub_with_another_key_gets_nothing_and_the_queue_says_when_it_is_full() {
    let hub = Hub::new();
    let mut link = Link::new(&"gw-1".parse().unwrap(), KeyPair::generate()).unwrap();
    assert!(!link.send(b"nobody").unwrap(), "not connected yet");
    link.connect(&hub.address, &KeyPair::generate().public).unwrap();
    let mut taken = 0;
    while link.send(b"report").unwrap() {
        taken += 1;
    }
    assert_eq!(taken, 64);
    assert!(!link.events().unwrap().writable);
    let mut frame = Frame::new();
    assert!(hub.reports.receive(&mut frame).is_err());
    // With the right key it goes on.
    link.disconnect();
    link.connect(&hub.address, &hub.address.server_keys[0]).unwrap();
    until(|| link.send(b"again").unwrap());
    until(|| hub.reports.receive(&mut frame).is_ok());
    assert_eq!(frame.bytes(), b"again");
}
