"""What is said to the hub, and how its answers are read."""

from __future__ import annotations

import base64
import doctest
import json
import time
import uuid
from types import ModuleType
from typing import Any

import pytest

from fieldpost_airflow import calls, exchange, outcome, protocol
from fieldpost_airflow.exchange import Exchange, Sight
from fieldpost_airflow.protocol import FieldpostError, HubAway, NotAllowed, Refused


@pytest.mark.parametrize("module", [protocol, outcome])
def test_the_documentation_is_true(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_a_run_id_is_a_uuid_of_version_7_of_this_moment() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(protocol.new_run_id())
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000
    assert protocol.new_run_id() != protocol.new_run_id()


def test_a_request_that_does_not_fit_a_frame_is_refused_here() -> None:
    with pytest.raises(Refused, match="frame holds 61440"):
        protocol.encode(1, "submit", {"select": {"nodes": ["n" * 60] * 1000}})


@pytest.mark.parametrize("frame", [b"", b"[]", b"\xff", b"{}", b'{"ok":1}', b'{"id":1}'])
def test_nonsense_is_an_error_and_no_crash(frame: bytes) -> None:
    with pytest.raises(FieldpostError):
        protocol.decode(frame)


def test_a_refusal_says_what_and_why() -> None:
    reply = protocol.decode(b'{"id":3,"ok":false,"error":{"code":"c","message":"m"}}')
    with pytest.raises(Refused, match=r"m \(c\)"):
        reply.granted()
    assert protocol.decode(b'{"id":null,"ok":false}').id == 0


def test_a_selector_is_exactly_one_thing() -> None:
    assert protocol.select(node="a") == {"nodes": ["a"]}
    assert protocol.select(group=["a", "b"]) == {"groups": ["a", "b"]}
    assert protocol.select(all_nodes=True) == {"all": True}
    for wrong in ({}, {"node": "a", "group": "b"}, {"node": "a", "all_nodes": True}):
        with pytest.raises(ValueError, match="exactly one"):
            protocol.select(**wrong)
    with pytest.raises(ValueError, match="empty"):
        protocol.select(node=[])
    with pytest.raises(ValueError, match="no name"):
        protocol.select(node="A B")


def test_arguments_are_text_on_the_wire() -> None:
    assert protocol.args_of({"a": 1, "b": True, "c": 0.5, "d": "x"}) == {
        "a": "1",
        "b": "true",
        "c": "0.5",
        "d": "x",
    }
    with pytest.raises(ValueError, match="is a list"):
        protocol.args_of({"a": [1]})
    with pytest.raises(ValueError, match="257 bytes"):
        protocol.args_of({"a": "x" * 257})
    with pytest.raises(ValueError, match="9 arguments"):
        protocol.args_of({str(i): "" for i in range(9)})
    wrong: Any = "{'bus': 1}"
    with pytest.raises(ValueError, match=r"arguments .* a str: .* render_template_as_native_obj"):
        protocol.args_of(wrong)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0, -1, "60", None])
def test_a_time_that_makes_no_sense_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"ttl .*: seconds, more than 0, are expected"):
        protocol.milliseconds(wrong, "ttl")


def test_a_time_is_whole_milliseconds_on_the_wire() -> None:
    assert protocol.milliseconds(1.5, "ttl") == 1500
    assert protocol.milliseconds(0, "wait", least=0) == 0


def test_a_run_id_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="run_id 'x' is no UUID"):
        protocol.submit_fields(job="ping", select={"all": True}, run_id="x")


def test_a_schedule_entry_has_arguments_as_a_trigger_has() -> None:
    entry = {"id": "often", "job": "ping", "args": {"bus": 2}}
    request = next(calls.schedule_set({"all": True}, [entry]))
    assert request.fields["entries"] == [{"id": "often", "job": "ping", "args": {"bus": "2"}}]
    assert entry["args"] == {"bus": 2}
    for wrong in ({"bus": [2]}, "bus=2"):
        with pytest.raises(ValueError, match="the schedule entry 'often': "):
            next(calls.schedule_set({"all": True}, [{**entry, "args": wrong}]))
    text: Any = "[{'id': 'often'}]"
    with pytest.raises(ValueError, match=r"entries .* a str: .* render_template_as_native_obj"):
        next(calls.schedule_set({"all": True}, text))
    with pytest.raises(ValueError, match="a schedule entry is a list: a dict with id, job"):
        next(calls.schedule_set({"all": True}, [[entry]]))  # type: ignore[list-item]


