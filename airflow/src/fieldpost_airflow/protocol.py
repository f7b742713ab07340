"""The hub's JSON client protocol: what is said, how answers are read. No I/O here.

One request is one frame, so is its reply; replies carry the request's ``id``, so that many
requests may be under way on one socket. ``docs/CLIENT_PROTOCOL.md`` describes each field.

>>> frame = encode(7, "submit", submit_fields(job="ping", select=select(node="gw-1")))
>>> decode(b'{"id":7,"ok":true,"count":1}').fields["count"]
1
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_FRAME = 60 * 1024
"""The longest frame either way, in bytes."""
MOST_ORIGIN = 128
"""The longest origin, in bytes."""
MOST_WAIT_MS = 10 * 60 * 1000
"""The longest time one request may wait at the hub."""

NAME = re.compile(r"[a-z0-9._-]{1,63}")
"""Nodes, groups, jobs and consumers are named so."""

FINAL_BAD = frozenset(
    {"failed", "signalled", "timed_out", "cancelled", "skipped", "rejected", "expired", "lost"}
)
"""Statuses that are final and no success. ``ok`` is the only good one."""


class FieldpostError(Exception):
    """What went wrong, in one sentence."""


class HubAway(FieldpostError):
    """No hub answers: it may later."""


class Unreached(HubAway):
    """There never was a connection: nothing was sent."""


class NotAllowed(FieldpostError):
    """The hub does not let this key in. Trying again does not help."""


class Refused(FieldpostError):
    """The hub understood the request and refused it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


PASSING = frozenset({"stopping", "reloaded", "store_unavailable", "busy"})
"""What is refused with these may be granted in a moment."""


def may_pass(error: FieldpostError) -> bool:
    """Whether the same may be granted in a moment: the hub is away, or can't just now."""
    return isinstance(error, HubAway) or (isinstance(error, Refused) and error.code in PASSING)


class BadAnswer(FieldpostError):
    """The hub's answer is not the protocol."""


Json = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """One answer, or why there is none."""

    id: int
    fields: Json
    refused: Refused | None = None

    def granted(self) -> Json:
        """The answer's fields; raises what was refused."""
        if self.refused is not None:
            raise self.refused
        return self.fields


def encode(request_id: int, op: str, fields: Mapping[str, Any]) -> bytes:
    """A request as it goes into a frame."""
    frame = json.dumps(
        {"id": request_id, "op": op, **fields}, separators=(",", ":"), ensure_ascii=False
    ).encode()
    if len(frame) > MOST_FRAME:
        raise Refused(
            "too_large",
            f"the request {op} has {len(frame)} bytes, and a frame holds {MOST_FRAME}; "
            "name a group instead of many nodes, or split it",
        )
    return frame


def decode(frame: bytes) -> Reply:
    """A frame as a reply."""
    try:
        fields = json.loads(frame)
    except ValueError as error:
        raise BadAnswer(f"the hub's answer is not JSON: {error}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("ok"), bool):
        raise BadAnswer(f"the hub's answer is not understood: {frame[:100]!r}")
    request_id = fields.pop("id", None)
    if not isinstance(request_id, int):
        # The hub could not read a request's id, and so answers none.
        request_id = 0
    if fields.pop("ok"):
        return Reply(request_id, fields)
    said = fields.get("error")
    said = said if isinstance(said, dict) else {}
    refused = Refused(str(said.get("code", "error")), str(said.get("message", "no reason given")))
    return Reply(request_id, {}, refused)


def new_run_id() -> str:
    """A run id of this moment (a UUID of version 7): to submit again with it is the same run."""
    ms = time.time_ns() // 1_000_000
    value = (ms & ((1 << 48) - 1)) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def names(value: str | Iterable[str], what: str) -> list[str]:
    """One name or several, each as names must be."""
    listed = [value] if isinstance(value, str) else [str(name) for name in value]
    for name in listed:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{what} {name!r} is no name: 1 to 63 of a-z, 0-9, '.', '_' and '-' are expected"
            )
    if not listed:
        raise ValueError(f"{what} is empty: at least one name is expected")
    return listed


