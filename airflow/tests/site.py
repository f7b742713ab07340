"""A real hub and real agents on this machine, with keys of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import zmq

from fieldpost_airflow.hooks import FieldpostHook
from fieldpost_airflow.sockets import Address, Client

T = TypeVar("T")

JOBS = """
[[job]]
name = "ping"
builtin = "ping"
[[job]]
name = "read-meter"
command = ["{home}/read-meter"]
args.bus = {{ pattern = "[0-9]", default = "0" }}
overlap = "queue"
concurrency = 4
[[job]]
name = "beat"
command = ["/bin/sh", "-c", "echo 1"]
[[job]]
name = "lines"
command = ["/bin/sh", "-c", "echo one; echo two"]
[[job]]
name = "big"
command = ["/bin/sh", "-c", "head -c 300000 /dev/zero | tr '\\\\0' x"]
[[job]]
name = "fail"
command = ["/bin/sh", "-c", "echo partial; echo broken >&2; exit 3"]
[[job]]
name = "fail-on-gw-2"
command = ["/bin/sh", "-c", "test $FIELDPOST_NODE != gw-2 && echo 1"]
[[job]]
name = "fail-once"
command = ["/bin/sh", "-c", "test -e '{home}/once' && echo 1 || ! mkdir '{home}/once'"]
[[job]]
name = "hang"
command = ["/bin/sh", "-c", "echo $$ >'{home}/hanging'; exec sleep 600"]
timeout = "900s"
[[job]]
name = "slow"
command = ["/bin/sh", "-c", "echo x >>'{home}/slow'; sleep 3; echo 1"]
concurrency = 12
[[job]]
name = "mark"
command = ["/bin/sh", "-c", "echo x >>'{home}/marks'; echo 1"]
overlap = "queue"
concurrency = 4
"""


READ_METER = """#!/bin/sh
echo $FIELDPOST_RUN_ID >>"$(dirname "$0")/executed"
echo "{\\"bus\\": $FIELDPOST_ARG_BUS, \\"node\\": \\"$FIELDPOST_NODE\\"}"
"""


def binaries() -> Path | None:
    """Where the programs are: ``FIELDPOST_BIN``, or the workspace's own build."""
    root = Path(__file__).parents[2]
    places = [root / "target" / "debug", root / "target" / "release"]
    if named := os.environ.get("FIELDPOST_BIN"):
        places = [Path(named)]
    for place in places:
        if (place / "fieldpost").exists() and (place / "fieldpost-agent").exists():
            return place
    return None


def eventually(what: str, look: Callable[[], T | None], patience: float = 20.0) -> T:
    """Waits for what is sure to come."""
    ends = time.monotonic() + patience
    while time.monotonic() < ends:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {patience} s in vain: {what}")


def _ports() -> Iterator[int]:
    """Ports that nobody has, below those of outgoing connections."""
    port = 20_000 + os.getpid() % 10_000
    while True:
        port = port + 1 if port < 31_000 else 20_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


_free = _ports()


def next_port() -> int:
    """A port that nobody has."""
    return next(_free)


