"""What is asked of a hub, written once for plain code and for coroutines. No I/O here.

A call is a generator: it yields requests, is sent their answers, and returns what it is for. The
hooks drive it over their sockets.

>>> call = submit(job="ping", select={"nodes": ["gw-1"]}, run_id=protocol.new_run_id())
>>> next(call).op
'submit'
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fieldpost_airflow import protocol
from fieldpost_airflow.protocol import Json, NodeState, RunState

_PAGE = 200
WAIT_MS = 60_000
"""How long one request for a run's end is left with the hub."""

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One request, and how long the hub is told to wait with its answer."""

    op: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    wait: float = 0.0


Call = Generator[Request, Json, T]


@dataclass(frozen=True)
class Submitted:
    """A run that the hub has taken, durably."""

    run_id: str
    count: int
    nodes: tuple[str, ...]
    """The first hundred of its nodes."""
    deadline_ms: int
    repeated: bool
    """It was there already: nothing was triggered again."""


def submit(
    *,
    job: str,
    select: Mapping[str, Any],
    args: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    ttl_ms: int = 60_000,
    origin: str = "",
) -> Call[Submitted]:
    """Triggers a job. Again with the same run id, it is the same run."""
    run_id = run_id or protocol.new_run_id()
    fields = protocol.submit_fields(
        job=job, select=select, args=args, run_id=run_id, ttl_ms=ttl_ms, origin=origin
    )
    answer = yield Request("submit", fields)
    return Submitted(
        run_id=str(answer.get("run_id", run_id)),
        count=int(answer.get("count", 0)),
        nodes=tuple(answer.get("nodes", ())),
        deadline_ms=int(answer.get("deadline_ms", 0)),
        repeated=bool(answer.get("repeated")),
    )


def cancel(run_id: str, nodes: Sequence[str] = (), origin: str = "") -> Call[int]:
    """Stops a run; gives on how many nodes there was something to stop."""
    fields: Json = {"run_id": run_id, "origin": protocol.cut(origin)}
    if nodes:
        fields["nodes"] = list(nodes)
    answer = yield Request("cancel", fields)
    return int(answer.get("count", 0))


def goes_on(run_id: str, error: Exception) -> str:
    """What it means that a run could not be cancelled."""
    return (
        f"the run {run_id} could not be cancelled and goes on: where it is not started it may be "
        "until its ttl is over, and where it is it goes on until its own end or its job's timeout; "
        f"`fieldpost cancel {run_id}` stops it ({error})"
    )


def run(run_id: str, wait_ms: int = 0) -> Call[RunState]:
    """A run with all its nodes; with ``wait_ms``, once it is final or that time is over."""
    fields: Json = {"run_id": run_id, "limit": _PAGE}
    first = fields
    if wait_ms > 0:
        wait_ms = min(wait_ms, protocol.MOST_WAIT_MS)
        first = {**fields, "wait_ms": wait_ms, "until": "final"}
    state = protocol.run_state((yield Request("runs", first, wait_ms / 1000)))
    nodes = list(state.nodes)
    page = state
    while page.next is not None:
        page = protocol.run_state((yield Request("runs", {**fields, "after": page.next})))
        if not page.nodes:
            break
        nodes.extend(page.nodes)
    return RunState(
        state.run_id or run_id, state.final, state.count, tuple(nodes), None, state.head
    )


def is_final(run_id: str, wait_ms: int = WAIT_MS) -> Call[bool]:
    """Whether a run is final, without its nodes; waits for it so long."""
    fields: Json = {"run_id": run_id, "limit": 1, "wait_ms": wait_ms, "until": "final"}
    answer = yield Request("runs", fields, wait_ms / 1000)
    return bool(answer.get("final"))


def output(
    run_id: str, node: str | None = None, attempt: int | None = None
) -> Generator[Request | bytes, Json | None, bool]:
    """What a run wrote on a node: yields requests, and between them bytes (send ``None`` back).
    Returns whether that is all of it."""
    fields: Json = {"run_id": run_id}
    if node is not None:
        fields["node"] = node
    if attempt is not None:
        fields["attempt"] = attempt
    start = 0
    while True:
        answer = yield Request("output", {**fields, "from": start})
        page = protocol.output_page(answer or {}, start)
        if page.data:
            yield page.data
        if page.next is None:
            return page.complete
        start = page.next


def nodes(group: str | None = None, online: bool | None = None) -> Call[list[Json]]:
    """The accepted nodes, each as the hub describes it."""
    rows: list[Json] = []
    fields: Json = {"limit": _PAGE}
    while True:
        answer = yield Request("nodes", fields)
        rows.extend(row for row in answer.get("nodes", ()) if isinstance(row, dict))
        if answer.get("next") is None:
            break
        fields = {**fields, "after": answer["next"]}
    return [
        row
        for row in rows
        if row.get("state") not in ("pending", "revoked")
        and (group is None or group in (row.get("groups") or ()))
        and (online is None or is_online(row) == online)
    ]


def is_online(row: Mapping[str, Any]) -> bool:
    """Whether the hub hears a node."""
    return row.get("state") == "up"


def node(name: str) -> Call[Json]:
    """One node, in full."""
    answer = yield Request("nodes.show", {"node": name})
    nested = answer.get("node")
    return nested if isinstance(nested, dict) else answer


def schedule_get(select: Mapping[str, Any] | None = None) -> Call[list[Json]]:
    """The schedules of these nodes, or all."""
    answer = yield Request("schedule.get", {} if select is None else {"select": dict(select)})
    schedules = answer.get("schedules")
    return schedules if isinstance(schedules, list) else [answer]


def schedule_set(
    select: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], origin: str = ""
) -> Call[Json]:
    """Replaces the schedule of these nodes. The same again changes nothing."""
    fields: Json = {
        "select": dict(select),
        "entries": protocol.entries_of(entries),
    }
    if origin:
        fields["origin"] = protocol.cut(origin)
    answer = yield Request("schedule.set", fields)
    return answer


def selected(rows: Sequence[Mapping[str, Any]], select: Mapping[str, Any]) -> list[str]:
    """The names of the nodes that a selector means."""
    if "nodes" in select:
        return list(select["nodes"])
    groups = set(select.get("groups", ()))
    return [
        str(row.get("node"))
        for row in rows
        if select.get("all") or groups & set(row.get("groups") or ())
    ]


def heard(
    rows: Sequence[Mapping[str, Any]], select: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """The names of the selected nodes, and of those of them that the hub hears. What it does not
    know would be waited for in vain: a ``ValueError``."""
    names = selected(rows, select)
    online = {str(row.get("node")): is_online(row) for row in rows}
    for name in names:
        if name not in online:
            raise ValueError(f"no node is named {name!r}; `fieldpost nodes` lists those there are")
    if not names:
        groups = " or ".join(repr(group) for group in select.get("groups", ()))
        where = f"is in the group {groups}" if groups else "is accepted"
        raise ValueError(f"no node {where}; `fieldpost nodes` lists those there are")
    return names, [name for name in names if online[name]]


@dataclass(frozen=True)
class Held:
    """A node's schedule."""

    version: int
    """What it should hold: of its schedules, a higher one is a later one."""
    up_to_date: bool
    """Whether it says that it does."""


