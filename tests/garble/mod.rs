//! A go-between on the way of an accepted peer to the hub: it lets the handshake pass up to some
//! frame and garbles that and what follows, within the encrypted channel.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;

/// A greeting of ZMTP 3: it is let pass.
const GREETING: usize = 64;

/// How long a read waits before it looks whether all is over.
const LOOK: Duration = Duration::from_millis(50);

/// What is between the peers, on a port of its own.
pub struct Between {
    listener: TcpListener,
    hub: u16,
}

impl Between {
    pub fn new(hub: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, hub }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Serves one connection after the other until the end; counts the frames that it garbled.
    pub fn serve(&self, stop: &AtomicBool, deeds: &AtomicU64) {
        let mut rng = Rng::with_seed(7);
        while !stop.load(Ordering::Relaxed) {
            match self.listener.accept() {
                Ok((peer, _)) => {
                    // A connection that ends is what is wanted.
                    drop(self.pass(&peer, &mut rng, stop, deeds));
                }
                Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
            }
        }
    }

    fn pass(
        &self,
        peer: &TcpStream,
        rng: &mut Rng,
        stop: &AtomicBool,
        deeds: &AtomicU64,
    ) -> std::io::Result<()> {
        let hub = TcpStream::connect(("127.0.0.1", self.hub))?;
        for stream in [peer, &hub] {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(LOOK))?;
        }
        std::thread::scope(|scope| {
            let back = scope.spawn(|| copy(&hub, peer, stop));
            let there = garble(peer, &hub, rng, stop, deeds);
            for stream in [peer, &hub] {
                // It may be closed already.
                stream.shutdown(Shutdown::Both).ok();
            }
            back.join().expect("copying does not panic").and(there)
        })
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, stop: &AtomicBool) -> std::io::Result<()> {
    let mut bytes = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&bytes[..count])?,
            Err(error) if is_nothing_yet(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The frames of a handshake are HELLO and INITIATE; then come READY's answers and messages.
fn garble(
    from: &TcpStream,
    mut to: &TcpStream,
    rng: &mut Rng,
    stop: &AtomicBool,
    deeds: &AtomicU64,
) -> std::io::Result<()> {
    let mut frames = Frames { from, stop };
    // Each waits for the first half of the other's before it sends the rest.
    for _ in 0..GREETING {
        to.write_all(&frames.take(1)?)?;
    }
    let spared = rng.usize(0..8);
    for number in 0.. {
        let (flags, mut body) = frames.next()?;
        let garbled = number >= spared && rng.u8(0..3) > 0;
        if !garbled || body.is_empty() {
            to.write_all(&frame(flags, &body))?;
            continue;
        }
        deeds.fetch_add(1, Ordering::Relaxed);
        let at = rng.usize(0..body.len());
        match rng.u8(0..7) {
            0 => body[at] ^= 1 << rng.u8(0..8),
            1 => body.truncate(at),
            // The command's name and the nonce stay.
            2 => {
                let kept = body.len().min(16);
                rng.fill(&mut body[kept..]);
            }
            3 => body.extend((0..rng.usize(1..70_000)).map(|_| rng.u8(..))),
            4 => to.write_all(&frame(flags, &body))?, // it comes twice
            5 => body.clear(),
            _ => to.write_all(&frame(rng.u8(..8), b"\x07MESSAGE\0\0\0\0\xff\xff\xff\xff"))?,
        }
        to.write_all(&frame(flags, &body))?;
    }
    Ok(())
}

/// What a peer sends, frame by frame.
struct Frames<'a> {
    from: &'a TcpStream,
    stop: &'a AtomicBool,
}

impl Frames<'_> {
    fn next(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let flags = self.take(1)?[0];
        let length = if flags & 2 == 0 {
            u64::from(self.take(1)?[0])
        } else {
            u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes"))
        };
        let length = usize::try_from(length).unwrap();
        Ok((flags, self.take(length)?))
    }

    fn take(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            if self.stop.load(Ordering::Relaxed) {
                return Err(ErrorKind::Interrupted.into());
            }
            match self.from.read(&mut bytes[filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if is_nothing_yet(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }
}

fn is_nothing_yet(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A frame with the length that this body has.
fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    match u8::try_from(body.len()) {
        Ok(length) => [&[flags & !2, length], body].concat(),
        Err(_) => [&[flags | 2], &(body.len() as u64).to_be_bytes()[..], body].concat(),
    }
}
