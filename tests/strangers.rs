//! Peers that should not be there, and bytes that should not come.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod site;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use fieldpost_hub::client::Client;
use fieldpost_sockets::{Frame, KeyPair, Socket, zmq};
use serde_json::json;
use site::{PATIENCE, PROGRAMS, Site, eventually, field};

/// A socket that speaks CURVE to the hub with these keys.
fn peer(
    site: &Site,
    context: &zmq::Context,
    kind: zmq::SocketType,
    port: u16,
    keys: &KeyPair,
) -> Socket {
    let socket = Socket::new(context, kind).unwrap();
    socket.join_curve(&site.server, &keys.public, &keys.secret).unwrap();
    socket.set_reconnect_ivl(50).unwrap();
    if kind == zmq::SUB {
        socket.set_subscribe(b"").unwrap();
    }
    socket.connect(&format!("tcp://127.0.0.1:{port}")).unwrap();
    socket
}

fn still_works(site: &Site) {
    let run = site.submit("say", json!({}), json!({"nodes": ["gw-1"]}));
    assert_eq!(field(&site.finished(&run)[0], "status"), "ok");
}

#[test]
fn an_unknown_key_waits_is_accepted_and_is_revoked_while_it_is_connected() {
    let mut site = Site::new();
    let agent = site.stranger("gw-1", PROGRAMS);
    let pending = eventually("it stands as pending", || {
        let list = site.ask("nodes", json!({})).to_string();
        list.contains(&serde_json::to_string(&agent.key.to_string()).unwrap()).then_some(list)
    });
    assert!(pending.contains("gw-1"), "the name it claims is shown: {pending}");
    assert_eq!(
        site.refused(
            "submit",
            json!({"job": "say", "select": {"nodes": ["gw-1"]}, "ttl_ms": 1000})
        )
        .0,
        "unknown_node"
    );
    site.ask("nodes.accept", json!({"key": agent.key.to_string(), "node": "gw-1"}));
    agent.wait_until_welcome();
    still_works(&site);
    site.ask("nodes.revoke", json!({"node": "gw-1"}));
    let refused = site.client().call(
        "submit",
        json!({"job": "say", "select": {"nodes": ["gw-1"]}, "ttl_ms": 1000}),
        PATIENCE,
    );
    assert!(refused.is_err(), "{refused:?}");
    site.agents.push(agent);
}

#[test]
fn an_agent_does_not_talk_to_a_hub_with_another_key() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let mut other = site.agent_of("gw-2", PROGRAMS, KeyPair::generate().public, None);
    site.ask("nodes.accept", json!({"key": other.key.to_string(), "node": "gw-2"}));
    still_works(&site);
    assert!(other.process.is_running());
    assert!(!other.process.log().contains("welcomed by hub"));
}

#[test]
fn two_agents_with_one_key_are_quarantined_visibly() {
    let mut site = Site::new();
    let gw = site.node("gw-1", PROGRAMS);
    let twin = site.agent_of("gw-1", PROGRAMS, site.server, Some(&site.agents[gw]));
    eventually("the node is quarantined", || {
        site.node_record("gw-1").to_string().contains("\"quarantined\"").then_some(())
    });
    let out = site.cli(&["nodes"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("quarantined"));
    drop(twin);
}

#[test]
fn a_key_opens_only_the_ports_of_its_kind() {
    let client = KeyPair::generate();
    let mut site = Site::with(&format!(
        "[[client]]\nname = \"ops\"\nkey = \"{}\"\nrole = \"trigger\"\n",
        client.public
    ));
    let gw = site.node("gw-1", PROGRAMS);
    let node = KeyPair::from(site.agents[gw].secret());
    let context = zmq::Context::new();

    // The client's key on its own port works; the node's key there does not.
    let mut ours = Client::open(&site.remote(&client)).unwrap();
    ours.call("status", json!({}), PATIENCE).unwrap();
    let mut theirs = Client::open(&site.remote(&node)).unwrap();
    theirs.call("status", json!({}), Duration::from_secs(2)).unwrap_err();

    // The client's key on the nodes' ports: no command comes, and no report counts.
    let sub = peer(&site, &context, zmq::SUB, site.ports.triggers, &client);
    let before = site.results().len();
    still_works(&site);
    assert!(sub.receive(&mut Frame::new()).is_err());
    assert_eq!(site.results().len(), before + 1);
}

#[test]
fn nobody_hears_another_nodes_commands() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let spy = site.node("gw-2", PROGRAMS);
    let keys = KeyPair::from(site.agents[spy].secret());
    let context = zmq::Context::new();
    let sub = peer(&site, &context, zmq::SUB, site.ports.triggers, &keys);
    sub.set_subscribe(b"n/").unwrap();
    sub.set_subscribe(b"n/gw-1/").unwrap();
    sub.set_subscribe(b"n/gw-2/").unwrap();
    let mut frame = Frame::new();
    eventually("its own topic is heard", || {
        let run = site.submit("ping", json!({}), json!({"all": true}));
        site.finished(&run);
        let mut own = false;
        while sub.receive(&mut frame).is_ok() {
            let topic = frame.bytes().to_vec();
            assert_ne!(topic, b"n/gw-1/", "it hears another node");
            own |= topic == b"n/gw-2/";
            while frame.more() {
                sub.receive(&mut frame).unwrap();
            }
        }
        own.then_some(())
    });
}

