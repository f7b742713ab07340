"""Requests under way on one connection, and what the connection went through. No I/O here.

A request is kept until its reply is here: when the connection is made anew, as after a restart of
the hub, every open request is sent again. All of the hub's operations may be repeated, so the
worst that comes of it is a second reply, which is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from fieldpost_airflow import protocol
from fieldpost_airflow.protocol import FieldpostError, HubAway, NotAllowed, Reply, Unreached

# zmq.h of 4.3: events of a socket's monitor.
CONNECTED = 0x0001
CLOSED = 0x0080
DISCONNECTED = 0x0200
FAILED_NO_DETAIL = 0x0800
SUCCEEDED = 0x1000
FAILED_PROTOCOL = 0x2000
FAILED_AUTH = 0x4000
WANTED = CONNECTED | DISCONNECTED | FAILED_NO_DETAIL | SUCCEEDED | FAILED_PROTOCOL | FAILED_AUTH


class Sight(Enum):
    """The most telling thing that was seen of the hub."""

    NOTHING = auto()
    CONNECTED = auto()
    BROKEN = auto()
    REFUSED = auto()
    WELCOME = auto()


class Exchange:
    """The requests of one connection to ``address``."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sight = Sight.NOTHING
        self.up = False
        self._was_up = False
        self._next_id = 1
        self._open: dict[int, bytes] = {}

    def ask(self, op: str, fields: Mapping[str, Any]) -> tuple[int, bytes]:
        """A new request: its id and frame. Send the frame now if ``up``, else it is sent later."""
        request_id = self._next_id
        frame = protocol.encode(request_id, op, fields)
        self._next_id += 1
        self._open[request_id] = frame
        return request_id, frame

    def forget(self, request_id: int) -> None:
        """Nobody waits for this one any more."""
        self._open.pop(request_id, None)

    def frame(self, request_id: int) -> bytes | None:
        """An open request, to send it again."""
        return self._open.get(request_id)

    def received(self, frame: bytes) -> Reply | None:
        """What a frame answers, if anybody still waits for it."""
        reply = protocol.decode(frame)
        return reply if self._open.pop(reply.id, None) is not None else None

    def happened(self, event: int) -> list[bytes]:
        """Takes in an event of the monitor; gives what is to be sent now."""
        if event == SUCCEEDED:
            self.sight, self.up, self._was_up = Sight.WELCOME, True, True
            return list(self._open.values())
        if event == FAILED_AUTH:
            self.sight = Sight.REFUSED
        elif event in (FAILED_NO_DETAIL, FAILED_PROTOCOL):
            self.sight = Sight.BROKEN
        elif event == CONNECTED and self.sight is Sight.NOTHING:
            self.sight = Sight.CONNECTED
        if event != CONNECTED:
            self.up = False
        return []

    @staticmethod
    def is_failure(event: int) -> bool:
        """Whether an event is the end of a connection, and not of this try alone."""
        return event in (FAILED_NO_DETAIL, FAILED_PROTOCOL, FAILED_AUTH)

    @property
    def must_reconnect(self) -> bool:
        """libzmq gives a connection up for good after these; only we can try again."""
        return self.sight in (Sight.REFUSED, Sight.BROKEN)

    def away(self, waited: float) -> FieldpostError:
        """What the lack of an answer means."""
        address = self.address
        away = HubAway if self._was_up else Unreached
        match self.sight:
            case Sight.NOTHING:
                return away(
                    f"no hub answers at {address}: is `fieldpost hub` running there, "
                    "and are host and port of the connection right?"
                )
            case Sight.CONNECTED:
                return away(
                    f"something listens at {address}, but it does not speak as a hub: is that "
                    "the hub's clients' port (4512), and is the connection's server key the hub's?"
                )
            case Sight.BROKEN:
                return away(
                    f"{address} breaks the handshake off: is the connection's server key "
                    "the hub's, and the port the clients' one (4512)?"
                )
            case Sight.REFUSED:
                return NotAllowed(
                    f"the hub at {address} does not let this key in: its configuration needs a "
                    "[[client]] block with the connection's public key, and a reload (SIGHUP)"
                )
            case Sight.WELCOME:
                state = "did not answer" if self.up else "went away and did not come back"
                return HubAway(f"the hub at {address} {state} within {waited:.1f} s")
