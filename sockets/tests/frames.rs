//! Frames and options over plain connections.

#![expect(clippy::unwrap_used, reason = "clippy.toml excepts tests, but not what they call")]

mod common;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use common::{bound, message, took, within};
use fieldpost_sockets::zmq::{Context, PULL, PUSH, ROUTER};
use fieldpost_sockets::{Errno, Frame, Keepalive, Liveness, Socket};
use nix::sys::socket::{getsockopt, sockopt};

fn pair(context: &Context) -> (Socket, Socket) {
    let (pull, push) = (Socket::new(context, PULL).unwrap(), Socket::new(context, PUSH).unwrap());
    push.connect(&bound(&pull)).unwrap();
    (pull, push)
}

#[test]
fn a_frame_is_reused_from_long_to_empty() {
    let (pull, push) = pair(&Context::new());
    let mut frame = Frame::new();
    assert_eq!(frame.bytes(), b"");
    assert_eq!(frame.source_fd(), None);
    let long = vec![7; 100_000];
    for bytes in [long.as_slice(), b"x", b""] {
        push.transmit(bytes).unwrap();
        within(&[&pull], || took(&pull, &mut frame).then_some(()));
        assert_eq!(frame.bytes(), bytes);
        assert!(!frame.more());
        assert!(frame.source_fd().is_some());
    }
    assert_eq!(pull.receive(&mut frame), Err(Errno::EAGAIN));
}

#[test]
fn the_frames_of_a_message_say_whether_more_follow() {
    let (pull, push) = pair(&Context::new());
    push.transmit_more(b"topic").unwrap();
    push.transmit(b"body").unwrap();
    let frames = within(&[&pull], || message(&pull));
    assert_eq!(frames, [b"topic".as_slice(), b"body"]);
}

#[test]
fn a_push_without_a_peer_says_so_at_once() {
    let push = Socket::new(&Context::new(), PUSH).unwrap();
    assert!(!push.events().unwrap().writable);
    assert_eq!(push.transmit(b"x"), Err(Errno::EAGAIN));
}

#[test]
fn a_router_says_that_the_peer_is_unknown() {
    let router = Socket::new(&Context::new(), ROUTER).unwrap();
    router.set_router_mandatory(true).unwrap();
    assert_eq!(router.transmit_more(b"nobody"), Err(Errno::EHOSTUNREACH));
}

/// It ends the connection; a new one works.
#[test]
fn a_frame_over_the_limit_is_never_received() {
    let context = Context::new();
    let pull = Socket::new(&context, PULL).unwrap();
    pull.set_maxmsgsize(64).unwrap();
    let endpoint = bound(&pull);
    let push = Socket::new(&context, PUSH).unwrap();
    push.connect(&endpoint).unwrap();
    push.transmit(&[1; 64]).unwrap();
    let mut frame = Frame::new();
    within(&[&pull], || took(&pull, &mut frame).then_some(()));
    assert_eq!(frame.bytes().len(), 64);

    push.transmit(&[2; 65]).unwrap();
    let second = Socket::new(&context, PUSH).unwrap();
    second.connect(&endpoint).unwrap();
    second.transmit(b"fits").unwrap();
    within(&[&pull], || took(&pull, &mut frame).then_some(()));
    assert_eq!(frame.bytes(), b"fits");
    assert_eq!(pull.receive(&mut frame), Err(Errno::EAGAIN));
}

#[test]
fn an_ended_context_is_an_error_not_a_panic() {
    let context = Context::new();
    let pull = Socket::new(&context, PULL).unwrap();
    let other = std::thread::spawn(move || {
        let mut context = context;
        context.destroy().unwrap();
    });
    let mut frame = Frame::new();
    let error = within(&[], || match pull.receive(&mut frame) {
        Err(Errno::EAGAIN) => None,
        result => Some(result),
    });
    assert_eq!(error, Err(Errno::ETERM));
    assert_eq!(pull.events(), Err(Errno::ETERM));
    drop(pull);
    other.join().unwrap();
}

#[test]
#[expect(unsafe_code, reason = "the descriptor belongs to libzmq")]
fn keepalive_reaches_the_connection() {
    let context = Context::new();
    let pull = Socket::new(&context, PULL).unwrap();
    pull.keep_alive(Keepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(15),
        count: 4,
        unacknowledged: Duration::from_secs(45),
    })
    .unwrap();
    let push = Socket::new(&context, PUSH).unwrap();
    push.connect(&bound(&pull)).unwrap();
    push.transmit(b"x").unwrap();
    let mut frame = Frame::new();
    within(&[&pull], || took(&pull, &mut frame).then_some(()));
    // SAFETY: the connection is open, as nobody closes either end before the asserts.
    let fd = unsafe { BorrowedFd::borrow_raw(frame.source_fd().unwrap()) };
    assert!(getsockopt(&fd, sockopt::KeepAlive).unwrap());
    assert_eq!(getsockopt(&fd, sockopt::TcpKeepIdle).unwrap(), 60);
    assert_eq!(getsockopt(&fd, sockopt::TcpKeepInterval).unwrap(), 15);
    assert_eq!(getsockopt(&fd, sockopt::TcpKeepCount).unwrap(), 4);
    assert_eq!(getsockopt(&fd, sockopt::TcpUserTimeout).unwrap(), 45_000);
}

#[test]
fn a_ttl_that_overflows_is_refused() {
    let push = Socket::new(&Context::new(), PUSH).unwrap();
    let seconds = Duration::from_secs;
    let mut liveness = Liveness { interval: seconds(25), timeout: seconds(20), ttl: seconds(60) };
    push.heartbeat(liveness).unwrap();
    liveness.ttl = Duration::from_millis(6_553_600);
    assert_eq!(push.heartbeat(liveness), Err(Errno(libc::EINVAL)));
}
