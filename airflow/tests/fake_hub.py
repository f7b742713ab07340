"""A hub of a few lines, over real sockets: for what a real one can't be made to do at will."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import zmq
from zmq.auth import CURVE_ALLOW_ANY
from zmq.auth.thread import ThreadAuthenticator

from fieldpost_airflow.sockets import Address

Handler = Callable[[dict[str, Any]], "dict[str, Any] | None"]


class FakeHub:
    """Answers each request with what ``handler`` gives; ``None``: not at all."""

    def __init__(self, handler: Handler, *, endpoint: str | None = None) -> None:
        self.handler = handler
        self.requests: list[dict[str, Any]] = []
        self.server_public, self._server_secret = (key.decode() for key in zmq.curve_keypair())
        self.client_public, self._client_secret = (key.decode() for key in zmq.curve_keypair())
        self.endpoint = endpoint or ""
        self._allowed = True

    def keys_of(self, other: FakeHub) -> FakeHub:
        """Takes another hub's place: its address and keys."""
        self.endpoint = other.endpoint
        self.server_public, self._server_secret = other.server_public, other._server_secret
        self.client_public, self._client_secret = other.client_public, other._client_secret
        return self

    def shut(self) -> FakeHub:
        """Lets nobody in."""
        self._allowed = False
        return self

    def __enter__(self) -> FakeHub:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._auth = ThreadAuthenticator(self._context)
        self._auth.start()
        if self._allowed:
            self._auth.configure_curve(domain="*", location=CURVE_ALLOW_ANY)
        else:
            self._auth.configure_curve(domain="*", location="/nonexistent-keys")
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.curve_server = True
        self._router.curve_secretkey = self._server_secret.encode()
        self._router.bind(self.endpoint or "tcp://127.0.0.1:*")
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._router.close(0)
        self._auth.stop()
        self._context.term()

    @property
    def address(self) -> Address:
        return Address(
            endpoint=self.endpoint,
            server_key=self.server_public,
            public_key=self.client_public,
            secret_key=self._client_secret,
            timeout=5.0,
        )

    def _serve(self) -> None:
        while not self._stop.is_set():
            if not self._router.poll(20):
                continue
            peer, frame = self._router.recv_multipart()
            request = json.loads(frame)
            self.requests.append(request)
            answer = self.handler(request)
            if answer is None:
                continue
            reply = {"id": request["id"], "ok": "error" not in answer, **answer}
            self._router.send_multipart([peer, json.dumps(reply).encode()])


def refused(code: str, message: str = "no") -> dict[str, Any]:
    """An answer that refuses."""
    return {"error": {"code": code, "message": message}}
