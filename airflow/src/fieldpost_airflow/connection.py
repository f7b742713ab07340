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

import re
from typing import Any, Protocol

import zmq

from fieldpost_airflow.sockets import Address

CLIENTS_PORT = 4512
EVENTS_PORT = 4513
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
        return Address(endpoint=f"ipc://{host}", events=f"ipc://{local}", timeout=timeout)
    port = int(conn.port or CLIENTS_PORT)
    server = _key(name, "extra field server_key (the hub's public key)", extra.get("server_key"))
    secret = _key(name, "password (the client's secret key)", conn.password)
    derived = zmq.curve_public(secret.encode()).decode()
    public = _key(name, "login (the client's public key)", conn.login or derived)
    if public != derived:
        raise ValueError(
            f"the connection {name}: login and password are not one pair of keys; "
            "`fieldpost key new` makes one"
        )
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return Address(
        endpoint=f"tcp://{host}:{port}",
        events=f"tcp://{host}:{int(extra.get('events_port') or EVENTS_PORT)}",
        server_key=server,
        public_key=public,
        secret_key=secret,
        timeout=timeout,
    )


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
