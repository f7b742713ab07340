"""What the triggerer awaits: the end of a run, and results from the field."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from typing import Any

from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer
from asgiref.sync import sync_to_async

from fieldpost_airflow import protocol
from fieldpost_airflow.hooks import FieldpostAsyncHook, FieldpostHook
from fieldpost_airflow.protocol import FieldpostError, HubAway, Json, Refused

_WAIT = 60.0
"""Seconds that one request is left with the hub; it answers at once when there is something."""
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
        super().__init__()
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
        outcome, message = "final", ""
        try:
            await asyncio.wait_for(self._end(), self._left())
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            outcome = "timeout"
        except (FieldpostError, ValueError) as error:
            outcome, message = "error", str(error)
        # From here on a kill is not the run's any more: it has ended, or the task looks after it.
        self._fired = True
        yield TriggerEvent(
            {"run_id": self.run_id, "outcome": outcome, "message": message, "memo": self.memo}
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
        known, state = await state_of(self.task_instance)
        if not known or state in _IN_PROGRESS:
            self.log.info("The run %s goes on: its task is %s", self.run_id, state or "unknown")
            return
        hook = FieldpostAsyncHook(self.fieldpost_conn_id)
        await hook.cancel(self.run_id, origin=f"airflow: the task is {state or 'cleared'}")
        self.log.info("Cancelled the run %s: its task is %s", self.run_id, state or "cleared")
