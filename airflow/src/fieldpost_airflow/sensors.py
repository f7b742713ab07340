"""Sensors: until nodes are there, until a result is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowSensorTimeout, AirflowSkipException
from airflow.triggers.base import BaseTrigger

from fieldpost_airflow import calls, outcome, protocol
from fieldpost_airflow.hooks import FieldpostHook
from fieldpost_airflow.operators import life, one_sentence
from fieldpost_airflow.protocol import FieldpostError
from fieldpost_airflow.triggers import FieldpostNodeTrigger, FieldpostResultTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


T = TypeVar("T")

_RECORD = "fieldpost_after"
"""Where the result sensor's offset is remembered."""


class _FieldpostSensor(BaseSensorOperator):
    """What the two have in common."""

    def __init__(
        self,
        *,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        fieldpost_conn_id: str = FieldpostHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.fieldpost_conn_id = fieldpost_conn_id

    @property
    def _deadline(self) -> float:
        return time.time() + float(self.timeout)

    def _defer(self, trigger: BaseTrigger) -> NoReturn:
        awaited = trigger.serialize()[1]
        self.defer(trigger=trigger, method_name="execute_complete", kwargs={"awaited": awaited})

    def _checked(
        self,
        event: Mapping[str, Any],
        trigger: type[BaseTrigger],
        awaited: Mapping[str, Any] | None,
    ) -> Mapping[str, Any]:
        """The event, if it is what was deferred for; ``dag.test()`` leaves that out."""
        if awaited is not None and event.get("awaited") != awaited:
            # On SQLite, Airflow gives the number of a trigger that is gone to the next one, and so
            # the old one's event to whoever waits for the new one.
            self.log.info("Something else has happened; still waiting")
            self._defer(trigger(**awaited))
        match event.get("outcome"):
            case "there":
                return event
            case "timeout":
                self._late()
            case _:
                raise AirflowException(str(event.get("message")))

    def _asked(self, ask: Callable[[FieldpostHook], T]) -> T | None:
        """An answer of the hub's; ``None`` where it is away: that is "not yet"."""
        with one_sentence():
            try:
                return ask(FieldpostHook(self.fieldpost_conn_id))
            except FieldpostError as error:
                if not protocol.may_pass(error):
                    raise
                self.log.warning("%s; not yet", error)
                return None

    def _late(self) -> NoReturn:
        if self.soft_fail:
            raise AirflowSkipException("it did not come in time")
        raise AirflowSensorTimeout(f"it did not come within {self.timeout} s")


class FieldpostNodeSensor(_FieldpostSensor):
    """Waits until the hub hears enough of these nodes; gives their names. A node that the hub does
    not know, and a group without nodes, fail the task: who waits for those would wait in vain.

    :param min_online: the share (a float) or number (an int) of them
    """

    template_fields: Sequence[str] = ("node", "group", "fieldpost_conn_id")

    def __init__(
        self,
        *,
        node: str | Sequence[str] | None = None,
        group: str | Sequence[str] | None = None,
        all_nodes: bool = False,
        min_online: float | int = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.node = node
        self.group = group
        self.all_nodes = all_nodes
        self.min_online = min_online
        outcome.wanted(min_online, 1, "min_online")

    def execute(self, context: Context) -> Any:
        if not self.deferrable:
            return super().execute(context)
        first = self.poke(context)
        if first:
            return first.xcom_value
        self._defer(
            FieldpostNodeTrigger(
                select=protocol.select(self.node, self.group, self.all_nodes),
                min_online=self.min_online,
                deadline=self._deadline,
                fieldpost_conn_id=self.fieldpost_conn_id,
            )
        )

    def execute_complete(
        self, context: Context, event: Mapping[str, Any], awaited: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Goes on after the triggerer's word.

        :param awaited: what was deferred for
        """
        return list(self._checked(event, FieldpostNodeTrigger, awaited)["online"])

    def poke(self, context: Context) -> PokeReturnValue:
        with one_sentence():
            select = protocol.select(self.node, self.group, self.all_nodes)
        rows = self._asked(FieldpostHook.nodes)
        if rows is None:
            return PokeReturnValue(False)
        with one_sentence():
            names, online = calls.heard(rows, select)
        enough = len(online) >= outcome.wanted(self.min_online, len(names))
        return PokeReturnValue(enough, online if enough else None)


class FieldpostResultSensor(_FieldpostSensor):
    """Waits for a result, by trigger or schedule; gives it, as the hub keeps it.

    :param job: only of these jobs
    :param node: only on these nodes
    :param statuses: only with these statuses; ``None``: with any
    :param after: results after this offset of the hub's; left out: results from now on
    """

    template_fields: Sequence[str] = ("job", "node", "after", "fieldpost_conn_id")

    def __init__(
        self,
        *,
        job: str | Sequence[str] | None = None,
        node: str | Sequence[str] | None = None,
        statuses: str | Sequence[str] | None = ("ok",),
        after: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.node = node
        self.statuses = protocol.statuses(statuses)
        self.after = after

    def _trigger(self, after: int) -> FieldpostResultTrigger:
        return FieldpostResultTrigger(
            jobs=protocol.names(self.job, "job") if self.job else (),
            nodes=protocol.names(self.node, "node") if self.node else (),
            statuses=self.statuses,
            after=after,
            deadline=self._deadline,
            fieldpost_conn_id=self.fieldpost_conn_id,
        )

    def execute(self, context: Context) -> Any:
        with one_sentence():
            record = self._remembered(context)
            if record is not None:
                self.after = record
            elif self.after is None:
                # From here on, and not from when the triggerer or the next poke gets to it.
                self.after = FieldpostHook(self.fieldpost_conn_id).newest()
            self.after = _offset(self.after)
            trigger = self._trigger(self.after)
        self._remember(context, self.after)
        if not self.deferrable:
            return super().execute(context)
        self._defer(trigger)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any], awaited: Mapping[str, Any] | None = None
    ) -> Any:
        """Goes on after the triggerer's word.

        :param awaited: what was deferred for
        """
        return self._checked(event, FieldpostResultTrigger, awaited)["result"]

    def poke(self, context: Context) -> PokeReturnValue:
        after = int(self.after or 0)
        with one_sentence():
            trigger = self._trigger(after)
        page = self._asked(
            lambda hook: hook.results(
                after,
                jobs=trigger.jobs,
                nodes=trigger.nodes,
                wait=min(float(self.poke_interval), 20.0),
            )
        )
        if page is None:
            return PokeReturnValue(False)
        for row in page.results:
            if self.statuses is None or row.get("status") in self.statuses:
                return PokeReturnValue(True, row)
        if page.next is not None and page.next > after:
            self.after = page.next
            self._remember(context, page.next)
        return PokeReturnValue(False)

    # -- where it is, from one poke to the next, where Airflow ends the task in between ------------

    def _remembered(self, context: Context) -> int | None:
        store = context.get("task_state_store")
        record = store.get(_RECORD) if store is not None else None
        if not isinstance(record, dict) or record.get("max_tries") != life(context)["max_tries"]:
            return None  # there is none, or it was cleared: anew
        after = record.get("after")
        return after if isinstance(after, int) else None

    def _remember(self, context: Context, after: int) -> None:
        store = context.get("task_state_store")
        if store is not None:
            store.set(_RECORD, {"after": after, "max_tries": life(context)["max_tries"]})


def _offset(value: int | str) -> int:
    """An offset; a template gives it as text."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"after {value!r}: an offset of the hub's, a number, is expected"
        ) from None
