//! Builds libzmq 4.3.5 with CURVE for both daemons.
//!
//! `zeromq-src` compiles with an empty `platform.hpp`; what libzmq's own configure step would find
//! on Linux has to be said here. Without `HAVE_CLOCK_GETTIME`, for one, its timers follow the wall
//! clock, and a gateway whose clock steps back stops reconnecting.

use std::env;
use std::path::PathBuf;

/// What configure finds on every Linux that we build for. `HAVE_FORK` is left out on purpose: with
/// it libzmq asks for its process id about 11 times a message.
const LINUX: &[&str] = &[
    "HAVE_CLOCK_GETTIME",
    "HAVE_ACCEPT4",
    "HAVE_IF_NAMETOINDEX",
    "HAVE_MKDTEMP",
    "HAVE_POSIX_MEMALIGN=1",
    "ZMQ_CACHELINE_SIZE=64",
    "ZMQ_HAVE_EVENTFD",
    "ZMQ_HAVE_EVENTFD_CLOEXEC",
    "ZMQ_HAVE_IFADDRS",
    "ZMQ_HAVE_NOEXCEPT",
    "ZMQ_HAVE_O_CLOEXEC",
    "ZMQ_HAVE_PTHREAD_SETNAME_2",
    "ZMQ_HAVE_PTHREAD_SET_AFFINITY",
    "ZMQ_HAVE_SOCK_CLOEXEC",
    "ZMQ_HAVE_SO_BINDTODEVICE",
    "ZMQ_HAVE_SO_KEEPALIVE",
    "ZMQ_HAVE_SO_PEERCRED",
    "ZMQ_HAVE_TCP_KEEPCNT",
    "ZMQ_HAVE_TCP_KEEPIDLE",
    "ZMQ_HAVE_TCP_KEEPINTVL",
    "ZMQ_IOTHREAD_POLLER_USE_EPOLL_CLOEXEC",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let sodium = PathBuf::from(
        env::var("DEP_SODIUM_LIB")
            .or_else(|_| env::var("DEP_SODIUM_ROOT").map(|root| format!("{root}/lib")))
            .expect("libsodium-sys-stable says where its library is"),
    );
    let include = env::var("DEP_SODIUM_INCLUDE").expect("libsodium-sys-stable says its headers");

    let mut flags: Vec<String> = LINUX.iter().map(|name| format!("-D{name}")).collect();
    if matches!(env::var("OPT_LEVEL").as_deref(), Ok("s" | "z")) {
        flags.push("-Os".into());
        // Without iostreams.
        println!("cargo:rerun-if-changed=lean.hpp");
        let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        flags.push(format!("-include {}", quoted(&format!("{here}/lean.hpp"))));
    }
    flags.push("-ffunction-sections".into());
    flags.push("-fdata-sections".into());
    flags.push("-DNDEBUG".into());
    // Per target, so that cross builds keep what the user set for theirs.
    let variable = format!("CXXFLAGS_{}", target.replace('-', "_"));
    let mut theirs = env::var(&variable).or_else(|_| env::var("CXXFLAGS")).unwrap_or_default();
    // As a shell would read them: where this stands may have a space in its name.
    if env::var_os("CC_SHELL_ESCAPED_FLAGS").is_none() {
        theirs = theirs.split_whitespace().map(quoted).collect::<Vec<_>>().join(" ");
    }
    // SAFETY: a build script has one thread here.
    #[allow(unsafe_code)]
    unsafe {
        env::set_var("CC_SHELL_ESCAPED_FLAGS", "1");
        env::set_var(&variable, format!("{theirs} {}", flags.join(" ")));
    }
    zeromq_src::Build::new()
        .with_libsodium(Some(zeromq_src::LibLocation::new(sodium, include)))
        .build();
    // After libzmq: the linker reads archives in this order. zig's musl brings libc++ by itself.
    if target.ends_with("gnu") || target.contains("-gnueabi") {
        println!("cargo:rustc-link-lib=stdc++");
    }
}

/// One word, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