def test_a_status_that_no_result_has_is_refused_by_name() -> None:
    assert protocol.statuses("ok") == ["ok"]
    assert protocol.statuses(["lost", "ok"]) == ["lost", "ok"]
    assert protocol.statuses(None) is None
    for wrong in ("okay", ["ok", "okay"]):
        with pytest.raises(ValueError, match="status 'okay' is none: ok, cancelled, "):
            protocol.statuses(wrong)
    with pytest.raises(ValueError, match="no status"):
        protocol.statuses([])


def test_an_origin_fits_the_wire_and_is_whole_text() -> None:
    text = protocol.origin("d" * 100, "ü" * 100, "r", map_index=3, logical_date="2026-01-01")
    assert len(text.encode()) <= 128
    assert protocol.origin("d", "t", "r", map_index=3).startswith("airflow:d/t[3]#1 r")


def test_a_run_is_read_whatever_a_node_says_yet() -> None:
    run = protocol.run_state(
        {
            "run_id": "r",
            "final": False,
            "count": 3,
            "job": "j",
            "nodes": [
                {"node": "a", "final": True, "result": {"status": "ok", "attempt": 1}},
                {"node": "b", "final": False, "state": "running"},
                {"node": "c", "final": True, "result": {"status": "lost"}},
            ],
            "next": None,
        }
    )
    assert [node.status for node in run.nodes] == ["ok", "running", "lost"]
    assert [node.ok for node in run.nodes] == [True, False, False]
    with pytest.raises(FieldpostError):
        protocol.run_state({})


def test_output_comes_in_pages() -> None:
    def page(data: bytes, following: int | None) -> dict[str, object]:
        return {
            "chunks": [{"index": 0, "data": base64.b64encode(data).decode()}],
            "next": following,
            "complete": following is None,
        }

    call = calls.output("r", "n", 2)
    first = next(call)
    assert isinstance(first, calls.Request)
    assert first.fields == {"run_id": "r", "node": "n", "attempt": 2, "from": 0}
    assert call.send(page(b"ab", 1)) == b"ab"
    second = call.send(None)
    assert isinstance(second, calls.Request)
    assert second.fields["from"] == 1
    assert call.send(page(b"c", None)) == b"c"
    with pytest.raises(StopIteration) as end:
        call.send(None)
    assert end.value.value is True


def test_a_page_that_does_not_move_on_is_the_last_one() -> None:
    assert protocol.output_page({"chunks": [], "next": 3}, 3).next is None
    with pytest.raises(FieldpostError, match="base64"):
        protocol.output_page({"chunks": [{"data": "%"}]})


def test_the_same_result_has_the_same_event_id_and_a_revision_another() -> None:
    row = {"run_id": "r", "node": "n", "attempt": 1}
    assert protocol.event_id(row) == "r/n/1" == protocol.event_id({**row, "offset": 9})
    assert protocol.event_id({**row, "revised": True}) != "r/n/1"


# -- requests under way ------------------------------------------------------------------------


def test_open_requests_are_sent_again_when_the_connection_is_made_anew() -> None:
    exchanged = Exchange("hub:4512")
    first, frame = exchanged.ask("status", {})
    assert exchanged.happened(exchange.CONNECTED) == []
    assert exchanged.happened(exchange.SUCCEEDED) == [frame]
    states = [exchanged.up]
    assert exchanged.happened(exchange.DISCONNECTED) == []
    states.append(exchanged.up)
    assert states == [True, False]
    assert exchanged.happened(exchange.SUCCEEDED) == [frame]
    reply = json.dumps({"id": first, "ok": True}).encode()
    assert exchanged.received(reply) is not None
    assert exchanged.received(reply) is None, "the second reply is nobody's"
    assert exchanged.happened(exchange.SUCCEEDED) == []


def test_what_was_seen_says_what_is_wrong() -> None:
    exchanged = Exchange("hub:4512")
    assert "no hub answers at hub:4512" in str(exchanged.away(1))
    exchanged.happened(exchange.CONNECTED)
    assert "does not speak as a hub" in str(exchanged.away(1))
    exchanged.happened(exchange.FAILED_NO_DETAIL)
    assert "server key" in str(exchanged.away(1))
    assert exchanged.must_reconnect
    exchanged.happened(exchange.FAILED_AUTH)
    assert isinstance(exchanged.away(1), NotAllowed)
    exchanged.happened(exchange.SUCCEEDED)
    assert "did not answer" in str(exchanged.away(1))
    exchanged.happened(exchange.DISCONNECTED)
    assert isinstance(exchanged.away(1), HubAway)
    assert exchanged.sight is Sight.WELCOME


# -- outcomes ------------------------------------------------------------------------------------


