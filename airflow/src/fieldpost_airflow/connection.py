"""An Airflow connection as a hub's address. No I/O here.

======================  ==========================================
the connection's field  what it is
======================  ==========================================
host                    the hub's name, or the path of its local socket
port                    the clients' port, 4512
login, password         the client's public and secret key (the public one may be left out)
extra ``server_key``    the hub's public key
extra ``events_port``   4513
extra ``timeout``       seconds the hub may take to answer, 10
======================  ==========================================
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import Any, Protocol

import zmq
from zmq.utils import z85

from fieldpost_airflow.sockets import Address

CLIENTS_PORT = 4512
EVENTS_PORT = 4513
_HOST = re.compile(r"[\w.-]+")
_MOST_PATH = 107
"""The longest path of a Unix socket, in bytes."""
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


class Fields(Protocol):
    """What is read of an Airflow connection."""

    conn_id: Any
    host: Any
    port: Any
    login: Any
    password: Any

    @property
    def extra_dejson(self) -> Any: ...


def address(conn: Fields) -> Address:
    """The address, or a ``ValueError`` that names the field and what was expected."""
    name = conn.conn_id
    extra = conn.extra_dejson or {}
    host = (conn.host or "").strip()
    timeout = _timeout(name, extra.get("timeout"))
    if not host:
        raise ValueError(f"the connection {name} has no host: the hub's name is expected")
    if host.startswith("/"):
        # The hub's own names for its two local sockets.
        local = extra.get("events_socket") or host.rpartition("/")[0] + "/events.sock"
        for path in (host, local):
            if len(path.encode()) > _MOST_PATH:
                raise ValueError(
                    f"the connection {name}: {path} has {len(path.encode())} bytes: "
                    f"a Unix socket's path has at most {_MOST_PATH}"
                )
        return Address(endpoint=f"ipc://{host}", events=f"ipc://{local}", timeout=timeout)
    host = _host(name, host)
    port = _port(name, "port", conn.port or CLIENTS_PORT)
    events = _port(name, "events_port", extra.get("events_port") or EVENTS_PORT)
    server = _key(name, "extra field server_key (the hub's public key)", extra.get("server_key"))
    secret = _key(name, "password (the client's secret key)", conn.password)
    derived = zmq.curve_public(secret.encode()).decode()
    public = _key(name, "login (the client's public key)", conn.login or derived)
    if public != derived:
        raise ValueError(
            f"the connection {name}: login and password are not one pair of keys; "
            "`fieldpost key new` makes one"
        )
    return Address(
        endpoint=f"tcp://{host}:{port}",
        events=f"tcp://{host}:{events}",
        server_key=server,
        public_key=public,
        secret_key=secret,
        timeout=timeout,
    )


def _host(conn_id: Any, host: str) -> str:
    """A name or an address, as it stands before a port."""
    if _HOST.fullmatch(host):
        return host
    bare = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.IPv6Address(bare)
    except ValueError:
        raise ValueError(
            f"the connection {conn_id}: host {host!r}: a name or an address is expected, "
            "without tcp:// and port"
        ) from None
    return f"[{bare}]"


def _port(conn_id: Any, what: str, value: Any) -> int:
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = 0
    if not 0 < port < 65536:
        raise ValueError(f"the connection {conn_id}: {what} {value!r}: 1 to 65535 is expected")
    return port


def _key(conn_id: Any, what: str, value: Any) -> str:
    text = str(value or "").strip()
    if not text:
        raise ValueError(f"the connection {conn_id} has no {what}: 40 characters of Z85")
    if not _KEY.fullmatch(text):
        # The value may be a secret: it is not shown.
        raise ValueError(
            f"the connection {conn_id}: {what} is no key: 40 characters of Z85 are expected, "
            f"it has {len(text)} characters"
        )
    try:
        z85.decode(text)
    except struct.error:  # five characters can say more than four bytes hold
        raise ValueError(f"the connection {conn_id}: {what} is mistyped: it is no key") from None
    return text


def _timeout(conn_id: Any, value: Any) -> float:
    if value in (None, ""):
        return 10.0
    try:
        timeout = float(value)
    except (TypeError, ValueError):
        timeout = 0.0
    if not 0 < timeout <= 3600:
        raise ValueError(
            f"the connection {conn_id}: timeout {value!r}: seconds, more than 0, are expected"
        )
    return timeout