#[test]
fn a_reader_may_not_trigger() {
    let reader = KeyPair::generate();
    let mut site = Site::with(&format!(
        "[[client]]\nname = \"dash\"\nkey = \"{}\"\nrole = \"read\"\n",
        reader.public
    ));
    site.node("gw-1", PROGRAMS);
    let mut client = Client::open(&site.remote(&reader)).unwrap();
    client.call("runs", json!({}), PATIENCE).unwrap();
    let refused = client.call(
        "submit",
        json!({"job": "say", "select": {"all": true}, "ttl_ms": 1000}),
        PATIENCE,
    );
    let Err(fieldpost_hub::client::Error::Refused { code, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(code, "not_allowed");
    assert_eq!(site.results().len(), 0);
}

#[test]
fn garbage_on_every_port_leaves_the_hub_up_and_small() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    still_works(&site);
    let before = site.hub.rss_kib();
    let ports = [site.ports.triggers, site.ports.results, site.ports.clients, site.ports.events];
    for port in ports {
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n".to_vec(),
            vec![0xff; 4096],
            // A ZMTP 3.1 greeting for NULL, then a frame that claims 4 GiB.
            [
                b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL".as_slice(),
                &[0; 48],
                b"\x02\0\0\0\x01\0\0\0\0",
            ]
            .concat(),
        ] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
            stream.write_all(&bytes).unwrap();
            // The hub hangs up: the read ends.
            let mut sink = Vec::new();
            stream.read_to_end(&mut sink).ok();
        }
    }
    still_works(&site);
    let grown = site.hub.rss_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "the hub grew by {grown} KiB");
}

#[test]
fn a_node_that_sends_garbage_is_counted_and_the_others_go_on() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let bad = site.node("gw-2", PROGRAMS);
    let keys = KeyPair::from(site.agents[bad].secret());
    let context = zmq::Context::new();
    let push = peer(&site, &context, zmq::PUSH, site.ports.results, &keys);
    let send = |bytes: &[u8]| {
        eventually("it is taken", || push.transmit(bytes).ok());
    };
    for length in [0, 1, 2, 3, 17, 18, 19, 100, 60_000] {
        send(&vec![0xee; length]);
        send(&[vec![1, 1], vec![7; length]].concat());
        send(&[vec![1, 0], vec![9; length]].concat());
    }
    eventually("the hub counts them", || {
        let bad = site.ask("status", json!({}))["reports"]["bad"].as_u64().unwrap();
        (bad > 10).then_some(())
    });
    still_works(&site);
}

#[test]
fn a_plaintext_peer_gets_nothing() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let context = zmq::Context::new();
    let sub = Socket::new(&context, zmq::SUB).unwrap();
    sub.set_subscribe(b"").unwrap();
    sub.connect(&format!("tcp://127.0.0.1:{}", site.ports.triggers)).unwrap();
    let dealer = Socket::new(&context, zmq::DEALER).unwrap();
    dealer.connect(&format!("tcp://127.0.0.1:{}", site.ports.clients)).unwrap();
    dealer.transmit(br#"{"id":1,"op":"status"}"#).unwrap();
    still_works(&site);
    let mut frame = Frame::new();
    assert!(sub.receive(&mut frame).is_err());
    assert!(dealer.receive(&mut frame).is_err());
}
