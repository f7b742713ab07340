"""What came of a run: how many nodes it is a success on, and whether that is enough. No I/O here.

>>> wanted(0.5, 3), wanted(2, 3)
(2, 2)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fieldpost_airflow.protocol import FieldpostError, Json, NodeState, RunState, may_pass

OutputKind = Literal["json", "text", "lines", "path"]
OUTPUT_KINDS = get_args(OutputKind)


def wanted(least: float | int, count: int, what: str = "min_success") -> int:
    """How many of ``count`` nodes must succeed: a share (a float up to 1.0) or a number (an int).

    At least one of those there are, unless the share or the number is 0.
    """
    is_number = isinstance(least, (int, float)) and not isinstance(least, bool)
    # Not "< 0": what is no number at all, nan, is not that either.
    if not is_number or not least >= 0:
        raise ValueError(f"{what} {least!r}: a share up to 1.0, or a number of nodes")
    if isinstance(least, float):
        if least > 1:
            raise ValueError(
                f"{what} {least!r}: a share is at most 1.0; "
                "write a whole number for a number of nodes"
            )
        # 0.1 * 30 is a little more than 3.
        needed = math.ceil(round(least * count, 9))
        return max(min(1, count), needed) if least > 0 else 0
    return least


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    run_id: str
    job: str
    count: int
    ok: tuple[str, ...]
    not_ok: Mapping[str, str]
    """Node → status, or what went wrong."""
    wanted: int
    offline: tuple[str, ...] = ()
    """Nodes that were left out because the hub did not hear them."""

    @property
    def enough(self) -> bool:
        """Whether it is a success."""
        return len(self.ok) >= self.wanted

    @property
    def sentence(self) -> str:
        """It in one sentence."""
        text = f"{self.job} is ok on {len(self.ok)} of {self.count} nodes"
        if not self.enough:
            text += f" ({self.wanted} needed)"
        if self.not_ok:
            shown = [f"{node} {status}" for node, status in sorted(self.not_ok.items())]
            more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
            text += f": {', '.join(shown[:5])}{more}"
        if self.offline:
            text += f"; left out, because offline: {', '.join(self.offline[:5])}"
            text += f" and {len(self.offline) - 5} more" if len(self.offline) > 5 else ""
        return f"{text} (run {self.run_id})"

    def summary(self) -> Json:
        """It for XCom."""
        return {
            "run_id": self.run_id,
            "job": self.job,
            "count": self.count,
            "ok": len(self.ok),
            "wanted": self.wanted,
            "not_ok": dict(self.not_ok),
            "offline": list(self.offline),
        }


def judge(
    run: RunState,
    min_success: float | int,
    *,
    job: str = "",
    offline: Sequence[str] = (),
    unreadable: Mapping[str, str] | None = None,
) -> Outcome:
    """The outcome of a run that is over. What has no result yet counts as what it is: no success.

    :param unreadable: nodes whose output is not what it should be, and why
    """
    unreadable = unreadable or {}
    count = max(run.count, len(run.nodes))
    ok = tuple(node.node for node in run.nodes if node.ok and node.node not in unreadable)
    not_ok = {node.node: _said(node) for node in run.nodes if not node.ok} | dict(unreadable)
    return Outcome(
        run_id=run.run_id,
        job=str(run.head.get("job") or job),
        count=count,
        ok=ok,
        not_ok=not_ok,
        wanted=wanted(min_success, count),
        offline=tuple(offline),
    )


def _said(node: NodeState) -> str:
    result = node.result
    text = node.status
    if result.get("exit_code"):
        text += f" (exit code {result['exit_code']})"
    elif result.get("signal"):
        text += f" (signal {result['signal']})"
    note = str(result.get("note") or "").strip()
    tail = str(result.get("stderr") or "").strip().splitlines()
    if note:
        text += f": {note}"
    elif tail:
        text += f": {tail[-1][:200]}"
    return text


_MOST_DEPTH = 64
"""Levels of nested output: Airflow's XCom, which goes down by recursion, takes fewer than JSON."""
_RESERVED = ({"__classname__"}, {"__id__"}, {"__type", "__var"})
"""Keys by which Airflow tells its own objects in XCom: it fails on any other use of them."""


def parse(data: bytes, kind: str) -> Any:
    """Output as what it should be; ``None`` for none at all. What XCom would not take is a
    ``FieldpostError`` here, where it is one node's: there it would hide every node's result."""
    if kind == "json":
        if not data.strip():
            return None
        try:
            value = _checked(json.loads(data, parse_constant=_no_constant, parse_int=_whole))
            # Infinity as 1e999, and half a character, which no UTF-8 holds.
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise FieldpostError(f"the output is not JSON that XCom takes: {error}") from None
        return value
    text = data.decode(errors="replace")
    if kind == "lines":
        return text.splitlines()
    return text


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number in JSON")


def _whole(digits: str) -> int:
    value = int(digits)
    if not -(2**63) <= value < 2**64:
        raise ValueError("a whole number has more than 64 bits")
    return value


def _checked(value: Any) -> Any:
    """The value, unless XCom can't take its shape. Level by level, and not by recursion."""
    level = [value]
    for _ in range(_MOST_DEPTH + 1):
        for keys in (each.keys() for each in level if isinstance(each, dict)):
            if any(reserved <= keys for reserved in _RESERVED):
                raise ValueError(f"Airflow keeps keys of {sorted(keys)[:8]} to itself")
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return value
    raise ValueError(f"it is nested more than {_MOST_DEPTH} levels deep")


_KEPT = (
    "status",
    "attempt",
    "exit_code",
    "signal",
    "started_ms",
    "started_corrected_ms",
    "duration_us",
    "received_ms",
    "bytes",
    "clock",
    "note",
    "stderr",
)
_FLAGS = ("truncated", "output_dropped", "inferred", "revised")


def row(node: NodeState) -> Json:
    """One node's result for XCom: without what says nothing."""
    result = node.result
    kept: Json = {"status": node.status}
    kept |= {key: result[key] for key in _KEPT if result.get(key) not in (None, "")}
    kept |= {flag: True for flag in _FLAGS if result.get(flag)}
    return kept


def collect(
    run: RunState, read: Callable[[NodeState], Mapping[str, Any]]
) -> tuple[dict[str, Json], dict[str, str]]:
    """``{node: result}`` with each one's output, and the nodes whose output is unreadable.

    :param read: gives ``{"output": …}`` or ``{"path": …}`` of a node, or raises ``FieldpostError``
    """
    results: dict[str, Json] = {}
    unreadable: dict[str, str] = {}
    for node in run.nodes:
        result = results[node.node] = row(node)
        if not node.result.get("bytes"):
            if node.ok:
                result |= {"output": None}
            continue
        try:
            result |= read(node)
        except FieldpostError as error:
            if may_pass(error):
                raise  # It is there, and can be read in a moment.
            if node.ok:
                unreadable[node.node] = str(error)
            result["note"] = str(error)
    return results, unreadable
