//! The floor of the agent's memory: libzmq, two CURVE sockets and nothing else. It waits for
//! commands as the agent does, and throws them away.

use std::process::ExitCode;
use std::time::Duration;

use fieldpost_sockets::zmq::{Context, SocketType};
use fieldpost_sockets::{Errno, KeyPair, PublicKey, SecretKey, Socket, check_library};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [triggers, results, server, secret] = args.as_slice() else {
        eprintln!("usage: fieldpost-skeleton TRIGGERS RESULTS SERVER_KEY SECRET_KEY");
        return ExitCode::from(64);
    };
    match run(triggers, results, server, secret) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("fieldpost-skeleton: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Never {}

fn run(triggers: &str, results: &str, server: &str, secret: &str) -> Result<Never, String> {
    check_library().map_err(|bad| bad.to_string())?;
    let server: PublicKey = server.parse().map_err(|bad| format!("{bad}"))?;
    let secret: SecretKey = secret.parse().map_err(|bad| format!("{bad}"))?;
    let keys = KeyPair::from(secret);
    let context = Context::new();
    let wrong = |errno: Errno| errno.to_string();
    let sub = Socket::new(&context, SocketType::SUB).map_err(wrong)?;
    let push = Socket::new(&context, SocketType::PUSH).map_err(wrong)?;
    for (socket, to) in [(&sub, triggers), (&push, results)] {
        socket.join_curve(&server, &keys.public, &keys.secret).map_err(wrong)?;
        socket.set_sndhwm(100).map_err(|error| error.to_string())?;
        socket.connect(to).map_err(|error| error.to_string())?;
    }
    sub.set_subscribe(b"all/").map_err(|error| error.to_string())?;
    loop {
        // As the agent does: a message when there is one, else asleep for good.
        match sub.poll(fieldpost_sockets::zmq::POLLIN, -1) {
            Ok(_) => drop(sub.recv_bytes(fieldpost_sockets::zmq::DONTWAIT)),
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}
