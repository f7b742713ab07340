"""The only module that owns sockets: a DEALER for each request of plain code, one for coroutines.

Contexts and sockets are made at the first use, in the process that uses them: Airflow forks its
tasks, and a libzmq socket must not be used across a fork. Nothing here blocks an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import zmq
import zmq.asyncio

from fieldpost_airflow.exchange import SUCCEEDED, WANTED, Exchange, Sight
from fieldpost_airflow.protocol import PASSING, HubAway, Json, Refused, Reply

_HEARTBEAT_MS = 20_000
_MOST_FRAME = 65_600
_SILENCE = 10.0
"""Seconds beyond a request's own wait after which it is sent once more."""
_RETRY = 1.0
"""Seconds between tries of a connection that libzmq gave up."""

_BREATH = 0.25
"""Seconds until a request is made again that the hub could not grant at this moment."""


def _may_pass(refused: Refused, until: float) -> bool:
    return refused.code in PASSING and time.monotonic() + _BREATH < until


@dataclass(frozen=True)
class Address:
    """Where a hub is, and who asks."""

    endpoint: str
    """``tcp://host:4512``, or ``ipc:///run/fieldpost/hub.sock`` on the hub's own host."""
    events: str = ""
    """Where the hub publishes live events: ``tcp://host:4513``."""
    server_key: str = ""
    public_key: str = ""
    secret_key: str = field(default="", repr=False)
    timeout: float = 10.0
    """Seconds a request may go without an answer, beyond what it waits at the hub."""

    def __str__(self) -> str:
        return self.endpoint.removeprefix("tcp://").removeprefix("ipc://")


def _prepare(socket: zmq.Socket[Any], address: Address) -> None:
    socket.linger = 0
    # Every caller has one request under way: the queue is bounded by the callers.
    socket.sndhwm = 0
    socket.rcvhwm = 0
    socket.setsockopt(zmq.MAXMSGSIZE, _MOST_FRAME)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2_000)
    if address.endpoint.startswith("tcp://"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_MS)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 15)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 4)
    if address.server_key:
        socket.curve_serverkey = address.server_key.encode()
        socket.curve_publickey = address.public_key.encode()
        socket.curve_secretkey = address.secret_key.encode()


def _event(frames: list[bytes]) -> int:
    """The number of a monitor's event."""
    return int.from_bytes(frames[0][:2], sys.byteorder)


