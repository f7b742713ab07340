//! What was built: the version, CURVE, and the clock of its timers.

#![expect(clippy::unwrap_used, reason = "clippy.toml excepts tests, but not what they call")]

use std::ffi::{c_ulong, c_void};

use fieldpost_sockets::{check_library, zmq};
use nix::time::{ClockId, clock_gettime};

#[test]
fn the_library_is_4_3_5_with_curve() {
    assert_eq!(zmq::version(), (4, 3, 5));
    assert_eq!(zmq::has("curve"), Some(true));
    assert_eq!(check_library(), Ok(()));
}

/// A stopwatch keeps the time that libzmq's timers run on (zmq_utils.cpp, `clock_t::now_us`).
/// Built without `HAVE_CLOCK_GETTIME` that is the wall clock, decades away from the monotonic one.
#[test]
#[expect(unsafe_code, reason = "rust-zmq does not wrap the stopwatch")]
fn its_timers_do_not_follow_the_wall_clock() {
    unsafe extern "C" {
        fn zmq_stopwatch_start() -> *mut c_void;
        fn zmq_stopwatch_stop(watch: *mut c_void) -> c_ulong;
    }
    let before = monotonic_micros();
    // SAFETY: start gives a pointer to a u64, which lives until stop.
    let clock = unsafe {
        let watch = zmq_stopwatch_start();
        let clock = watch.cast::<u64>().read();
        zmq_stopwatch_stop(watch);
        clock
    };
    let after = monotonic_micros();
    assert!((before..=after).contains(&clock), "{before} <= {clock} <= {after}");
}

fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000).unwrap()
}