def _run(*statuses: str) -> protocol.RunState:
    nodes = tuple(
        protocol.NodeState(f"n{i}", status, True, {"status": status, "attempt": 1})
        for i, status in enumerate(statuses)
    )
    return protocol.RunState("r", True, len(nodes), nodes, None, {"job": "j"})


@pytest.mark.parametrize(
    ("min_success", "count", "needed"),
    [
        (1.0, 3, 3),
        (0.5, 3, 2),
        (0.1, 30, 3),
        (0.0, 3, 0),
        (2, 3, 2),
        (0.9, 10, 9),
        (0.7, 10, 7),
        (1e-12, 3, 1),
        (0, 3, 0),
    ],
)
def test_how_many_are_needed(min_success: float, count: int, needed: int) -> None:
    assert outcome.wanted(min_success, count) == needed


@pytest.mark.parametrize("wrong", [1.5, -1, True, -0.1, float("nan"), "0.9", None])
def test_a_quorum_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="min_success"):
        outcome.wanted(wrong, 1)


@pytest.mark.parametrize("status", sorted(protocol.FINAL_BAD))
def test_nothing_but_ok_is_a_success(status: str) -> None:
    judged = outcome.judge(_run("ok", status), 1.0)
    assert not judged.enough
    assert judged.not_ok == {"n1": status}
    assert f"ok on 1 of 2 nodes (2 needed): n1 {status}" in judged.sentence
    assert outcome.judge(_run("ok", status), 0.5).enough


def test_output_is_what_it_was_said_to_be() -> None:
    assert outcome.parse(b'{"a":1}', "json") == {"a": 1}
    assert outcome.parse(b" \n", "json") is None
    assert outcome.parse(b"a\nb\n", "lines") == ["a", "b"]
    assert outcome.parse(b"\xff", "text") == "\ufffd"
    with pytest.raises(FieldpostError, match="not JSON"):
        outcome.parse(b"{", "json")


@pytest.mark.parametrize(
    "odd",
    [
        b"[" * 50_000,
        b"[" * 66 + b"]" * 66,
        b'[{"__classname__": "a.B"}]',
        b'{"__type": "x", "__var": 1}',
        b"NaN",
        b"[-Infinity]",
        b"1e999",
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b"18446744073709551616",
        b"-9223372036854775809",
        b"9" * 5_000,
        b"\xff",
    ],
)
def test_odd_output_of_one_node_does_not_hide_the_others(odd: bytes) -> None:
    nodes = tuple(
        protocol.NodeState(name, "ok", True, {"status": "ok", "bytes": 1}) for name in ("a", "b")
    )
    run = protocol.RunState("r", True, 2, nodes, None, {})

    def read(node: protocol.NodeState) -> dict[str, object]:
        return {"output": outcome.parse(odd if node.node == "b" else b"1", "json")}

    results, unreadable = outcome.collect(run, read)
    assert results["a"]["output"] == 1
    assert list(unreadable) == ["b"]
    assert "not JSON" in unreadable["b"]


def test_output_that_xcom_takes_is_read() -> None:
    assert outcome.parse(b'"\\ud83d\\ude00"', "json") == "\U0001f600"
    assert outcome.parse(b"[18446744073709551615, -9223372036854775808]", "json") == [
        2**64 - 1,
        -(2**63),
    ]
    assert outcome.parse(b"[" * 64 + b"]" * 64, "json")
    assert outcome.parse(b'{"__type": ""}', "json") == {"__type": ""}


def test_an_unreadable_output_is_no_success() -> None:
    run = protocol.RunState(
        "r",
        True,
        1,
        (protocol.NodeState("n", "ok", True, {"status": "ok", "bytes": 3}),),
        None,
        {},
    )

    def read(_: protocol.NodeState) -> dict[str, object]:
        raise FieldpostError("not JSON")

    results, unreadable = outcome.collect(run, read)
    assert unreadable == {"n": "not JSON"}
    assert results["n"]["note"] == "not JSON"
    assert not outcome.judge(run, 1.0, unreadable=unreadable).enough


@pytest.mark.parametrize("away", [HubAway("no answer"), Refused("busy", "later")])
def test_outputs_that_can_be_read_in_a_moment_are_not_given_up(away: FieldpostError) -> None:
    run = protocol.RunState(
        "r",
        True,
        1,
        (protocol.NodeState("n", "ok", True, {"status": "ok", "bytes": 3}),),
        None,
        {},
    )

    def read(_: protocol.NodeState) -> dict[str, object]:
        raise away

    with pytest.raises(type(away)):
        outcome.collect(run, read)