class Client:
    """Connections for plain code, of one process. Safe to share among its threads: each request
    has a connection to itself, so that nobody waits behind another's wait. There are as many as
    there ever were requests at the same time.

    >>> client = Client(Address("ipc:///run/fieldpost/hub.sock"))  # doctest: +SKIP
    >>> client.call("status", {})  # doctest: +SKIP
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []

    def call(
        self,
        op: str,
        fields: Mapping[str, Any],
        wait: float = 0.0,
        patience: float | None = None,
    ) -> Json:
        """Asks, and waits for the answer: ``wait`` (what the hub was told to wait) and the
        connection's timeout, or ``patience``, beyond it. Raises a ``FieldpostError``."""
        allowed = wait + (self.address.timeout if patience is None else patience)
        until = time.monotonic() + allowed
        with self._connection() as connection:
            while True:
                try:
                    return connection.call(op, fields, wait, until, allowed)
                except Refused as refused:
                    if not _may_pass(refused, until):
                        raise
                    time.sleep(_BREATH)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[_Connection]:
        with self._lock:
            idle = self._idle
            connection = idle.pop() if idle else _Connection(self.address)
        try:
            yield connection
        finally:
            with self._lock:
                kept = idle is self._idle
                if kept:
                    idle.append(connection)
            if not kept:
                # The client was closed meanwhile.
                connection.close()

    def close(self) -> None:
        """Ends the connections, those in use after their request; the next call makes a new one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Connection:
    """A socket to a hub, for one request at a time. It goes from thread to thread under a lock."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._pid = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._exchange = Exchange(str(address))

    def close(self) -> None:
        """Ends it; the next call makes it anew."""
        mine = self._pid == os.getpid()
        if mine and self._socket is not None:
            self._socket.disable_monitor()
            if self._monitor is not None:
                self._monitor.close(0)
            self._socket.close(0)
        if mine and self._context is not None:
            self._context.term()
        # A parent's sockets are the parent's: they are dropped, not closed.
        self._context = self._socket = self._monitor = None

    def _open(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        if self._pid != os.getpid():
            self.close()
        if self._socket is None or self._monitor is None:
            self._pid = os.getpid()
            self._exchange = Exchange(str(self.address))
            self._context = zmq.Context()
            self._socket = self._context.socket(zmq.DEALER)
            _prepare(self._socket, self.address)
            self._monitor = self._socket.get_monitor_socket(WANTED)
            self._socket.connect(self.address.endpoint)
        return self._socket, self._monitor

    def call(
        self, op: str, fields: Mapping[str, Any], wait: float, until: float, allowed: float
    ) -> Json:
        """Asks, and sends nothing after ``until``; ``allowed`` says how long that was."""
        socket, monitor = self._open()
        self._look(socket, monitor, until)
        exchange = self._exchange
        request_id, frame = exchange.ask(op, fields)
        if exchange.up:
            socket.send(frame)
        again = time.monotonic() + wait + _SILENCE
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        try:
            while True:
                now = time.monotonic()
                left = until - now
                if left <= 0:
                    raise exchange.away(allowed)
                if now >= again:
                    again = now + wait + _SILENCE
                    if exchange.up:
                        socket.send(frame)
                poller.poll(max(1, int(min(left, again - now, _RETRY) * 1000)))
                self._look(socket, monitor, until)
                if exchange.sight is Sight.REFUSED:
                    raise exchange.away(allowed)
                reply = self._receive(socket, request_id)
                if reply is not None:
                    return reply.granted()
        finally:
            exchange.forget(request_id)
            if exchange.must_reconnect:
                self.close()

    def _receive(self, socket: zmq.Socket[bytes], request_id: int) -> Reply | None:
        while True:
            try:
                frame = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return None
            reply = self._exchange.received(frame)
            if reply is not None and reply.id == request_id:
                return reply

    def _look(self, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes], until: float) -> None:
        while True:
            try:
                event = _event(monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            for frame in self._exchange.happened(event):
                # Its caller is about to hear that nothing came of it.
                if time.monotonic() < until:
                    socket.send(frame)


class Listener:
    """One who waits for live events. Get one from :meth:`AsyncClient.events`."""

    def __init__(self, topics: Collection[str]) -> None:
        self.topics = frozenset(topics)
        self._heard: set[str] = set()
        self._something = asyncio.Event()

    def tell(self, topics: Collection[str]) -> None:
        """Something has happened there, or may have."""
        self._heard.update(topics)
        self._something.set()

    async def hears(self, topics: Collection[str], patience: float) -> None:
        """Until something has happened on one of these topics since the last call, or so many
        seconds are over."""
        until = time.monotonic() + patience
        while self._heard.isdisjoint(topics):
            self._heard.clear()
            self._something.clear()
            left = until - time.monotonic()
            try:
                await asyncio.wait_for(self._something.wait(), max(0.0, left))
            except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
                return
        self._heard.clear()


class AsyncClient:
    """A connection for the coroutines of one event loop: any number of requests at a time.

    Get one with :func:`shared`.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._exchange = Exchange(str(address))
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        _prepare(self._socket, address)
        self._monitor = self._socket.get_monitor_socket(WANTED)
        self._socket.connect(address.endpoint)
        self._tasks = [
            asyncio.create_task(self._read_replies(), name="fieldpost replies"),
            asyncio.create_task(self._read_monitor(), name="fieldpost monitor"),
        ]
        self._events: zmq.asyncio.Socket | None = None
        self._events_monitor: Any = None
        self._listeners: dict[str, set[Listener]] = {}

    @property
    def waiting(self) -> int:
        """How many requests are under way."""
        return len(self._waiting)

    async def call(
        self,
        op: str,
        fields: Mapping[str, Any],
        wait: float = 0.0,
        patience: float | None = None,
    ) -> Json:
        """Like :meth:`Client.call`. With an infinite ``patience`` a hub that is away is waited for;
        a key that is not let in is an error all the same."""
        allowed = wait + (self.address.timeout if patience is None else patience)
        until = time.monotonic() + allowed
        while True:
            try:
                return await self._call(op, fields, wait, until, allowed)
            except Refused as refused:
                if not _may_pass(refused, until):
                    raise
                await asyncio.sleep(_BREATH)

    async def _call(
        self, op: str, fields: Mapping[str, Any], wait: float, until: float, allowed: float
    ) -> Json:
        request_id, frame = self._exchange.ask(op, fields)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = reply
        try:
            await self._send_if_up(frame)
            while True:
                left = until - time.monotonic()
                if left <= 0:
                    raise self._exchange.away(allowed)
                done, _ = await asyncio.wait({reply}, timeout=min(left, wait + _SILENCE))
                if done:
                    return reply.result().granted()
                if time.monotonic() < until:
                    await self._send_if_up(frame)
        finally:
            self._exchange.forget(request_id)
            self._waiting.pop(request_id, None)

    @contextlib.contextmanager
    def events(self, topics: Collection[str]) -> Iterator[Listener]:
        """Subscribes to live events, over one socket for all. A subscription takes a moment until
        it is at the hub, and what happens while the connection is down is not heard: look again now
        and then."""
        socket = self._subscriber()
        listener = Listener(topics)
        for topic in listener.topics:
            if topic not in self._listeners:
                socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
            self._listeners.setdefault(topic, set()).add(listener)
        try:
            yield listener
        finally:
            for topic in listener.topics:
                others = self._listeners[topic]
                others.discard(listener)
                if not others:
                    del self._listeners[topic]
                    if not socket.closed:
                        socket.setsockopt(zmq.UNSUBSCRIBE, topic.encode())

    def _subscriber(self) -> zmq.asyncio.Socket:
        if self._events is None:
            self._events = self._context.socket(zmq.SUB)
            _prepare(self._events, self.address)
            self._events_monitor = self._events.get_monitor_socket(SUCCEEDED)
            self._events.connect(self.address.events)
            self._tasks += [
                asyncio.create_task(self._read_events(self._events), name="fieldpost events"),
                asyncio.create_task(
                    self._read_events_monitor(self._events_monitor), name="fieldpost events monitor"
                ),
            ]
        return self._events

    async def _read_events(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            topic = (await socket.recv_multipart())[0].decode(errors="replace")
            for listener in self._listeners.get(topic, ()):
                listener.tell((topic,))

    async def _read_events_monitor(self, monitor: Any) -> None:
        while True:
            await monitor.recv_multipart()
            # It is connected, perhaps again: something may have been missed.
            for topic, listeners in self._listeners.items():
                for listener in listeners:
                    listener.tell((topic,))

    async def close(self) -> None:
        """Ends the connection; whoever still waits gets an error."""
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            # Whoever closes may be cancelled meanwhile: nobody else knows of these sockets.
            self._release()

    def _release(self) -> None:
        self._fail_all(HubAway("the connection was closed here"))
        for socket, monitor in (
            (self._socket, self._monitor),
            (self._events, self._events_monitor),
        ):
            if socket is not None:
                socket.disable_monitor()
                monitor.close(0)
                socket.close(0)
        self._context.term()

    async def _send_if_up(self, frame: bytes) -> None:
        if self._exchange.up:
            await self._socket.send(frame)

    async def _read_replies(self) -> None:
        while True:
            frame = await self._socket.recv()
            try:
                reply = self._exchange.received(frame)
            except Exception as error:  # a hub that speaks nonsense is every caller's to know
                self._fail_all(error)
                continue
            waiting = self._waiting.get(reply.id) if reply is not None else None
            if reply is not None and waiting is not None and not waiting.done():
                waiting.set_result(reply)

    async def _read_monitor(self) -> None:
        while True:
            event = _event(await self._monitor.recv_multipart())
            for frame in self._exchange.happened(event):
                await self._socket.send(frame)
            if not self._exchange.is_failure(event):
                continue
            if self._exchange.sight is Sight.REFUSED:
                self._fail_all(self._exchange.away(0))
            await asyncio.sleep(_RETRY)  # not polling: libzmq will not try again, we have to
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disconnect(self.address.endpoint)
            self._socket.connect(self.address.endpoint)

    def _fail_all(self, error: Exception) -> None:
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(error)


@dataclass
class _Shared:
    client: AsyncClient
    users: int = 0


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Address, _Shared]] = WeakKeyDictionary()


@contextlib.asynccontextmanager
async def shared(address: Address) -> AsyncIterator[AsyncClient]:
    """The one connection of this event loop to a hub; closed when its last user leaves."""
    clients = _shared.setdefault(asyncio.get_running_loop(), {})
    entry = clients.get(address)
    if entry is None:
        entry = clients[address] = _Shared(AsyncClient(address))
    entry.users += 1
    try:
        yield entry.client
    finally:
        entry.users -= 1
        if entry.users == 0:
            del clients[address]
            await entry.client.close()


def held(address: Address) -> AsyncClient | None:
    """This event loop's connection to a hub, while somebody shares it."""
    entry = _shared.get(asyncio.get_running_loop(), {}).get(address)
    return entry.client if entry is not None else None


def sharers(address: Address) -> int:
    """How many use this event loop's connection to a hub."""
    entry = _shared.get(asyncio.get_running_loop(), {}).get(address)
    return entry.users if entry is not None else 0


_clients: dict[Address, Client] = {}
_clients_lock = threading.Lock()


def client(address: Address) -> Client:
    """This process' client of a hub. Kept: to make a new connection costs a handshake."""
    with _clients_lock:
        return _clients.setdefault(address, Client(address))


def close_all() -> None:
    """Ends this process' connections; they are made again when they are used."""
    with _clients_lock:
        for each in _clients.values():
            each.close()
        _clients.clear()


def _after_fork() -> None:
    # A lock that was held at the fork would be held for ever; the sockets are the parent's.
    global _clients_lock
    _clients_lock = threading.Lock()
    _inherited.extend(_clients.values())
    _clients.clear()


_inherited: list[Client] = []
"""Kept, so that nothing of a parent's is closed here."""
os.register_at_fork(after_in_child=_after_fork)