def select(
    node: str | Sequence[str] | None = None,
    group: str | Sequence[str] | None = None,
    all_nodes: bool = False,
) -> Json:
    """A selector: exactly one of the three."""
    if (node is not None) + (group is not None) + bool(all_nodes) != 1:
        raise ValueError("exactly one of node=, group= and all_nodes=True says where to run")
    if node is not None:
        return {"nodes": names(node, "node")}
    if group is not None:
        return {"groups": names(group, "group")}
    return {"all": True}


def statuses(value: str | Iterable[str] | None) -> list[str] | None:
    """One status or several, each one that a result may have; ``None``: any."""
    if value is None:
        return None
    listed = [value] if isinstance(value, str) else list(value)
    for status in listed:
        if status != "ok" and status not in FINAL_BAD:
            expected = ", ".join(("ok", *sorted(FINAL_BAD)))
            raise ValueError(f"status {status!r} is none: {expected} are expected")
    if not listed:
        raise ValueError("no status is named: a result has one; None means any")
    return listed


_NATIVE = "; a template gives text, unless the DAG has render_template_as_native_obj=True"


def args_of(args: Mapping[str, Any] | None) -> dict[str, str]:
    """Arguments as the wire has them: text. Numbers and booleans become text, nothing else does."""
    if args is not None and not isinstance(args, Mapping):
        raise ValueError(f"the arguments are a {type(args).__name__}: a dict is expected{_NATIVE}")
    written: dict[str, str] = {}
    for name, value in (args or {}).items():
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, (int, float)):
            value = str(value)
        elif not isinstance(value, str):
            raise ValueError(
                f"the argument {name} is a {type(value).__name__}: "
                "text, a number or a boolean is expected"
            )
        if len(value.encode()) > 256:
            raise ValueError(
                f"the argument {name} has {len(value.encode())} bytes: at most 256 are allowed"
            )
        written[str(name)] = value
    if len(written) > 8:
        raise ValueError(f"{len(written)} arguments: a run has at most 8")
    return written


def milliseconds(seconds: float, what: str, least: int = 1) -> int:
    """Seconds as the wire has them."""
    number = isinstance(seconds, (int, float)) and math.isfinite(seconds)
    if not number or (ms := round(seconds * 1000)) < least:
        more = "0 or more" if least == 0 else "more than 0"
        raise ValueError(f"{what} {seconds!r}: seconds, {more}, are expected")
    return ms


def cut(text: str, most: int = MOST_ORIGIN) -> str:
    """As much of a text as fits so many bytes."""
    return text.encode()[:most].decode(errors="ignore")


def origin(
    dag_id: str,
    task_id: str,
    run_id: str,
    map_index: int = -1,
    try_number: int = 1,
    logical_date: str | None = None,
) -> str:
    """Who asks, for the hub's audit trail and the device's log: at most 128 bytes.

    >>> origin("meters", "collect", "scheduled__x", try_number=2)
    'airflow:meters/collect#2 scheduled__x'
    """
    mapped = f"[{map_index}]" if map_index >= 0 else ""
    text = f"airflow:{dag_id}/{task_id}{mapped}#{try_number} {run_id}"
    # A run's id often says the logical date already.
    if logical_date and logical_date[:19] not in run_id:
        text = f"{text} {logical_date}"
    return cut(text)


def entries_of(entries: Sequence[Mapping[str, Any]]) -> list[Json]:
    """A schedule's entries as the wire has them."""
    if isinstance(entries, (str, Mapping)) or not isinstance(entries, Iterable):
        raise ValueError(
            f"the entries are a {type(entries).__name__}: a list of dicts is expected{_NATIVE}"
        )
    return [_entry(each) for each in entries]


