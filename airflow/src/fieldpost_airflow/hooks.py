"""The hook: a hub, for plain code and for coroutines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from airflow.sdk import BaseHook

from fieldpost_airflow import __version__, calls, connection, protocol, sockets
from fieldpost_airflow.calls import Call, Page, Request, Submitted
from fieldpost_airflow.protocol import (
    BadAnswer,
    FieldpostError,
    HubAway,
    Json,
    RunState,
    Unreached,
)
from fieldpost_airflow.sockets import Address, AsyncClient, Client, Listener

T = TypeVar("T")


def drive(client: Client, call: Call[T], patience: float | None = None) -> T:
    """Carries a call out over a client."""
    answer: Any = None
    while True:
        try:
            request = call.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value
        answer = client.call(request.op, request.fields, request.wait, patience)


async def adrive(client: AsyncClient, call: Call[T], patience: float | None = None) -> T:
    """Carries a call out over a client."""
    answer: Any = None
    while True:
        try:
            request = call.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value
        answer = await client.call(request.op, request.fields, request.wait, patience)


class FieldpostHook(BaseHook):
    """A hub. Each method has a coroutine as its twin in :class:`FieldpostAsyncHook`.

    >>> hook = FieldpostHook()  # doctest: +SKIP
    >>> hook.submit(job="read-meter", node="gw-1", args={"bus": 2}).run_id  # doctest: +SKIP

    :param fieldpost_conn_id: the connection to the hub
    """

    conn_name_attr = "fieldpost_conn_id"
    default_conn_name = "fieldpost_default"
    conn_type = "fieldpost"
    hook_name = "Fieldpost"

    def __init__(
        self, fieldpost_conn_id: str = default_conn_name, *, address: Address | None = None
    ) -> None:
        super().__init__()
        self.fieldpost_conn_id = fieldpost_conn_id
        self._address = address

    @property
    def address(self) -> Address:
        """Where the hub is."""
        if self._address is None:
            self._address = connection.address(self.get_connection(self.fieldpost_conn_id))
        return self._address

    def get_conn(self) -> Client:
        """This process' connection: made at its first use, after a fork."""
        return sockets.client(self.address)

    def submit(
        self,
        job: str,
        args: Mapping[str, Any] | None = None,
        *,
        node: str | Sequence[str] | None = None,
        group: str | Sequence[str] | None = None,
        all_nodes: bool = False,
        ttl: float = 60.0,
        run_id: str | None = None,
        origin: str = "",
    ) -> Submitted:
        """Triggers a job on nodes. The hub has stored it when this returns. Again with the same
        ``run_id`` (from :func:`~fieldpost_airflow.protocol.new_run_id`), it is the same run. When
        it was sent and no answer comes, it may be stored or not, and the error says its ``run_id``.

        :param ttl: seconds until it must have started
        """
        submitted_as = run_id or protocol.new_run_id()
        call = calls.submit(
            job=job,
            select=protocol.select(node, group, all_nodes),
            args=args,
            run_id=submitted_as,
            ttl_ms=protocol.milliseconds(ttl, "ttl"),
            origin=origin,
        )
        try:
            return drive(self.get_conn(), call)
        except (HubAway, BadAnswer) as error:
            raise _unsure(error, submitted_as) from None

    def cancel(self, run_id: str, *, nodes: Sequence[str] = (), origin: str = "") -> int:
        """Stops a run; gives on how many nodes it was still open."""
        return drive(self.get_conn(), calls.cancel(run_id, nodes, origin))

    def run(self, run_id: str, *, wait: float = 0.0) -> RunState:
        """A run with all its nodes. With ``wait``: when it is final, or after so many seconds."""
        return drive(
            self.get_conn(), calls.run(run_id, protocol.milliseconds(wait, "wait", least=0))
        )

    def output(self, run_id: str, node: str | None = None, *, attempt: int | None = None) -> bytes:
        """All that a run wrote on a node. See :meth:`stream_output` for large ones."""
        return b"".join(self.stream_output(run_id, node, attempt=attempt))

    def stream_output(
        self, run_id: str, node: str | None = None, *, attempt: int | None = None
    ) -> Iterator[bytes]:
        """What a run wrote on a node, page by page (some tens of KiB each). Output that is not
        complete is an error, told after what there is."""
        call = calls.output(run_id, node, attempt)
        answer: Json | None = None
        while True:
            try:
                step = call.send(answer)
            except StopIteration as end:
                if not end.value:
                    raise _incomplete(run_id, node) from None
                return
            if isinstance(step, Request):
                answer = self.get_conn().call(step.op, step.fields)
            else:
                answer = None
                yield step

    def nodes(self, group: str | None = None, *, online: bool | None = None) -> list[Json]:
        """The accepted nodes, or those of a group, or those that the hub hears (or not)."""
        return drive(self.get_conn(), calls.nodes(group, online))

    def node(self, name: str) -> Json:
        """One node, in full."""
        return drive(self.get_conn(), calls.node(name))

    def schedule_get(
        self,
        *,
        node: str | Sequence[str] | None = None,
        group: str | Sequence[str] | None = None,
        all_nodes: bool = False,
    ) -> list[Json]:
        """What is scheduled: for all, or for those nodes or groups."""
        some = node is not None or group is not None or all_nodes
        select = protocol.select(node, group, all_nodes) if some else None
        return drive(self.get_conn(), calls.schedule_get(select))

    def schedule_set(
        self,
        entries: Sequence[Mapping[str, Any]],
        *,
        node: str | Sequence[str] | None = None,
        group: str | Sequence[str] | None = None,
        all_nodes: bool = False,
        origin: str = "",
    ) -> Json:
        """Replaces a schedule. The same again changes nothing."""
        select = protocol.select(node, group, all_nodes)
        return drive(self.get_conn(), calls.schedule_set(select, entries, origin))

    def results(
        self,
        after: int | None = None,
        *,
        consumer: str | None = None,
        jobs: Sequence[str] = (),
        nodes: Sequence[str] = (),
        limit: int = 50,
        wait: float = 0.0,
    ) -> Page:
        """Stored results after an offset, or after what ``consumer`` committed."""
        call = calls.results(
            after,
            consumer=consumer,
            jobs=jobs,
            nodes=nodes,
            limit=limit,
            wait_ms=protocol.milliseconds(wait, "wait", least=0),
        )
        return drive(self.get_conn(), call)

    def newest(self) -> int:
        """The offset of the hub's newest result."""
        return drive(self.get_conn(), calls.newest())

    def results_commit(self, consumer: str, offset: int | None) -> None:
        """Everything up to this offset is done with."""
        drive(self.get_conn(), calls.results_commit(consumer, offset))

    def status(self) -> Json:
        """What the hub says of itself."""
        return drive(self.get_conn(), calls.status())

    def test_connection(self) -> tuple[bool, str]:
        """For the button in Airflow's UI: whether a request is answered, or what is wrong."""
        try:
            with Client(self.address) as client:
                status = drive(client, calls.status(), patience=min(5.0, self.address.timeout))
        except (FieldpostError, ValueError) as error:
            return False, str(error)
        hub, version = status.get("hub"), str(status.get("version"))
        if _series(version) != _series(__version__):
            return False, (
                f"the hub {hub} answers, but its version is {version}, and this package is "
                f"{__version__}: the two are made to work together when they begin with the same "
                "two numbers"
            )
        return True, f"The hub {hub} answers (version {version})"


