//! Who is admitted, and that each frame says who sent it.

#![expect(clippy::unwrap_used, reason = "clippy.toml excepts tests, but not what they call")]

mod common;

use common::{Handler, Monitor, bound, client, server, took, within};
use fieldpost_sockets::zmq::{Context, PULL, PUSH, SUB, XPUB};
use fieldpost_sockets::{Errno, Frame, KeyPair};
use zmq_sys::{
    ZMQ_EVENT_HANDSHAKE_FAILED_AUTH, ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    ZMQ_EVENT_HANDSHAKE_SUCCEEDED,
};

const OUTCOMES: u32 = ZMQ_EVENT_HANDSHAKE_SUCCEEDED
    | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

#[test]
fn a_report_says_whose_key_sent_it() {
    let context = Context::new();
    let node = KeyPair::generate();
    let handler = Handler::new(&context, node.public, "gw-17");
    let (pull, key) = server(&context, PULL);
    let push = client(&context, PUSH, &node, &key, &bound(&pull));
    push.transmit(b"report").unwrap();
    let mut frame = Frame::new();
    within(&[&handler.socket, &pull], || {
        handler.answer();
        took(&pull, &mut frame).then_some(())
    });
    assert_eq!(frame.bytes(), b"report");
    assert_eq!(frame.user_id(), Some("gw-17"));
}

#[test]
fn a_subscription_says_whose_it_is_and_counts_only_once_admitted() {
    let context = Context::new();
    let node = KeyPair::generate();
    let handler = Handler::new(&context, node.public, "gw-17");
    let (xpub, key) = server(&context, XPUB);
    xpub.subscribe_by_hand().unwrap();
    let sub = client(&context, SUB, &node, &key, &bound(&xpub));
    let mut frame = Frame::new();
    for (topic, received) in [("n/gw-18/", b"\x01n/gw-18/"), ("n/gw-17/", b"\x01n/gw-17/")] {
        sub.set_subscribe(topic.as_bytes()).unwrap();
        within(&[&handler.socket, &xpub], || {
            handler.answer();
            took(&xpub, &mut frame).then_some(())
        });
        assert_eq!(frame.bytes(), received);
        assert_eq!(frame.user_id(), Some("gw-17"));
    }
    // The last one received, and only that.
    xpub.admit(b"n/gw-17/").unwrap();
    for topic in [b"n/gw-18/", b"n/gw-17/"] {
        xpub.transmit(topic).unwrap();
    }
    within(&[&sub], || took(&sub, &mut frame).then_some(()));
    assert_eq!(frame.bytes(), b"n/gw-17/");

    sub.set_unsubscribe(b"n/gw-17/").unwrap();
    within(&[&xpub], || took(&xpub, &mut frame).then_some(()));
    assert_eq!(frame.bytes(), b"\x00n/gw-17/");
    assert_eq!(frame.user_id(), Some("gw-17"));
    xpub.dismiss(b"n/gw-17/").unwrap();
}

#[test]
fn an_unknown_key_is_refused() {
    let context = Context::new();
    let handler = Handler::new(&context, KeyPair::generate().public, "gw-17");
    let (pull, key) = server(&context, PULL);
    let monitor = Monitor::of(&context, &pull, OUTCOMES);
    let push = client(&context, PUSH, &KeyPair::generate(), &key, &bound(&pull));
    push.transmit(b"report").unwrap();
    let outcome = within(&[&handler.socket, &monitor.0], || {
        handler.answer();
        monitor.event()
    });
    assert_eq!(outcome, ZMQ_EVENT_HANDSHAKE_FAILED_AUTH);
    assert_eq!(pull.receive(&mut Frame::new()), Err(Errno::EAGAIN));
}

/// libzmq's own default would admit everybody here.
#[test]
fn without_a_handler_nobody_is_admitted() {
    let context = Context::new();
    let (pull, key) = server(&context, PULL);
    let monitor = Monitor::of(&context, &pull, OUTCOMES);
    let push = client(&context, PUSH, &KeyPair::generate(), &key, &bound(&pull));
    push.transmit(b"report").unwrap();
    let outcome = within(&[&monitor.0], || monitor.event());
    assert_eq!(outcome, ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL);
    assert_eq!(pull.receive(&mut Frame::new()), Err(Errno::EAGAIN));
}
