"""What the triggerer awaits: the end of a run, and results from the field."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping, Sequence
from typing import Any

from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer
from asgiref.sync import sync_to_async

from fieldpost_airflow import calls, outcome, protocol
from fieldpost_airflow.hooks import FieldpostAsyncHook, FieldpostHook
from fieldpost_airflow.protocol import FieldpostError, Json

_WAIT = 60.0
"""Seconds that one request is left with the hub; it answers at once when there is something."""
_CANCEL_PATIENCE = 60.0
"""Seconds to tell the hub that a run is not wanted any more."""
_kills: set[asyncio.Task[None]] = set()
_IN_PROGRESS = frozenset({"deferred", "running"})


async def state_of(task_instance: Any) -> tuple[bool, str | None]:
    """What Airflow says of a task instance now: whether it knows it, and its state."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    map_index = getattr(task_instance, "map_index", -1)
    states = await sync_to_async(RuntimeTaskInstance.get_task_states)(
        dag_id=task_instance.dag_id,
        task_ids=[task_instance.task_id],
        run_ids=[task_instance.run_id],
        map_index=map_index,
    )
    tasks = states.get(task_instance.run_id, {})
    key = task_instance.task_id if map_index < 0 else f"{task_instance.task_id}_{map_index}"
    return key in tasks, tasks.get(key)


class FieldpostRunTrigger(BaseTrigger):
    """Awaits the end of a run. A hub that is away is waited for.

    Its event is ``{"run_id", "outcome": "final" | "timeout" | "error", "message", "memo"}``; the
    results are fetched by whoever gets it.

    :param deadline: Unix time beyond which it is not waited for
    :param cancel_on_kill: whether the run is cancelled when a user ends the task
    :param memo: handed back in the event
    """

    def __init__(
        self,
        run_id: str,
        fieldpost_conn_id: str = FieldpostHook.default_conn_name,
        deadline: float | None = None,
        cancel_on_kill: bool = True,
        memo: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run_id = run_id
        self.fieldpost_conn_id = fieldpost_conn_id
        self.deadline = deadline
        self.cancel_on_kill = cancel_on_kill
        self.memo = dict(memo or {})
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "run_id": self.run_id,
                "fieldpost_conn_id": self.fieldpost_conn_id,
                "deadline": self.deadline,
                "cancel_on_kill": self.cancel_on_kill,
                "memo": self.memo,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        word, message = "final", ""
        try:
            await asyncio.wait_for(self._end(), self._left())
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            word = "timeout"
        except (FieldpostError, ValueError) as error:
            word, message = "error", str(error)
        # From here on a kill is not the run's any more: it has ended, or the task looks after it.
        self._fired = True
        yield TriggerEvent(
            {"run_id": self.run_id, "outcome": word, "message": message, "memo": self.memo}
        )

    def _left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.time())

    async def _end(self) -> None:
        hook = FieldpostAsyncHook(self.fieldpost_conn_id, patience=math.inf)
        async with hook.connected():
            while not await hook.is_final(self.run_id, wait=_WAIT):
                pass

    async def on_kill(self) -> None:
        """Cancels the run if a user ended the task. Airflow also calls this when it only moves the
        trigger elsewhere, so it is asked first."""
        if not self.cancel_on_kill or self._fired or self.task_instance is None:
            return
        # Until a trigger has ended, the triggerer cancels it again at each of its rounds, and would
        # so cut this short.
        work = asyncio.create_task(self._cancel_if_over(), name=f"fieldpost cancel {self.run_id}")
        _kills.add(work)
        work.add_done_callback(_kills.discard)
        await asyncio.shield(work)

    async def _cancel_if_over(self) -> None:
        known, state = await state_of(self.task_instance)
        if not known or state in _IN_PROGRESS:
            self.log.info("The run %s goes on: its task is %s", self.run_id, state or "unknown")
            return
        hook = FieldpostAsyncHook(self.fieldpost_conn_id, patience=_CANCEL_PATIENCE)
        try:
            await hook.cancel(self.run_id, origin=f"airflow: the task is {state or 'cleared'}")
        except (FieldpostError, ValueError) as error:
            self.log.error("%s", calls.goes_on(self.run_id, error))
            return
        self.log.info("Cancelled the run %s: its task is %s", self.run_id, state or "cleared")


