"""The sockets, against a hub of a few lines."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
import threading
from typing import Any

import pytest

from fieldpost_airflow import __version__, calls, sockets
from fieldpost_airflow.hooks import FieldpostAsyncHook, FieldpostHook
from fieldpost_airflow.operators import FieldpostScheduleOperator
from fieldpost_airflow.protocol import (
    FieldpostError,
    HubAway,
    NotAllowed,
    Refused,
    new_run_id,
)
from fieldpost_airflow.sockets import Address, Client
from tests.fake_hub import FakeHub, refused


def ok(_: dict[str, Any]) -> dict[str, Any]:
    return {"word": "yes"}


def test_a_request_is_answered() -> None:
    with FakeHub(ok) as hub, Client(hub.address) as client:
        assert client.call("status", {}) == {"word": "yes"}
        assert client.call("status", {"x": 1}) == {"word": "yes"}
        assert [request["op"] for request in hub.requests] == ["status", "status"]


def test_a_refusal_is_raised_and_the_next_request_is_answered() -> None:
    answers = iter([refused("unknown_job", "no such job"), {"a": 1}])
    with FakeHub(lambda _: next(answers)) as hub, Client(hub.address) as client:
        with pytest.raises(Refused, match="no such job"):
            client.call("submit", {})
        assert client.call("submit", {}) == {"a": 1}


def test_what_may_pass_is_asked_again() -> None:
    passing = ("stopping", "reloaded", "store_unavailable", "busy")
    answers = iter([*map(refused, passing), {"a": 1}])
    with FakeHub(lambda _: next(answers)) as hub, Client(hub.address) as client:
        assert client.call("submit", {}) == {"a": 1}
        assert len(hub.requests) == 5


def test_nobody_there_is_said_so() -> None:
    with FakeHub(ok) as hub:
        address = hub.address
    with Client(address) as client, pytest.raises(HubAway, match="no hub answers"):
        client.call("status", {}, patience=0.3)


def test_a_wrong_server_key_is_said_so() -> None:
    with FakeHub(ok) as hub:
        other = FakeHub(ok)
        address = Address(
            endpoint=hub.endpoint,
            server_key=other.server_public,
            public_key=hub.client_public,
            secret_key=hub.address.secret_key,
        )
        with Client(address) as client, pytest.raises(HubAway, match="server key"):
            client.call("status", {}, patience=1.0)


def test_a_key_that_is_not_let_in_is_said_so_at_once() -> None:
    with (
        FakeHub(ok).shut() as hub,
        Client(hub.address) as client,
        pytest.raises(NotAllowed, match=r"does not let this key in"),
    ):
        client.call("status", {}, patience=30.0)


def test_a_hub_that_comes_back_answers_what_was_open() -> None:
    dead = FakeHub(lambda _: None)
    answers: list[dict[str, Any]] = []
    with dead, Client(dead.address) as client:
        asking = threading.Thread(
            target=lambda: answers.append(client.call("runs", {}, patience=20.0))
        )
        asking.start()
        while not dead.requests:
            os.sched_yield()
        dead.__exit__()
        with FakeHub(ok).keys_of(dead) as back:
            asking.join()
            assert answers == [{"word": "yes"}]
            assert back.requests[0]["op"] == "runs"
        dead.__enter__()


def test_a_forked_process_has_a_connection_of_its_own() -> None:
    with FakeHub(ok) as hub:
        client = sockets.client(hub.address)
        assert client.call("status", {})["word"] == "yes"
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                same = sockets.client(hub.address) is client
                fresh = sockets.client(hub.address).call("status", {})["word"]
                again = client.call("status", {})["word"]
                os.write(write, f"{same} {fresh} {again}".encode())
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        os.close(write)
        with os.fdopen(read, "rb") as told:
            assert told.read() == b"False yes yes"
        assert client.call("status", {})["word"] == "yes"
        sockets.close_all()


async def test_a_submit_without_an_answer_says_how_to_make_sure() -> None:
    with FakeHub(lambda _: None) as hub:
        address = dataclasses.replace(hub.address, timeout=0.5)
        with pytest.raises(HubAway) as plain:
            FieldpostHook(address=address).submit("ping", node="gw-1")
        with pytest.raises(HubAway) as asynchronous:
            await FieldpostAsyncHook(address=address).submit("ping", node="gw-1")
        asked = list(dict.fromkeys(request["run_id"] for request in hub.requests))
    for run_id, error in zip(asked, (plain, asynchronous), strict=True):
        assert f"it may have been stored: submit again with run_id='{run_id}'" in str(error.value)
    sockets.close_all()


async def test_a_submit_that_was_never_sent_is_not_said_to_be_stored() -> None:
    with FakeHub(ok) as hub, FakeHub(ok) as other:
        stranger = dataclasses.replace(hub.address, server_key=other.server_public, timeout=0.5)
        absent = dataclasses.replace(hub.address, endpoint="tcp://127.0.0.1:9", timeout=0.5)
        for address in (stranger, absent):
            with pytest.raises(HubAway) as plain:
                FieldpostHook(address=address).submit("ping", node="gw-1")
            with pytest.raises(HubAway) as asynchronous:
                await FieldpostAsyncHook(address=address).submit("ping", node="gw-1")
            for error in (plain, asynchronous):
                assert "stored" not in str(error.value)
        assert hub.requests == []
    sockets.close_all()


def test_output_of_a_run_that_is_not_known_is_said_so() -> None:
    nothing: dict[str, Any] = {"chunks": [], "next": None, "complete": False}
    with (
        FakeHub(lambda _: nothing) as hub,
        pytest.raises(FieldpostError, match="not complete or is not known"),
    ):
        FieldpostHook(address=hub.address).output(new_run_id(), "gw-1")
    sockets.close_all()


def test_a_thread_that_waits_stops_no_other() -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any] | None:
        return {"word": "yes"} if request["op"] == "status" else None

    with FakeHub(answer) as hub, Client(hub.address) as client:
        late: list[HubAway] = []

        def wait() -> None:
            try:
                client.call("runs", {}, patience=3.0)
            except HubAway as away:
                late.append(away)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while not hub.requests:
            os.sched_yield()
        assert client.call("status", {}, patience=30.0) == {"word": "yes"}
        assert not late, "the other one still waits"
        assert client.call("status", {}, patience=30.0) == {"word": "yes"}
        waiting.join()
        assert len(client._idle) == 2, "one for each of them, used again"


def test_a_connection_in_use_is_closed_after_its_request() -> None:
    with FakeHub(lambda _: None) as hub:
        client = Client(hub.address)

        def wait() -> None:
            with contextlib.suppress(HubAway):
                client.call("runs", {}, patience=0.5)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while not hub.requests:
            os.sched_yield()
        client.close()
        waiting.join()
        assert client._idle == []


async def test_all_in_a_loop_share_one_connection() -> None:
    with FakeHub(ok) as hub:
        together = asyncio.Event()

        async def one() -> object:
            async with sockets.shared(hub.address) as client:
                await together.wait()
                return (await client.call("status", {}))["word"], client

        tasks = [asyncio.create_task(one()) for _ in range(100)]
        await asyncio.sleep(0)
        assert sockets.sharers(hub.address) == 100
        together.set()
        answers = await asyncio.gather(*tasks)
        assert {answer[0] for answer in answers} == {"yes"}  # type: ignore[index]
        assert len({id(answer[1]) for answer in answers}) == 1  # type: ignore[index]
        assert sockets.sharers(hub.address) == 0


async def test_a_hook_that_two_coroutines_hold_stays_connected_until_both_leave() -> None:
    with FakeHub(ok) as hub:
        address = dataclasses.replace(hub.address, events=hub.endpoint)
        hook = FieldpostAsyncHook(address=address)
        first_left = asyncio.Event()

        async def first(second_came: asyncio.Event) -> None:
            async with hook.connected():
                await second_came.wait()
            first_left.set()

        async def second(second_came: asyncio.Event) -> object:
            async with hook.connected() as held:
                second_came.set()
                await first_left.wait()
                with held.events(["node/gw-1/"]):
                    return await held.status()

        came = asyncio.Event()
        one = asyncio.create_task(first(came))
        await asyncio.sleep(0)
        assert await second(came) == {"word": "yes"}
        await one
        assert sockets.sharers(address) == 0


async def test_a_coroutine_that_is_cancelled_leaves_nothing_behind() -> None:
    with FakeHub(lambda _: None) as hub:
        async with sockets.shared(hub.address) as client:
            task = asyncio.create_task(client.call("runs", {}, wait=60.0))
            while not hub.requests:
                await asyncio.sleep(0.001)
            assert client.waiting == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.waiting == 0


async def test_whoever_is_cancelled_while_closing_leaves_no_sockets_behind() -> None:
    with FakeHub(ok) as hub:
        used: list[sockets.AsyncClient] = []

        async def one() -> None:
            async with sockets.shared(hub.address) as client:
                used.append(client)
                await client.call("status", {})

        task = asyncio.create_task(one())
        while not used or sockets.sharers(hub.address):
            await asyncio.sleep(0)
        assert not task.done(), "it is closing"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert used[0]._socket.closed
        assert used[0]._context.closed


async def test_a_hub_that_is_away_is_waited_for() -> None:
    first = FakeHub(lambda _: None)
    with first:
        pass
    async with sockets.shared(first.address) as client:
        task = asyncio.create_task(client.call("runs", {}, patience=math.inf))
        with FakeHub(ok).keys_of(first):
            assert await asyncio.wait_for(task, 20) == {"word": "yes"}


async def test_a_key_that_is_not_let_in_fails_every_waiter() -> None:
    with FakeHub(ok).shut() as hub:
        async with sockets.shared(hub.address) as client:
            calls = [client.call("runs", {}, patience=math.inf) for _ in range(3)]
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(error, NotAllowed) for error in errors), errors


async def test_nonsense_from_the_hub_reaches_its_caller() -> None:
    with FakeHub(lambda _: refused("c", "m")) as hub:
        async with sockets.shared(hub.address) as client:
            with pytest.raises(Refused, match="m"):
                await client.call("runs", {})


@pytest.mark.parametrize(
    ("status", "is_good", "sentence"),
    [
        ({"hub": "h", "version": f"{__version__}-rc.1"}, True, "The hub h answers"),
        ({"hub": "h", "version": "0.99.3"}, False, "its version is 0.99.3"),
        ({}, False, "its version is None"),
    ],
)
def test_the_test_of_a_connection_judges_the_version(
    status: dict[str, Any], is_good: bool, sentence: str
) -> None:
    with FakeHub(lambda _: status) as hub:
        good, said = FieldpostHook(address=hub.address).test_connection()
    assert good is is_good
    assert sentence in said


def test_only_nodes_that_are_late_are_asked_again_for_their_schedule() -> None:
    late = iter([False, False, True])

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        up = request["node"] == "early" or next(late)
        return {"node": {"schedule": {"counter": 3, "up_to_date": up}}}

    with FakeHub(answer) as hub:
        operator = FieldpostScheduleOperator(
            task_id="it", entries=[], node=["early", "late"], wait=20
        )
        select = {"nodes": ["early", "late"]}
        held = operator._held(FieldpostHook(address=hub.address), select)
        assert held == dict.fromkeys(("early", "late"), calls.Held(3, True))
        assert [request["node"] for request in hub.requests] == ["early", *["late"] * 3]
    sockets.close_all()
