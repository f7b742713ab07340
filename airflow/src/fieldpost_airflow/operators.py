"""The operators: run a job on devices, hand a schedule to them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeVar, get_args

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from fieldpost_airflow import calls, outcome, protocol
from fieldpost_airflow.hooks import FieldpostHook, drive
from fieldpost_airflow.links import RUN_ID_KEY, FieldpostRunLink
from fieldpost_airflow.outcome import OutputKind
from fieldpost_airflow.protocol import (
    FieldpostError,
    Json,
    NodeState,
    NotAllowed,
    Refused,
    RunState,
)
from fieldpost_airflow.sockets import Client
from fieldpost_airflow.triggers import FieldpostRunTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

T = TypeVar("T")
Offline = Literal["wait", "fail", "skip"]

RESULTS_KEY = "fieldpost_results"
"""The XCom that holds each node's result when the task fails."""
SUMMARY_KEY = "fieldpost_summary"
"""The XCom that says how many nodes it went well on, and what went wrong on the others."""

_RECORD = "fieldpost_run"
"""Where the run is remembered from one try to the next."""
_WAIT_S = 30.0
_KILL_PATIENCE = 4.5
"""Seconds to tell the hub that the task was killed: Airflow ends its process after five."""
_TIMEOUT_PATIENCE = 60.0
"""Seconds to tell it that the task took too long."""
_HOPELESS = frozenset({"bad_request", "not_allowed", "too_large", "conflict"})
"""What is refused with these will be refused again."""


@contextmanager
def one_sentence() -> Iterator[None]:
    """Errors as Airflow wants them: in one sentence, and without a retry where none can help."""
    try:
        yield
    except Refused as error:
        kind = AirflowFailException if error.code in _HOPELESS else AirflowException
        raise kind(str(error)) from None
    except (NotAllowed, ValueError) as error:
        raise AirflowFailException(str(error)) from None
    except FieldpostError as error:
        raise AirflowException(str(error)) from None


def origin_of(context: Context) -> str:
    """Who asks: for the hub's audit trail and the device's log."""
    ti = context["ti"]
    logical_date = context.get("logical_date")
    return protocol.origin(
        ti.dag_id,
        ti.task_id,
        ti.run_id,
        map_index=ti.map_index if ti.map_index is not None else -1,
        try_number=ti.try_number,
        logical_date=logical_date.isoformat() if logical_date else None,
    )