class FieldpostEventTrigger(BaseEventTrigger):
    """Results from the field as events that start DAGs, from the hub's durable cursor.

    Each event is a result as the hub keeps it (``run_id``, ``node``, ``job``, ``status``, times, …)
    with an ``event_id``. None is missed, whatever restarts in between; one may be delivered again,
    with the same ``event_id``. The cursor moves on only after Airflow has stored an event.

    .. code-block:: python

        meter = Asset(
            "meter",
            watchers=[AssetWatcher(name="hub", trigger=FieldpostEventTrigger(jobs=["read-meter"]))],
        )

    :param jobs: only of these jobs
    :param nodes: only on these nodes
    :param statuses: only with these statuses; ``None``: with any
    :param consumer: the name of its cursor at the hub. One trigger, one consumer: by default it is
        derived from all the rest, so that two different triggers never share one
    :param start: where a new consumer starts: ``"new"`` results, or ``"all"`` that the hub keeps
    """

    def __init__(
        self,
        jobs: str | Sequence[str] | None = None,
        nodes: str | Sequence[str] | None = None,
        statuses: str | Sequence[str] | None = ("ok",),
        consumer: str | None = None,
        start: str = "new",
        fieldpost_conn_id: str = FieldpostHook.default_conn_name,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.jobs = protocol.names(jobs, "job") if jobs else []
        self.nodes = protocol.names(nodes, "node") if nodes else []
        wanted = protocol.statuses(statuses)
        self.statuses = None if wanted is None else sorted(wanted)
        self.start = start
        self.fieldpost_conn_id = fieldpost_conn_id
        if start not in ("new", "all"):
            raise ValueError(f"start {start!r}: new or all are expected")
        self.consumer = consumer or self._own_consumer()
        protocol.names(self.consumer, "consumer")

    def _own_consumer(self) -> str:
        parts = (self.jobs, self.nodes, self.statuses, self.start, self.fieldpost_conn_id)
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return f"airflow-{digest[:16]}"

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{FieldpostEventTrigger.__module__}.{FieldpostEventTrigger.__qualname__}",
            {
                "jobs": self.jobs,
                "nodes": self.nodes,
                "statuses": self.statuses,
                "consumer": self.consumer,
                "start": self.start,
                "fieldpost_conn_id": self.fieldpost_conn_id,
            },
        )

    def event_of(self, row: Mapping[str, Any]) -> TriggerEvent | None:
        """A result as an event, if it is one that is wanted."""
        if self.statuses is not None and row.get("status") not in self.statuses:
            return None
        return TriggerEvent({**row, "event_id": protocol.event_id(row)})

    # In Airflow's triggerer: the acked stream.

    def shared_stream_key(self) -> Hashable:
        path, fields = self.serialize()
        return (path, json.dumps(fields, sort_keys=True))

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        return ResultStream(cls(**kwargs))

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[Any]
    ) -> AsyncIterator[TriggerEvent]:
        async for row in shared_stream:
            event = self.event_of(row)
            if event is not None:
                yield event

    # Where there is no acked stream.

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The same without Airflow's word that an event is stored: the cursor moves on a minute
        after an event was taken, so that after a restart the last minute's come again."""
        stream = ResultStream(self)
        taken: deque[tuple[float, int]] = deque()
        rows = stream.open_stream()
        try:
            async for row, offset in rows:
                event = self.event_of(row)
                if event is not None:
                    yield event
                now = time.monotonic()
                taken.append((now, offset))
                settled = None
                while taken and now - taken[0][0] >= _SETTLED:
                    settled = taken.popleft()[1]
                stream.passed()
                if settled is not None:
                    await stream.commit(settled)
        finally:
            await rows.aclose()


_SETTLED = 60.0
_MOST_LISTED = 100
"""Consumers that the hub's status lists."""


class ResultStream(SharedStreamProducer):
    """The hub's results after a consumer's offset, as Airflow's acked stream wants them."""

    most_open = 256
    """Results that Airflow may have and not have stored yet. It fails whom it hands too many."""

    def __init__(self, trigger: FieldpostEventTrigger) -> None:
        self.trigger = trigger
        self.hook = FieldpostAsyncHook(trigger.fieldpost_conn_id, patience=math.inf)
        self._open = 0
        self._room = asyncio.Event()
        self._last = 0

    async def open_stream(self) -> AsyncGenerator[tuple[Json, int], None]:
        """Yields each result with its offset, forever."""
        trigger = self.trigger
        async with self.hook.connected():
            after = await self._start()
            while True:
                # The consumer's own offset is not asked for: it lags behind what was read.
                page = await self.hook.results(
                    after, jobs=trigger.jobs, nodes=trigger.nodes, limit=100, wait=_WAIT
                )
                for row in page.results:
                    while self._open >= self.most_open:
                        self._room.clear()
                        await self._room.wait()
                    self._open += 1
                    self._last = int(row["offset"])
                    yield row, self._last
                if page.next is not None and page.next > after:
                    after = page.next
                if self._open == 0 and after > self._last:
                    # All that was left out by the filter is done with, too.
                    self._last = after
                    await self.commit(after)

    async def _start(self) -> int:
        """Where to go on; a new consumer is made known at once, so that nothing is missed."""
        status = await self.hook.status()
        consumers = status.get("consumers", ())
        for known in consumers:
            if known.get("name") == self.trigger.consumer:
                offset = int(known["offset"])
                # Refused at once if it is another client's, not after a result was delivered.
                await self.commit(offset)
                return offset
        if len(consumers) >= _MOST_LISTED:
            # It may be known and not be listed: to start anew would lose what it has not read.
            raise FieldpostError(
                f"the hub has {len(consumers)} consumers or more, and does not say where "
                f"{self.trigger.consumer} stands; remove those that nobody uses"
            )
        offset = 0 if self.trigger.start == "all" else await self.hook.newest()
        await self.commit(offset)
        return offset

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """These are stored by Airflow, or were not wanted. One that failed ends the stream: it is
        then read again from there."""
        done: int | None = None
        failed = False
        for item in batch:
            if not item.outcome.is_clean:
                failed = True
                break
            done = int(item.broker_payload)
        if done is not None:
            await self.commit(done)
        if failed:
            raise FieldpostError("Airflow did not take a result; it is delivered again")
        for _ in batch:
            self.passed()

    def passed(self) -> None:
        """One result less on its way."""
        self._open -= 1
        self._room.set()

    async def commit(self, offset: int) -> None:
        """Moves the consumer on."""
        await self.hook.results_commit(self.trigger.consumer, offset)