class FieldpostAsyncHook(BaseHook):
    """A hub, for coroutines: each method of :class:`FieldpostHook` as one. All users in an event
    loop share one socket.

    >>> async with FieldpostAsyncHook().connected() as hub:  # doctest: +SKIP
    ...     await hub.submit(job="ping", node="gw-1")
    """

    conn_name_attr = FieldpostHook.conn_name_attr
    default_conn_name = FieldpostHook.default_conn_name
    conn_type = FieldpostHook.conn_type
    hook_name = FieldpostHook.hook_name

    def __init__(
        self,
        fieldpost_conn_id: str = FieldpostHook.default_conn_name,
        *,
        address: Address | None = None,
        patience: float | None = None,
    ) -> None:
        super().__init__()
        self.fieldpost_conn_id = fieldpost_conn_id
        self.patience = patience
        self._address = address

    async def address(self) -> Address:
        """Where the hub is."""
        if self._address is None:
            conn = await self.aget_connection(self.fieldpost_conn_id)
            self._address = connection.address(conn)
        return self._address

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[FieldpostAsyncHook]:
        """Holds the shared socket, so that several calls use one connection. Any number of
        coroutines may, each for itself."""
        async with sockets.shared(await self.address()):
            yield self

    @contextmanager
    def events(self, topics: Collection[str]) -> Iterator[Listener]:
        """Subscribes to live events; within :meth:`connected`."""
        client = None if self._address is None else sockets.held(self._address)
        assert client is not None
        with client.events(topics) as listener:
            yield listener

    async def _drive(self, call: Call[T]) -> T:
        async with sockets.shared(await self.address()) as client:
            return await adrive(client, call, self.patience)

    async def submit(
        self,
        job: str,
        args: Mapping[str, Any] | None = None,
        *,
        node: str | Sequence[str] | None = None,
        group: str | Sequence[str] | None = None,
        all_nodes: bool = False,
        ttl: float = 60.0,
        run_id: str | None = None,
        origin: str = "",
    ) -> Submitted:
        """See :meth:`FieldpostHook.submit`."""
        submitted_as = run_id or protocol.new_run_id()
        call = calls.submit(
            job=job,
            select=protocol.select(node, group, all_nodes),
            args=args,
            run_id=submitted_as,
            ttl_ms=protocol.milliseconds(ttl, "ttl"),
            origin=origin,
        )
        try:
            return await self._drive(call)
        except (HubAway, BadAnswer) as error:
            raise _unsure(error, submitted_as) from None

    async def cancel(self, run_id: str, *, nodes: Sequence[str] = (), origin: str = "") -> int:
        """See :meth:`FieldpostHook.cancel`."""
        return await self._drive(calls.cancel(run_id, nodes, origin))

    async def run(self, run_id: str, *, wait: float = 0.0) -> RunState:
        """See :meth:`FieldpostHook.run`."""
        return await self._drive(calls.run(run_id, protocol.milliseconds(wait, "wait", least=0)))

    async def is_final(self, run_id: str, *, wait: float) -> bool:
        """Whether a run is final; answers when it is, or after so many seconds."""
        return await self._drive(
            calls.is_final(run_id, protocol.milliseconds(wait, "wait", least=0))
        )

    async def output(
        self, run_id: str, node: str | None = None, *, attempt: int | None = None
    ) -> bytes:
        """See :meth:`FieldpostHook.output`."""

        def whole() -> Generator[Request, Json, bytes]:
            call = calls.output(run_id, node, attempt)
            parts: list[bytes] = []
            answer: Json | None = None
            while True:
                try:
                    step = call.send(answer)
                except StopIteration as end:
                    if not end.value:
                        raise _incomplete(run_id, node) from None
                    return b"".join(parts)
                if isinstance(step, Request):
                    answer = yield step
                else:
                    parts.append(step)
                    answer = None

        return await self._drive(whole())

    async def nodes(self, group: str | None = None, *, online: bool | None = None) -> list[Json]:
        """See :meth:`FieldpostHook.nodes`."""
        return await self._drive(calls.nodes(group, online))

    async def node(self, name: str) -> Json:
        """See :meth:`FieldpostHook.node`."""
        return await self._drive(calls.node(name))

    async def schedule_get(
        self,
        *,
        node: str | Sequence[str] | None = None,
        group: str | Sequence[str] | None = None,
        all_nodes: bool = False,
    ) -> list[Json]:
        """See :meth:`FieldpostHook.schedule_get`."""
        some = node is not None or group is not None or all_nodes
        select = protocol.select(node, group, all_nodes) if some else None
        return await self._drive(calls.schedule_get(select))

    async def schedule_set(
        self,
        entries: Sequence[Mapping[str, Any]],
        *,
        node: str | Sequence[str] | None = None,
        group: str | Sequence[str] | None = None,
        all_nodes: bool = False,
        origin: str = "",
    ) -> Json:
        """See :meth:`FieldpostHook.schedule_set`."""
        select = protocol.select(node, group, all_nodes)
        return await self._drive(calls.schedule_set(select, entries, origin))

    async def results(
        self,
        after: int | None = None,
        *,
        consumer: str | None = None,
        jobs: Sequence[str] = (),
        nodes: Sequence[str] = (),
        limit: int = 50,
        wait: float = 0.0,
    ) -> Page:
        """See :meth:`FieldpostHook.results`."""
        call = calls.results(
            after,
            consumer=consumer,
            jobs=jobs,
            nodes=nodes,
            limit=limit,
            wait_ms=protocol.milliseconds(wait, "wait", least=0),
        )
        return await self._drive(call)

    async def newest(self) -> int:
        """See :meth:`FieldpostHook.newest`."""
        return await self._drive(calls.newest())

    async def results_commit(self, consumer: str, offset: int | None) -> None:
        """See :meth:`FieldpostHook.results_commit`."""
        await self._drive(calls.results_commit(consumer, offset))

    async def status(self) -> Json:
        """See :meth:`FieldpostHook.status`."""
        return await self._drive(calls.status())


def _series(version: str) -> list[str]:
    """What two versions have in common that speak the same protocol: before 1.0, two numbers."""
    return version.split(".")[:2]


def _unsure(error: HubAway | BadAnswer, run_id: str) -> HubAway | BadAnswer:
    if isinstance(error, Unreached):
        return error
    return type(error)(f"{error}; it may have been stored: submit again with run_id={run_id!r}")


def _incomplete(run_id: str, node: str | None) -> FieldpostError:
    where = f" on {node}" if node else ""
    return FieldpostError(
        f"the output of the run {run_id}{where} is not complete or is not known: "
        f"it goes on, some was dropped, or there is no such run; `fieldpost runs {run_id}` says "
        "which"
    )