class FieldpostTriggerOperator(BaseOperator):
    """Runs a job on devices and gives what they answered: ``{node: result}``.

    .. code-block:: python

        FieldpostTriggerOperator(
            task_id="collect", job="read-meter", args={"bus": 2}, group="berlin", min_success=0.9
        )

    A node's result holds its ``status``, ``output`` (or ``path``), ``exit_code``, ``attempt``,
    times, and the tail of ``stderr``. The task is a success when ``min_success`` of the nodes say
    ``ok``; a node that is lost never does. A summary is in the XCom ``fieldpost_summary``; when the
    task fails, each node's result is in ``fieldpost_results``.

    The run's id is made and stored before the submit, and to submit again with it is the same run:
    whatever dies in between, no run is lost or doubled. A retry after a crash goes on waiting for
    the run that is under way; a retry after a failure, and a cleared task, start a new one.

    :param job: the job, as the nodes' configuration names it
    :param args: its arguments: text, numbers or booleans
    :param node: where: a node or several; or
    :param group: the nodes of a group or several; or
    :param all_nodes: every node
    :param ttl: how long a node may take until it has *started* the job (a node that is away may
        come back within it); seconds or a timedelta
    :param wait_for_completion: ``False``: the task succeeds once the hub has stored the trigger
    :param deferrable: wait in the triggerer, without a worker
    :param min_success: the share (a float, ``0.9``) or number (an int, ``3``) of nodes needed
    :param offline: what of nodes that the hub does not hear now: ``wait`` for them until the ttl,
        ``fail`` the task before anything is triggered, or ``skip`` them
    :param output: what the nodes' output is: ``json``, ``text``, ``lines``, or ``path`` (all of it
        goes to ``output_to``, byte for byte)
    :param output_to: an object storage URI under which outputs too large for XCom go
    :param cancel_on_kill: stop the job on the devices when the task is ended by a user
    :param fieldpost_conn_id: the connection to the hub
    """

    template_fields: Sequence[str] = (
        "job",
        "args",
        "node",
        "group",
        "ttl",
        "output_to",
        "fieldpost_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"args": "json"}
    operator_extra_links = (FieldpostRunLink(),)
    ui_color = "#d7ead9"

    def __init__(
        self,
        *,
        job: str,
        args: Mapping[str, Any] | None = None,
        node: str | Sequence[str] | None = None,
        group: str | Sequence[str] | None = None,
        all_nodes: bool = False,
        ttl: float | str | timedelta = 60.0,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        min_success: float | int = 1.0,
        offline: Offline = "wait",
        output: OutputKind = "json",
        output_to: str | None = None,
        cancel_on_kill: bool = True,
        fieldpost_conn_id: str = FieldpostHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.args = args
        self.node = node
        self.group = group
        self.all_nodes = all_nodes
        self.ttl = ttl
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.min_success = min_success
        self.offline = offline
        # BaseOperator.output is the task's XComArg.
        self.output_kind = output
        self.output_to = output_to
        self.cancel_on_kill = cancel_on_kill
        self.fieldpost_conn_id = fieldpost_conn_id
        self.fieldpost_run_id: str | None = None
        self._patience = _KILL_PATIENCE
        outcome.wanted(min_success, 1)
        if offline not in get_args(Offline):
            raise ValueError(f"offline {offline!r}: wait, fail or skip are expected")
        if output not in outcome.OUTPUT_KINDS:
            raise ValueError(f"output {output!r}: json, text, lines or path are expected")
        if output == "path" and output_to is None:
            raise ValueError('output="path" needs output_to: where the outputs go')

    @property
    def hook(self) -> FieldpostHook:
        """The hub."""
        return FieldpostHook(self.fieldpost_conn_id)

    def execute(self, context: Context) -> Any:
        try:
            return self._execute(context)
        except AirflowTaskTimeout:
            # Airflow calls on_kill next, and hurries nobody.
            self._timed_out(context)
            raise

    def _execute(self, context: Context) -> Any:
        with one_sentence():
            hook = self.hook
            run, memo = self._submit(context, hook)
            context["ti"].xcom_push(key=RUN_ID_KEY, value=run.run_id)
            if not self.wait_for_completion:
                self.log.info("The hub has stored the run %s; nobody waits for it", run.run_id)
                return {"run_id": run.run_id, "count": run.count, "nodes": list(run.nodes)}
            if self.deferrable:
                self._defer(run.run_id, memo)
            return self._finish(context, self._wait(hook, run.run_id), memo)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any], awaited: Mapping[str, Any] | None = None
    ) -> Any:
        """Goes on after the triggerer's word that the run is over.

        :param awaited: what was deferred for; ``dag.test()`` leaves it out
        """
        if awaited is not None and event.get("run_id") != awaited["run_id"]:
            # On SQLite, Airflow gives the number of a trigger that is gone to the next one, and so
            # the old one's event to whoever waits for the new one.
            self.log.info("Another run is over; still waiting for %s", awaited["run_id"])
            self._defer(**awaited)
        run_id, memo = str(event["run_id"]), dict(event.get("memo") or {})
        self.fieldpost_run_id = run_id
        with one_sentence():
            hook = self.hook
            match event.get("outcome"):
                case "final":
                    run = self._patiently(lambda: hook.run(run_id))
                    return self._finish(context, run, memo)
                case "timeout":
                    self._timed_out(context)
                    self.on_kill()
                    raise AirflowException(
                        f"{self.job} was not over within the task's execution_timeout "
                        f"({self.execution_timeout}), run {run_id}"
                    )
                case _:
                    raise AirflowException(f"{event.get('message')} (run {run_id})")

    def on_kill(self) -> None:
        """Stops the run on the devices: the task was ended by a user, or ran into its timeout."""
        if self.fieldpost_run_id is None or not self.cancel_on_kill:
            return
        # Called from a signal handler, perhaps in the middle of a request: a client of its own.
        try:
            with Client(self.hook.address) as client:
                call = calls.cancel(self.fieldpost_run_id, origin="airflow: the task was ended")
                drive(client, call, patience=self._patience)
        except (FieldpostError, ValueError) as error:
            self.log.error("%s", calls.goes_on(self.fieldpost_run_id, error))
        else:
            self.log.info("Cancelled the run %s", self.fieldpost_run_id)

    def _timed_out(self, context: Context) -> None:
        """The run is about to be cancelled: a later try makes sure of it, and starts a new one."""
        self._patience = _TIMEOUT_PATIENCE
        try:
            self._forget(context, left=True)
        except Exception:
            # The timeout may have cut a word to Airflow short. The cancel must not suffer from it.
            self.log.warning("A retry will go on with the run", exc_info=True)

    # -- the run ---------------------------------------------------------------------------------

    def _submit(self, context: Context, hook: FieldpostHook) -> tuple[calls.Submitted, Json]:
        record = self._remembered(context, hook)
        if record is not None:
            memo: Json = record.get("memo") or {}
            try:
                run = self._ask(context, hook, record["run_id"], memo)
            except Refused as refused:
                match refused.code:
                    case "conflict":
                        self._leave(hook, record["run_id"], "this try asks for something else")
                    case "too_old":
                        self.log.info(
                            "The run %s is not gone on with: %s", record["run_id"], refused
                        )
                    case _:
                        raise
            else:
                if not self._is_spent(hook, run):
                    self.log.info("Going on with the run %s", run.run_id)
                    return run, memo
        run_id, memo = protocol.new_run_id(), self._offline(hook)
        # Before the submit: a worker that dies in between must find the run again.
        self._remember(context, run_id, memo)
        run = self._ask(context, hook, run_id, memo)
        self.log.info("Triggered %s on %d nodes: run %s", self.job, run.count, run.run_id)
        return run, memo

    def _ask(
        self, context: Context, hook: FieldpostHook, run_id: str, memo: Mapping[str, Any]
    ) -> calls.Submitted:
        self.fieldpost_run_id = run_id
        online = memo.get("online")
        where: dict[str, Any] = (
            {"node": online}
            if online
            else {"node": self.node, "group": self.group, "all_nodes": self.all_nodes}
        )
        return hook.submit(
            self.job,
            self.args,
            **where,
            ttl=_seconds(self.ttl),
            run_id=run_id,
            origin=origin_of(context),
        )

    def _is_spent(self, hook: FieldpostHook, submitted: calls.Submitted) -> bool:
        """Whether a run of an earlier try has ended, and not well enough: a retry means again."""
        if not submitted.repeated:
            return False
        run = hook.run(submitted.run_id)
        return run.final and not outcome.judge(run, self.min_success).enough

    def _offline(self, hook: FieldpostHook) -> Json:
        """What is to be remembered of nodes that are offline, where that matters."""
        if self.offline == "wait":
            return {}
        select = protocol.select(self.node, self.group, self.all_nodes)
        rows = {str(row.get("node")): row for row in hook.nodes()}
        wanted = calls.selected(list(rows.values()), select)
        online = [name for name in wanted if calls.is_online(rows.get(name, {}))]
        offline = [name for name in wanted if name in rows and name not in online]
        if offline and self.offline == "fail":
            shown = ", ".join(offline[:5]) + (" and more" if len(offline) > 5 else "")
            raise AirflowException(
                f"{len(offline)} of {len(wanted)} nodes are offline, nothing was triggered: {shown}"
            )
        if offline and not online:
            raise AirflowSkipException(f"all {len(offline)} nodes are offline")
        # Names that the hub does not know are left in: it says so best.
        unknown = [name for name in wanted if name not in rows]
        return {"online": online + unknown, "offline": offline} if offline else {}

    def _wait(self, hook: FieldpostHook, run_id: str) -> RunState:
        """Until it is over."""
        while True:
            run = self._patiently(lambda: hook.run(run_id, wait=_WAIT_S))
            if run.final:
                return run

    def _patiently(self, ask: Callable[[], T]) -> T:
        """What is asked of a run that is under way: a hub that is away is waited for."""
        away = False
        while True:
            try:
                answer = ask()
            except FieldpostError as error:
                if not protocol.may_pass(error):
                    raise
                if not away:
                    self.log.warning("%s; waiting for it", error)
                away = True
                continue
            if away:
                self.log.info("The hub is back")
            return answer

    def _defer(self, run_id: str, memo: Json, deadline: float | None = None) -> NoReturn:
        # The trigger keeps the time itself: Airflow's own deferral timeout would end the task
        # without a word to execute_complete or on_kill, and so leave the run going.
        if deadline is None and self.execution_timeout is not None:
            deadline = time.time() + self.execution_timeout.total_seconds()
        self.defer(
            trigger=FieldpostRunTrigger(
                run_id=run_id,
                fieldpost_conn_id=self.fieldpost_conn_id,
                deadline=deadline,
                cancel_on_kill=self.cancel_on_kill,
                memo=memo,
            ),
            method_name="execute_complete",
            kwargs={"awaited": {"run_id": run_id, "memo": memo, "deadline": deadline}},
        )

    # -- its results -----------------------------------------------------------------------------

    def _finish(self, context: Context, run: RunState, memo: Mapping[str, Any]) -> dict[str, Json]:
        hook = self.hook
        results, unreadable = outcome.collect(
            run, lambda node: self._patiently(lambda: self._read(hook, run, node))
        )
        judged = outcome.judge(
            run,
            self.min_success,
            job=self.job,
            offline=memo.get("offline", ()),
            unreadable=unreadable,
        )
        ti = context["ti"]
        ti.xcom_push(key=SUMMARY_KEY, value=judged.summary())
        if not judged.enough:
            ti.xcom_push(key=RESULTS_KEY, value=results)
            self._forget(context)
            raise AirflowException(judged.sentence)
        level = self.log.warning if judged.not_ok or judged.offline else self.log.info
        level("%s", judged.sentence)
        # It is not forgotten: a worker that dies before Airflow knows of the success is followed by
        # a try that finds this run, and its results.
        return results

    def _read(self, hook: FieldpostHook, run: RunState, node: NodeState) -> Json:
        size = int(node.result.get("bytes") or 0)
        attempt = node.result.get("attempt")
        if node.result.get("output_dropped"):
            raise FieldpostError("the output had to be dropped while the hub was away")
        most = conf.getint("fieldpost", "xcom_bytes", fallback=65_536)
        if self.output_kind != "path" and size <= most:
            data = hook.output(run.run_id, node.node, attempt=attempt)
            return {"output": outcome.parse(data, self.output_kind)}
        if self.output_to is None:
            raise FieldpostError(
                f"the output has {size} bytes, and XCom takes {most} "
                "([fieldpost] xcom_bytes): say output_to= where it can go"
            )
        return {"path": self._store(hook, run, node)}

    def _store(self, hook: FieldpostHook, run: RunState, node: NodeState) -> str:
        from airflow.sdk import ObjectStoragePath

        attempt = node.result.get("attempt")
        try:
            folder = ObjectStoragePath(str(self.output_to)) / run.run_id
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / node.node
            with path.open("wb") as file:
                for page in hook.stream_output(run.run_id, node.node, attempt=attempt):
                    file.write(page)
        except FieldpostError:
            raise
        except Exception as error:  # whatever the storage's library raises
            # Not the node's failure: that would be a new run for the retry.
            raise AirflowException(
                f"{node.node}'s output could not be written to {self.output_to}: "
                f"a retry fetches it from the hub again ({type(error).__name__}: {error})"
            ) from error
        return str(path)

    # -- what is remembered from one try to the next ---------------------------------------------

    def _remembered(self, context: Context, hook: FieldpostHook) -> Json | None:
        """The run of an earlier try, if this is a retry and that run was not seen to its end."""
        store = context.get("task_state_store")
        record = store.get(_RECORD) if store is not None else None
        if not isinstance(record, dict) or record.get("over"):
            return None
        if record.get("left"):
            self._leave(hook, str(record.get("run_id")), "it was not over in time")
            return None
        # Airflow gives a cleared task more tries, unless it was running: then only the DAG run
        # knows of it, and not which of its tasks was cleared.
        if life(context).items() <= record.items():
            return record
        self._leave(hook, str(record.get("run_id")), "the task was cleared")
        return None

    def _leave(self, hook: FieldpostHook, run_id: str, why: str) -> None:
        """A run of an earlier try is not gone on with: it is stopped, if it may be.

        A hub that is away fails the try: the next one finds all as it is now.
        """
        if not self.cancel_on_kill:
            self.log.warning("The run %s of an earlier try may go on: %s", run_id, why)
            return
        try:
            if hook.cancel(run_id, origin=f"airflow: {why}") == 0:
                return
        except Refused as refused:
            self.log.info("The run %s was not cancelled: %s", run_id, refused)
            return
        self.log.info("Cancelled the run %s of an earlier try: %s", run_id, why)
        # A job that is still ending would be in the new run's way on its device.
        hook.run(run_id, wait=hook.address.timeout)

    def _remember(self, context: Context, run_id: str, memo: Json) -> None:
        store = context.get("task_state_store")
        if store is None:
            self.log.warning("Airflow has no task state store here: a crash would start a new run")
            return
        store.set(_RECORD, {"run_id": run_id, **life(context), "memo": memo})

    def _forget(self, context: Context, *, left: bool = False) -> None:
        """A retry starts a new run: this one was seen to its end, or is ``left`` before it."""
        store = context.get("task_state_store")
        if store is not None and self.fieldpost_run_id is not None:
            word = "left" if left else "over"
            store.set(_RECORD, {"run_id": self.fieldpost_run_id, **life(context), word: True})