class Site:
    """A hub, and agents named gw-1, gw-2, … in the group ``field``."""

    def __init__(self, folder: Path, nodes: int = 0) -> None:
        self.folder = folder
        bin_folder = binaries()
        assert bin_folder is not None
        self.bin = bin_folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = [next(_free) for _ in range(4)]
        self.public, self.secret = (key.decode() for key in zmq.curve_keypair())
        triggers, results, clients, events = self.ports
        (folder / "hub.toml").write_text(
            f"""
[hub]
name = "test"
state_dir = "{folder}/store"
key_file = "{folder}/hub.key"
[listen]
triggers = "tcp://127.0.0.1:{triggers}"
results = "tcp://127.0.0.1:{results}"
clients = "tcp://127.0.0.1:{clients}"
events = "tcp://127.0.0.1:{events}"
[local]
socket = "{folder}/hub.sock"
events = "{folder}/events.sock"
[[client]]
name = "airflow"
key = "{self.public}"
role = "admin"
"""
        )
        self.local = Client(Address(endpoint=f"ipc://{folder}/hub.sock", timeout=10.0))
        self.names = [f"gw-{number}" for number in range(1, nodes + 1)]
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        self.start_hub()
        self.server_key = self._key("fieldpost", "key", "show", f"{self.folder}/hub.key")
        for name in self.names:
            self.add(name)
        for name in self.names:
            self.wait_up(name)

    # -- the hub ---------------------------------------------------------------------------------

    def start_hub(self) -> None:
        self._start("hub", "fieldpost", "hub", "--config", f"{self.folder}/hub.toml")
        eventually("the hub answers", lambda: (self.folder / "hub.sock").exists() or None)
        self.ask("status")

    def kill_hub(self) -> None:
        self._kill("hub", signal.SIGKILL)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.local.call(op, fields, patience=20.0)

    @property
    def address(self) -> Address:
        return Address(
            endpoint=f"tcp://127.0.0.1:{self.ports[2]}",
            events=f"tcp://127.0.0.1:{self.ports[3]}",
            server_key=self.server_key,
            public_key=self.public,
            secret_key=self.secret,
            timeout=10.0,
        )

    @property
    def hook(self) -> FieldpostHook:
        return FieldpostHook(address=self.address)

    @property
    def connection_json(self) -> str:
        """For ``AIRFLOW_CONN_FIELDPOST_DEFAULT``."""
        return json.dumps(
            {
                "conn_type": "fieldpost",
                "host": "127.0.0.1",
                "port": self.ports[2],
                "login": self.public,
                "password": self.secret,
                "extra": {"server_key": self.server_key, "events_port": self.ports[3]},
            }
        )

    # -- agents ----------------------------------------------------------------------------------

    def home(self, node: str) -> Path:
        return self.folder / node

    def add(self, node: str) -> None:
        home = self.home(node)
        (home / "run").mkdir(parents=True)
        (home / "read-meter").write_text(READ_METER)
        (home / "read-meter").chmod(0o755)
        config = f"""
[node]
id = "{node}"
groups = ["field"]
key_file = "{home}/agent.key"
state_dir = "{home}"
runtime_dir = "{home}/run"
[[hub]]
triggers = "tcp://127.0.0.1:{self.ports[0]}"
results = "tcp://127.0.0.1:{self.ports[1]}"
server_keys = ["{self.server_key}"]
[limits]
running = 12
""" + JOBS.format(home=home)
        (home / "agent.toml").write_text(config)
        self._run("fieldpost-agent", "key", "new", "--config", f"{home}/agent.toml")
        key = self._key("fieldpost-agent", "key", "show", "--config", f"{home}/agent.toml")
        self.ask("nodes.import", nodes=[{"node": node, "key": key, "groups": ["field"]}])
        self.start(node)

    def start(self, node: str) -> None:
        self._start(node, "fieldpost-agent", "run", "--config", f"{self.home(node)}/agent.toml")

    def stop(self, node: str) -> None:
        self._kill(node, signal.SIGKILL)

    def wait_up(self, node: str) -> None:
        def up() -> bool | None:
            row = self.ask("nodes.show", node=node)["node"]
            return (row.get("state") == "up" and bool(row.get("jobs"))) or None

        eventually(f"{node} is up", up)

    # -- processes -------------------------------------------------------------------------------

    def _start(self, name: str, program: str, *args: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [self.bin / program, *args], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _kill(self, name: str, number: signal.Signals) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(20)

    def _key(self, program: str, *args: str) -> str:
        """The public key among what a program says."""
        said = self._run(program, *args)
        found = re.search(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}", said)
        assert found is not None, said
        return found[0]

    def _run(self, program: str, *args: str) -> str:
        done = subprocess.run([self.bin / program, *args], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def close(self) -> None:
        self.local.close()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)