def _entry(entry: Mapping[str, Any]) -> Json:
    if not isinstance(entry, Mapping):
        raise ValueError(
            f"a schedule entry is a {type(entry).__name__}: "
            "a dict with id, job, and cron or every_ms is expected"
        )
    written = dict(entry)
    if written.get("args") is not None:
        try:
            written["args"] = args_of(written["args"])
        except ValueError as error:
            raise ValueError(f"the schedule entry {written.get('id')!r}: {error}") from None
    return written


def submit_fields(
    *,
    job: str,
    select: Mapping[str, Any],
    args: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    ttl_ms: int = 60_000,
    origin: str = "",
) -> Json:
    """The fields of ``submit``."""
    names(job, "job")
    if ttl_ms < 1:
        raise ValueError(f"a ttl of {ttl_ms} ms: more than 0 is expected")
    fields: Json = {
        "job": job,
        "args": args_of(args),
        "select": dict(select),
        "ttl_ms": ttl_ms,
        "origin": cut(origin),
    }
    if run_id is not None:
        try:
            fields["run_id"] = str(uuid.UUID(run_id))
        except (ValueError, AttributeError, TypeError):
            raise ValueError(
                f"run_id {run_id!r} is no UUID: one of protocol.new_run_id() is expected"
            ) from None
    return fields


@dataclass(frozen=True)
class NodeState:
    """One node's part of a run."""

    node: str
    status: str
    """Its state, or its result's status."""
    final: bool
    result: Json
    """The result as the hub gave it; empty while there is none."""

    @property
    def ok(self) -> bool:
        """Whether it is a success: a lost node, for one, never is."""
        return self.final and self.status == "ok"


@dataclass(frozen=True)
class RunState:
    """A page of a run."""

    run_id: str
    final: bool
    count: int
    nodes: tuple[NodeState, ...]
    next: str | None
    head: Json
    """The rest: job, select, origin, submitted_ms and so on."""


def _node(row: Mapping[str, Any]) -> NodeState:
    nested = row.get("result")
    result: Json = dict(nested) if isinstance(nested, dict) else {}
    if not result and isinstance(row.get("status"), str):
        result = {key: value for key, value in row.items() if key not in ("final", "state")}
    status = str(result.get("status") or row.get("state") or "waiting")
    final = row.get("final")
    return NodeState(
        node=str(row.get("node", "")),
        status=status,
        final=final if isinstance(final, bool) else bool(result.get("status")),
        result=result,
    )


def run_state(answer: Json) -> RunState:
    """The answer to ``runs`` with a ``run_id``."""
    rows = answer.get("nodes")
    if not isinstance(rows, list):
        raise BadAnswer("the hub's answer holds no nodes")
    nodes = tuple(_node(row) for row in rows if isinstance(row, dict))
    head = {key: value for key, value in answer.items() if key not in ("nodes", "next", "final")}
    next_page = answer.get("next")
    return RunState(
        run_id=str(answer.get("run_id", "")),
        final=bool(answer.get("final")),
        count=int(answer.get("count", len(nodes))),
        nodes=nodes,
        next=str(next_page) if next_page is not None else None,
        head=head,
    )


@dataclass(frozen=True)
class OutputPage:
    """Some of what a run wrote."""

    data: bytes
    next: int | None
    complete: bool


def output_page(answer: Json, start: int = 0) -> OutputPage:
    """The answer to ``output``."""
    chunks = answer.get("chunks")
    if not isinstance(chunks, list):
        raise BadAnswer("the hub's answer holds no chunks")
    try:
        data = b"".join(base64.b64decode(chunk["data"], validate=True) for chunk in chunks)
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(f"the hub's answer is not base64: {error}") from None
    next_page = answer.get("next")
    moves_on = isinstance(next_page, int) and next_page > start
    return OutputPage(data, next_page if moves_on else None, bool(answer.get("complete")))


def event_id(row: Mapping[str, Any]) -> str:
    """What is the same each time one result is delivered, and of no other result."""
    revised = "-revised" if row.get("revised") else ""
    return f"{row['run_id']}/{row['node']}/{row.get('attempt', 1)}{revised}"