class FieldpostScheduleOperator(BaseOperator):
    """Hands a schedule to nodes; they keep it and run by it, with or without a link to the hub.

    It replaces what was scheduled for that selector before; the same again changes nothing. Gives
    ``{"changed", "count", "nodes": {node: taken up?}, "versions": {node: number}, "notes"}``: a
    node that is offline takes it up when it is back; the notes say what may be a slip.

    .. code-block:: python

        FieldpostScheduleOperator(
            task_id="hand_over",
            group="berlin",
            entries=[{"id": "meter", "job": "read-meter", "every_ms": 60_000, "splay_ms": 5_000}],
        )

    :param entries: each with ``id``, ``job``, and ``cron`` or ``every_ms``; and ``args``,
        ``splay_ms``, ``catch_up`` (``"skip"``, ``"once"``, ``{"all": n}``), ``overlap``
        (``"skip"``, ``"queue"``), ``timeout_ms``
    :param min_taken_up: the share (a float) or number (an int) of nodes that must have taken it up
        within ``wait`` seconds
    """

    template_fields: Sequence[str] = ("entries", "node", "group", "fieldpost_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"entries": "json"}
    ui_color = "#d7ead9"

    def __init__(
        self,
        *,
        entries: Sequence[Mapping[str, Any]],
        node: str | Sequence[str] | None = None,
        group: str | Sequence[str] | None = None,
        all_nodes: bool = False,
        min_taken_up: float | int = 0.0,
        wait: float = 10.0,
        fieldpost_conn_id: str = FieldpostHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.entries = entries
        self.node = node
        self.group = group
        self.all_nodes = all_nodes
        self.min_taken_up = min_taken_up
        self.wait = wait
        self.fieldpost_conn_id = fieldpost_conn_id
        outcome.wanted(min_taken_up, 1, "min_taken_up")

    def execute(self, context: Context) -> Json:
        with one_sentence():
            hook = FieldpostHook(self.fieldpost_conn_id)
            select = protocol.select(self.node, self.group, self.all_nodes)
            call = calls.schedule_set(select, self.entries, origin_of(context))
            answer = drive(hook.get_conn(), call)
            notes = [str(note) for note in answer.get("notes") or ()]
            for note in notes:
                self.log.warning("%s", note)
            held = self._held(hook, select)
        taken = {name: each.up_to_date for name, each in held.items()}
        needed = outcome.wanted(self.min_taken_up, len(taken))
        up = sum(taken.values())
        self.log.info("The schedule is set; %d of %d nodes have taken it up", up, len(taken))
        if up < needed:
            late = ", ".join(sorted(node for node, is_up in taken.items() if not is_up)[:5])
            raise AirflowException(
                f"{up} of {len(taken)} nodes have taken the schedule up within {self.wait} s, "
                f"{needed} needed; not yet: {late}"
            )
        return {
            "changed": bool(answer.get("changed")),
            "count": answer.get("count", len(taken)),
            "nodes": taken,
            "versions": {name: each.version for name, each in held.items()},
            "notes": notes,
        }

    def _held(self, hook: FieldpostHook, select: Mapping[str, Any]) -> dict[str, calls.Held]:
        ends = time.monotonic() + self.wait
        late = calls.selected(hook.nodes() if "nodes" not in select else [], select)
        held: dict[str, calls.Held] = {}
        while True:
            held |= drive(hook.get_conn(), calls.held(late))
            late = [name for name in late if not held[name].up_to_date]
            if not late or time.monotonic() >= ends:
                return held
            # The hub has no way to be told of this; a worker may sleep, a trigger may not.
            time.sleep(min(0.25, max(0.0, ends - time.monotonic())))


def _seconds(value: float | str | timedelta) -> float:
    try:
        seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"ttl {value!r}: seconds, more than 0, are expected")
    return seconds


def life(context: Context) -> Json:
    """What Airflow changes when a task is cleared, and not when it is tried again."""
    return {
        "max_tries": int(getattr(context["ti"], "max_tries", 0) or 0),
        "clears": int(getattr(context.get("dag_run"), "clear_number", 0) or 0),
    }