def held(names: Sequence[str]) -> Call[dict[str, Held]]:
    """Which schedule each of these nodes should hold, and whether it does. The hub tells it only
    node by node."""
    found = {}
    for name in names:
        row = yield from node(name)
        schedule = row.get("schedule")
        schedule = schedule if isinstance(schedule, dict) else {}
        version = int(schedule.get("counter") or 0)
        found[name] = Held(version, schedule.get("up_to_date") is True)
    return found


@dataclass(frozen=True)
class Page:
    """Results in the hub's order."""

    results: tuple[Json, ...]
    next: int | None
    """The offset to go on after: beyond results that a filter left out, too."""
    newest: int = 0
    """The offset of the hub's newest result."""


def results(
    after: int | None = None,
    *,
    consumer: str | None = None,
    jobs: Sequence[str] = (),
    nodes: Sequence[str] = (),
    limit: int = 50,
    wait_ms: int = 0,
) -> Call[Page]:
    """Stored results after an offset, or after what the consumer committed."""
    fields: Json = {"limit": limit}
    if after is not None:
        fields["after"] = after
    if consumer is not None:
        fields["consumer"] = consumer
    if jobs:
        fields["jobs"] = list(jobs)
    if nodes:
        fields["nodes"] = list(nodes)
    if wait_ms:
        fields["wait_ms"] = wait_ms
    answer = yield Request("results", fields, wait_ms / 1000)
    rows = tuple(row for row in answer.get("results", ()) if isinstance(row, dict))
    following = answer.get("next")
    if following is None and rows:
        following = rows[-1].get("offset")
    newest = answer.get("newest")
    return Page(
        rows,
        following if isinstance(following, int) else after,
        newest if isinstance(newest, int) else 0,
    )


def newest() -> Call[int]:
    """The offset of the newest result: where "from now on" begins."""
    page = yield from results(2**63 - 1, limit=1)
    return page.newest


def results_commit(consumer: str, offset: int | None) -> Call[None]:
    """Everything up to this offset is done with; ``None``: the consumer is no more."""
    yield Request("results.commit", {"consumer": consumer, "offset": offset})


def status() -> Call[Json]:
    """What the hub says of itself."""
    return (yield Request("status"))


__all__ = [
    "Call",
    "Held",
    "NodeState",
    "Page",
    "Request",
    "RunState",
    "Submitted",
    "cancel",
    "goes_on",
    "heard",
    "held",
    "is_final",
    "is_online",
    "newest",
    "node",
    "nodes",
    "output",
    "results",
    "results_commit",
    "run",
    "schedule_get",
    "schedule_set",
    "selected",
    "status",
    "submit",
]
