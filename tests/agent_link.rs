//! The agent's two sockets against a bare hub: XPUB and PULL with CURVE, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
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
        let address = HubAddress { triggers, results, server_keys: vec![keys.public], proxy: None };
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

/// A SOCKS5 proxy (RFC 1928) that takes any name for this host. Gives its address.
fn proxy() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for near in listener.incoming() {
            thread::spawn(move || relay(near.unwrap()));
        }
    });
    address
}

fn relay(mut near: TcpStream) {
    fn take<const N: usize>(from: &mut TcpStream) -> [u8; N] {
        let mut bytes = [0; N];
        from.read_exact(&mut bytes).unwrap();
        bytes
    }
    let [version, methods] = take(&mut near);
    assert_eq!(version, 5);
    near.read_exact(&mut vec![0; methods.into()]).unwrap();
    near.write_all(&[5, 0]).unwrap();
    let [_, connect, _, kind, len] = take(&mut near);
    assert_eq!((connect, kind), (1, 3), "connect to a name");
    let mut name = vec![0; len.into()];
    near.read_exact(&mut name).unwrap();
    assert_eq!(name, b"hub.invalid");
    let mut far = TcpStream::connect(("127.0.0.1", u16::from_be_bytes(take(&mut near)))).unwrap();
    near.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    // Until either side goes away.
    thread::spawn(move || std::io::copy(&mut from, &mut to).ok());
    std::io::copy(&mut far, &mut near).ok();
}

#[test]
fn a_proxy_leads_to_a_hub_whose_name_only_it_can_resolve() {
    let mut hub = Hub::new();
    for address in [&mut hub.address.triggers, &mut hub.address.results] {
        *address = address.replace("127.0.0.1", "hub.invalid");
    }
    hub.address.proxy = Some(proxy());
    let mut link = Link::new(&"gw-1".parse().unwrap(), KeyPair::generate()).unwrap();
    link.connect(&hub.address, &hub.address.server_keys[0]).unwrap();
    hub.topics(&link);
    hub.say(&[b"all/", b"through"]);
    assert_eq!(receive(&mut link), b"through");
    until(|| link.send(b"report").unwrap());
    let mut frame = Frame::new();
    until(|| hub.reports.receive(&mut frame).is_ok());
    assert_eq!(frame.bytes(), b"report");
}
