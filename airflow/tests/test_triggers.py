"""The triggers, as the triggerer runs them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.triggers.base import TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem, AdvanceOutcome

from fieldpost_airflow import sockets, triggers
from fieldpost_airflow.hooks import FieldpostAsyncHook
from fieldpost_airflow.protocol import FieldpostError
from fieldpost_airflow.triggers import (
    FieldpostEventTrigger,
    FieldpostNodeTrigger,
    FieldpostRunTrigger,
    ResultStream,
)
from tests.site import Site, eventually

pytestmark = pytest.mark.hub

CLEAN = AdvanceOutcome(acked=1, failed=0)
FAILED = AdvanceOutcome(acked=0, failed=1)


@pytest.fixture(autouse=True)
def _connected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", site.connection_json)


async def first(events: AsyncIterator[TriggerEvent]) -> Any:
    async with aclosing(events) as stream:  # type: ignore[type-var]
        async for event in stream:
            return event.payload
    raise AssertionError("no event")


async def test_a_run_that_ends(site: Site) -> None:
    run = site.hook.submit("ping", node="gw-1")
    event = await first(FieldpostRunTrigger(run.run_id, memo={"a": 1}).run())
    assert event == {"run_id": run.run_id, "outcome": "final", "message": "", "memo": {"a": 1}}


async def test_a_run_that_takes_too_long(site: Site) -> None:
    run = site.hook.submit("hang", node="gw-2")
    event = await first(FieldpostRunTrigger(run.run_id, deadline=time.time() + 0.3).run())
    assert event["outcome"] == "timeout"
    site.hook.cancel(run.run_id)


async def test_a_run_that_ends_after_the_hub_has_read_its_configuration_anew(
    own_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", own_site.connection_json)
    run = own_site.hook.submit("slow", node="gw-1")
    waiting = asyncio.create_task(first(FieldpostRunTrigger(run.run_id).run()))
    while not own_site.hook.status()["clients"]["waiting"]:
        await asyncio.sleep(0.01)
    own_site.processes["hub"].send_signal(signal.SIGHUP)
    event = await asyncio.wait_for(waiting, 20)
    assert event["outcome"] == "final", event


async def test_a_run_that_nobody_knows() -> None:
    event = await first(FieldpostRunTrigger("01890a5d-ac96-774b-bcce-b302099a8057").run())
    assert event["outcome"] == "error"
    assert "not known" in event["message"]


async def test_a_thousand_wait_over_one_socket(site: Site) -> None:
    run = site.hook.submit("slow", node="gw-2")
    waiting = [
        asyncio.create_task(first(FieldpostRunTrigger(run.run_id).run())) for _ in range(1000)
    ]
    while sockets.sharers(site.address) < 1000:
        await asyncio.sleep(0.01)
    # All of them through one connection: the hub counts what it lets in.
    events = await asyncio.wait_for(asyncio.gather(*waiting), 60)
    assert {event["outcome"] for event in events} == {"final"}
    assert sockets.sharers(site.address) == 0


@pytest.mark.parametrize(
    ("state", "is_cancelled"),
    [
        ((True, "deferred"), False),
        ((True, "running"), False),
        ((False, None), False),
        ((True, "failed"), True),
        ((True, "success"), True),
        ((True, None), True),
    ],
)
async def test_a_kill_cancels_only_when_airflow_says_that_the_task_is_over(
    site: Site, monkeypatch: pytest.MonkeyPatch, state: Any, is_cancelled: bool
) -> None:
    async def said(_: Any) -> Any:
        return state

    monkeypatch.setattr(triggers, "state_of", said)
    run = site.hook.submit("slow", node="gw-3")
    trigger = FieldpostRunTrigger(run.run_id)
    ti = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)
    trigger._task_instance = ti
    await trigger.on_kill()
    ended = site.hook.run(run.run_id, wait=20.0)
    assert [node.status for node in ended.nodes] == ["cancelled" if is_cancelled else "ok"]


async def test_a_kill_goes_on_when_airflow_cancels_it_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def said(_: Any) -> Any:
        asked.set()
        await answer.wait()
        return True, "failed"

    monkeypatch.setattr(triggers, "state_of", said)
    run = site.hook.submit("hang", node="gw-3")
    trigger = FieldpostRunTrigger(run.run_id)
    trigger._task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)
    killing = asyncio.create_task(trigger.on_kill())
    await asked.wait()
    killing.cancel()
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await killing
    ended = await FieldpostAsyncHook().run(run.run_id, wait=20.0)
    assert [node.status for node in ended.nodes] == ["cancelled"]


async def test_nodes_that_come_back(own_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", own_site.connection_json)
    own_site.stop("gw-2")
    own_site.kill_hub()
    own_site.start_hub()  # which has not heard anybody yet
    own_site.wait_up("gw-1")
    trigger = FieldpostNodeTrigger({"groups": ["field"]})
    waiting = asyncio.create_task(first(trigger.run()))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    own_site.start("gw-2")
    event = await asyncio.wait_for(waiting, 20)
    assert (event["outcome"], event["online"]) == ("there", ["gw-1", "gw-2"])
    assert event["awaited"] == trigger.serialize()[1]


async def test_node_triggers_share_one_socket(
    own_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", own_site.connection_json)
    own_site.stop("gw-2")
    own_site.kill_hub()
    own_site.start_hub()
    own_site.wait_up("gw-1")
    wanted: list[Any] = [{"groups": ["field"]}, {"nodes": ["gw-2"]}]
    before = len(os.listdir("/proc/self/fd"))
    waiting = [
        asyncio.create_task(first(FieldpostNodeTrigger(wanted[number % 2]).run()))
        for number in range(100)
    ]
    while sockets.sharers(own_site.address) < 100:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    # Two sockets, their monitors, and libzmq's own: not some for each.
    assert len(os.listdir("/proc/self/fd")) - before < 30
    # One that leaves takes nothing from the others.
    waiting.pop().cancel()
    own_site.start("gw-2")
    events = await asyncio.wait_for(asyncio.gather(*waiting), 20)
    assert {event["outcome"] for event in events} == {"there"}
    assert sockets.sharers(own_site.address) == 0


async def test_a_node_trigger_outlives_its_hub(
    own_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", own_site.connection_json)
    own_site.stop("gw-2")
    own_site.kill_hub()
    own_site.start_hub()
    own_site.wait_up("gw-1")
    waiting = asyncio.create_task(first(FieldpostNodeTrigger({"groups": ["field"]}).run()))
    while not sockets.sharers(own_site.address):
        await asyncio.sleep(0.01)
    own_site.kill_hub()
    own_site.start("gw-2")
    await asyncio.sleep(0.2)
    own_site.start_hub()
    event = await asyncio.wait_for(waiting, 40)
    assert event["online"] == ["gw-1", "gw-2"]


# -- events --------------------------------------------------------------------------------------


async def take(stream: ResultStream, count: int) -> list[tuple[dict[str, Any], int]]:
    taken = []
    async with aclosing(stream.open_stream()) as rows:
        async for item in rows:
            taken.append(item)
            if len(taken) == count:
                break
    return taken


async def test_an_event_comes_again_until_airflow_has_stored_it(site: Site) -> None:
    trigger = FieldpostEventTrigger(jobs="ping", consumer="again")
    stream = ResultStream(trigger)
    site.hook.results_commit("again", site.hook.newest())
    runs = [site.hook.submit("ping", node="gw-1") for _ in range(3)]
    for run in runs:
        site.hook.run(run.run_id, wait=20.0)
    taken = await asyncio.wait_for(take(stream, 3), 20)
    assert {row["run_id"] for row, _ in taken} == {run.run_id for run in runs}
    # The triggerer dies here: all three come again, with the same ids.
    again = await asyncio.wait_for(take(ResultStream(trigger), 3), 20)
    ids = [trigger.event_of(row).payload["event_id"] for row, _ in taken]  # type: ignore[union-attr]
    assert ids == [
        trigger.event_of(row).payload["event_id"]  # type: ignore[union-attr]
        for row, _ in again
    ]
    # Two are stored, the third is not.
    stream = ResultStream(trigger)
    items = [AdvanceItem(offset, CLEAN) for _, offset in again[:2]]
    with pytest.raises(FieldpostError, match="delivered again"):
        await stream.advance([*items, AdvanceItem(again[2][1], FAILED)])
    (left,) = await asyncio.wait_for(take(ResultStream(trigger), 1), 20)
    assert left == again[2]
    site.hook.results_commit("again", None)


async def test_a_new_consumer_starts_now_and_is_known_at_once(site: Site) -> None:
    site.hook.run(site.hook.submit("ping", node="gw-1").run_id, wait=20.0)
    trigger = FieldpostEventTrigger(jobs="ping", consumer="fresh")
    taking = asyncio.create_task(take(ResultStream(trigger), 1))
    while "fresh" not in [known["name"] for known in site.hook.status()["consumers"]]:
        await asyncio.sleep(0.01)
    run = site.hook.submit("ping", node="gw-1")
    ((row, _),) = await asyncio.wait_for(taking, 20)
    assert row["run_id"] == run.run_id
    site.hook.results_commit("fresh", None)


async def test_statuses_that_are_not_wanted_make_no_event(site: Site) -> None:
    trigger = FieldpostEventTrigger(jobs="fail")
    assert trigger.event_of({"status": "failed", "run_id": "r", "node": "n"}) is None
    assert FieldpostEventTrigger(statuses=None).event_of(
        {"status": "failed", "run_id": "r", "node": "n"}
    )


async def test_run_delivers_too(site: Site) -> None:
    trigger = FieldpostEventTrigger(jobs="ping", consumer="plain")
    waiting = asyncio.create_task(first(trigger.run()))
    while "plain" not in [known["name"] for known in site.hook.status()["consumers"]]:
        await asyncio.sleep(0.01)
    run = site.hook.submit("ping", node="gw-1")
    event = await asyncio.wait_for(waiting, 20)
    assert event["run_id"] == run.run_id
    assert event["event_id"] == f"{run.run_id}/gw-1/1"
    site.hook.results_commit("plain", None)


async def test_a_stream_outlives_its_hub(own_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", own_site.connection_json)
    trigger = FieldpostEventTrigger(jobs="slow", consumer="patient")
    taking = asyncio.create_task(take(ResultStream(trigger), 1))
    while not own_site.hook.status()["consumers"]:
        await asyncio.sleep(0.01)
    run = own_site.hook.submit("slow", node="gw-1")
    eventually("it runs", lambda: (own_site.home("gw-1") / "slow").exists() or None)
    own_site.kill_hub()
    await asyncio.sleep(0.5)
    own_site.start_hub()
    ((row, _),) = await asyncio.wait_for(taking, 40)
    assert row["run_id"] == run.run_id
