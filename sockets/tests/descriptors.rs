//! No descriptor of libzmq leaks into a job that the agent starts. Alone in its file: it looks at
//! every descriptor of the process.

#![expect(clippy::unwrap_used, reason = "clippy.toml excepts tests, but not what they call")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::RawFd;

use common::{bound, took, within};
use fieldpost_sockets::zmq::{Context, PULL, PUSH, SUB, XPUB};
use fieldpost_sockets::{Frame, Socket};

/// Those of the process, with their flags of open(2), close-on-exec included.
fn descriptors() -> BTreeSet<(RawFd, bool)> {
    fs::read_dir("/proc/self/fdinfo")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let number = entry.file_name().to_str().unwrap().parse().unwrap();
            // The one that reads the directory is gone by now.
            let text = fs::read_to_string(entry.path()).ok()?;
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            Some((number, flags & libc::O_CLOEXEC != 0))
        })
        .collect()
}

#[test]
fn every_descriptor_closes_on_exec() {
    let inherited: BTreeSet<_> = descriptors().into_iter().map(|(number, _)| number).collect();
    let context = Context::new();
    let [pull, push, xpub, sub] =
        [PULL, PUSH, XPUB, SUB].map(|kind| Socket::new(&context, kind).unwrap());
    push.connect(&bound(&pull)).unwrap();
    sub.connect(&bound(&xpub)).unwrap();
    let local = format!("ipc://@fieldpost-descriptors-{}", std::process::id());
    pull.bind(&local).unwrap();
    push.connect(&local).unwrap();
    sub.set_subscribe(b"").unwrap();
    let mut frame = Frame::new();
    for _ in 0..2 {
        push.transmit(b"over each connection").unwrap();
        within(&[&pull], || took(&pull, &mut frame).then_some(()));
    }
    within(&[&xpub], || took(&xpub, &mut frame).then_some(()));

    let opened: Vec<_> =
        descriptors().into_iter().filter(|(number, _)| !inherited.contains(number)).collect();
    // Two ends of three connections, three listeners, and what libzmq wakes its threads with.
    assert!(opened.len() > 9, "only {opened:?}");
    let leaking: Vec<_> = opened.iter().filter(|(_, closes)| !closes).collect();
    assert!(leaking.is_empty(), "{leaking:?} of {opened:?}");
}
