"""Sensors: until nodes are there, until a result is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowSensorTimeout, AirflowSkipException

from fieldpost_airflow import calls, outcome, protocol
from fieldpost_airflow.hooks import FieldpostHook
from fieldpost_airflow.operators import one_sentence
from fieldpost_airflow.triggers import FieldpostNodeTrigger, FieldpostResultTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


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

    def _checked(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        match event.get("outcome"):
            case "there":
                return event
            case "timeout":
                self._late()
            case _:
                raise AirflowException(str(event.get("message")))

    def _late(self) -> NoReturn:
        if self.soft_fail:
            raise AirflowSkipException("it did not come in time")
        raise AirflowSensorTimeout(f"it did not come within {self.timeout} s")


class FieldpostNodeSensor(_FieldpostSensor):
    """Waits until the hub hears enough of these nodes; gives their names.

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
        outcome.wanted(min_online, 1)

    def execute(self, context: Context) -> Any:
        if not self.deferrable:
            return super().execute(context)
        with one_sentence():
            select = protocol.select(self.node, self.group, self.all_nodes)
        self.defer(
            trigger=FieldpostNodeTrigger(
                select=select,
                min_online=self.min_online,
                deadline=self._deadline,
                fieldpost_conn_id=self.fieldpost_conn_id,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> list[str]:
        """Goes on after the triggerer's word."""
        return list(self._checked(event)["online"])

    def poke(self, context: Context) -> PokeReturnValue:
        with one_sentence():
            select = protocol.select(self.node, self.group, self.all_nodes)
            rows = FieldpostHook(self.fieldpost_conn_id).nodes()
        names, online = calls.selected(rows, select), calls.online(rows, select)
        enough = len(online) >= outcome.wanted(self.min_online, len(names)) > 0
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
        statuses: Sequence[str] | None = ("ok",),
        after: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.node = node
        self.statuses = statuses
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
            if self.after is None:
                # From here on, and not from when the triggerer gets to it.
                self.after = FieldpostHook(self.fieldpost_conn_id).newest()
            trigger = self._trigger(int(self.after))
        if not self.deferrable:
            return super().execute(context)
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Goes on after the triggerer's word."""
        return self._checked(event)["result"]

    def poke(self, context: Context) -> PokeReturnValue:
        with one_sentence():
            trigger = self._trigger(int(self.after or 0))
            page = FieldpostHook(self.fieldpost_conn_id).results(
                trigger.after,
                jobs=trigger.jobs,
                nodes=trigger.nodes,
                wait=min(float(self.poke_interval), 20.0),
            )
        for row in page.results:
            if self.statuses is None or row.get("status") in self.statuses:
                return PokeReturnValue(True, row)
        self.after = page.next if page.next is not None else self.after
        return PokeReturnValue(False)