class FieldpostNodeTrigger(BaseTrigger):
    """Awaits that the hub hears enough of these nodes. A node or a group that the hub does not know
    is an error. Its event is ``{"outcome": "there" | "timeout" | "error", "online": [...],
    "message", "awaited": what serialize() says}``."""

    def __init__(
        self,
        select: Mapping[str, Any],
        min_online: float | int = 1.0,
        deadline: float | None = None,
        fieldpost_conn_id: str = FieldpostHook.default_conn_name,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.select = dict(select)
        self.min_online = min_online
        self.deadline = deadline
        self.fieldpost_conn_id = fieldpost_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{FieldpostNodeTrigger.__module__}.{FieldpostNodeTrigger.__qualname__}",
            {
                "select": self.select,
                "min_online": self.min_online,
                "deadline": self.deadline,
                "fieldpost_conn_id": self.fieldpost_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        awaited = self.serialize()[1]
        event: Json = {"outcome": "there", "online": [], "message": "", "awaited": awaited}
        try:
            left = None if self.deadline is None else max(0.0, self.deadline - time.time())
            event["online"] = await asyncio.wait_for(self._there(), left)
        except (TimeoutError, asyncio.TimeoutError):
            event["outcome"] = "timeout"
        except (FieldpostError, ValueError) as error:
            event |= {"outcome": "error", "message": str(error)}
        yield TriggerEvent(event)

    async def _there(self) -> list[str]:
        hook = FieldpostAsyncHook(self.fieldpost_conn_id, patience=math.inf)
        async with hook.connected():
            names, _ = calls.heard(await hook.nodes(), self.select)
            with hook.events([f"node/{name}/" for name in names]) as listener:
                # Subscriptions take a moment to get to the hub.
                patience = 1.0
                while True:
                    names, online = calls.heard(await hook.nodes(), self.select)
                    if len(online) >= outcome.wanted(self.min_online, len(names)):
                        return online
                    away = {f"node/{name}/" for name in names} - {
                        f"node/{name}/" for name in online
                    }
                    # What those do that are there changes nothing; who is in a group may.
                    await listener.hears(away, patience)
                    patience = _WAIT


class FieldpostResultTrigger(BaseTrigger):
    """Awaits a result. Its event is ``{"outcome": "there" | "timeout" | "error", "result",
    "message", "awaited": what serialize() says}``."""

    def __init__(
        self,
        jobs: Sequence[str] = (),
        nodes: Sequence[str] = (),
        statuses: str | Sequence[str] | None = ("ok",),
        after: int | None = None,
        deadline: float | None = None,
        fieldpost_conn_id: str = FieldpostHook.default_conn_name,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.jobs = list(jobs)
        self.nodes = list(nodes)
        self.statuses = protocol.statuses(statuses)
        self.after = after
        self.deadline = deadline
        self.fieldpost_conn_id = fieldpost_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{FieldpostResultTrigger.__module__}.{FieldpostResultTrigger.__qualname__}",
            {
                "jobs": self.jobs,
                "nodes": self.nodes,
                "statuses": self.statuses,
                "after": self.after,
                "deadline": self.deadline,
                "fieldpost_conn_id": self.fieldpost_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        awaited = self.serialize()[1]
        event: Json = {"outcome": "there", "result": None, "message": "", "awaited": awaited}
        try:
            left = None if self.deadline is None else max(0.0, self.deadline - time.time())
            event["result"] = await asyncio.wait_for(self._there(), left)
        except (TimeoutError, asyncio.TimeoutError):
            event["outcome"] = "timeout"
        except (FieldpostError, ValueError) as error:
            event |= {"outcome": "error", "message": str(error)}
        yield TriggerEvent(event)

    async def _there(self) -> Json:
        hook = FieldpostAsyncHook(self.fieldpost_conn_id, patience=math.inf)
        async with hook.connected():
            after = await hook.newest() if self.after is None else self.after
            while True:
                page = await hook.results(
                    after, jobs=self.jobs, nodes=self.nodes, limit=50, wait=_WAIT
                )
                for row in page.results:
                    if self.statuses is None or row.get("status") in self.statuses:
                        return row
                after = page.next if page.next is not None else after
