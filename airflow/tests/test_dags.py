"""DAGs by ``dag.test()``, against a real hub and real agents."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zmq
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowTaskTimeout, TaskDeferred
from airflow.sdk.execution_time.timeout import timeout

from fieldpost_airflow import operators, protocol
from fieldpost_airflow.operators import (
    RESULTS_KEY,
    SUMMARY_KEY,
    FieldpostScheduleOperator,
    FieldpostTriggerOperator,
)
from fieldpost_airflow.sensors import FieldpostNodeSensor, FieldpostResultSensor
from fieldpost_airflow.triggers import FieldpostRunTrigger
from tests.site import Site, eventually

pytestmark = [
    pytest.mark.hub,
    # Airflow's own, in its in-process API server.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(autouse=True)
def _connected(site: Site, airflow_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", site.connection_json)


Play = Callable[..., Any]


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a DAG of one task; gives its state and its XComs."""
    number = iter(range(100))

    def once(make: Callable[..., Any], **kwargs: Any) -> tuple[str, dict[str, Any]]:
        name = request.node.name.split("[")[0][:60]
        with DAG(
            dag_id=f"{name}_{next(number)}", schedule=None, start_date=datetime(2026, 1, 1)
        ) as dag:
            make(task_id="it", **kwargs)
        return played(dag)["it"]

    return once


def played(dag: DAG) -> dict[str, tuple[str, dict[str, Any]]]:
    """Task → state and XComs."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(dag_folder=os.devnull)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)
    run = dag.test()
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    with create_session() as session:
        for ti in run.get_task_instances(session=session):
            rows = session.scalars(
                select(XComModel).where(
                    XComModel.dag_id == dag.dag_id,
                    XComModel.run_id == run.run_id,
                    XComModel.task_id == ti.task_id,
                    XComModel.map_index == ti.map_index,
                )
            )
            xcoms = {row.key: XComModel.deserialize_value(row) for row in rows}
            key = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
            found[key] = (str(ti.state), xcoms)
    return found


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_group_answers(play: Play, deferrable: bool) -> None:
    state, xcoms = play(
        FieldpostTriggerOperator,
        job="read-meter",
        args={"bus": "{{ 1 + 1 }}"},
        group="field",
        deferrable=deferrable,
    )
    assert state == "success"
    results = xcoms["return_value"]
    assert sorted(results) == ["gw-1", "gw-2", "gw-3"]
    assert results["gw-2"]["status"] == "ok"
    assert results["gw-2"]["output"] == {"bus": 2, "node": "gw-2"}
    assert xcoms[SUMMARY_KEY]["ok"] == 3
    assert xcoms["fieldpost_run_id"] == xcoms[SUMMARY_KEY]["run_id"]


@pytest.mark.parametrize("deferrable", [False, True])
def test_partial_success_is_visible(play: Play, deferrable: bool) -> None:
    fails = {"job": "fail-on-gw-2", "group": "field", "deferrable": deferrable}
    state, xcoms = play(FieldpostTriggerOperator, min_success=0.6, **fails)
    assert state == "success"
    assert xcoms["return_value"]["gw-2"]["status"] == "failed"
    assert xcoms[SUMMARY_KEY]["not_ok"] == {"gw-2": "failed (exit code 1)"}
    state, xcoms = play(FieldpostTriggerOperator, **fails)
    assert state == "failed"
    assert "return_value" not in xcoms
    assert xcoms[RESULTS_KEY]["gw-1"]["output"] == 1


def test_the_device_and_the_audit_trail_know_who_asked(play: Play, site: Site) -> None:
    play(FieldpostTriggerOperator, job="ping", node="gw-1")
    entries = site.ask("audit")["entries"]
    asked = next(entry for entry in entries if entry["what"] == "submit")
    assert asked["origin"].startswith("airflow:test_the_device_and_the_audit_trail_know_who_asked")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"job": "no-such-job", "node": "gw-1"}, "no-such-job"),
        ({"job": "ping", "node": "gw-9"}, "no node is named"),
        ({"job": "ping", "group": "nobody"}, "no node is in the group"),
        ({"job": "read-meter", "node": "gw-1", "args": {"bus": "x"}}, "rejected"),
        ({"job": "read-meter", "node": "gw-1", "args": {"bus": ["x"]}}, "is a list"),
        ({"job": "read-meter", "node": "gw-1", "args": {"bus": "1" * 300}}, "256 are allowed"),
        ({"job": "ping", "node": [f"{n:060}" for n in range(1100)]}, "a frame holds 61440"),
        ({"job": "ping", "node": "gw-1", "args": {f"a{n}": 1 for n in range(9)}}, "at most 8"),
        ({"job": "ping"}, "exactly one of node="),
        ({"job": "ping", "node": "gw-1", "ttl": "soon"}, "ttl 'soon': seconds, more"),
        ({"job": "read-meter", "node": "gw-1", "args": "{{ {'bus': 1} }}"}, "a dict is expected"),
        ({"job": "big", "node": "gw-1", "output": "text"}, "say output_to="),
        ({"job": "lines", "node": "gw-1"}, "not JSON"),
        ({"job": "fail", "node": "gw-1"}, "fail is ok on 0 of 1 nodes (1 needed)"),
    ],
)
def test_bad_input_fails_the_task_in_one_sentence(
    play: Play, capfd: pytest.CaptureFixture[str], wrong: dict[str, Any], sentence: str
) -> None:
    state, _ = play(FieldpostTriggerOperator, **wrong)
    out, err = capfd.readouterr()
    assert state == "failed"
    assert sentence in out + err


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"port": 9}, "no hub answers at 127.0.0.1:9"),
        ({"server_key": "a" * 40}, "is the connection's server key the hub's"),
        ({"password": "stranger"}, "does not let this key in"),
        ({"password": "short"}, "40 characters of Z85 are expected"),
    ],
)
def test_a_wrong_connection_fails_the_task_in_one_sentence(
    play: Play,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    wrong: dict[str, Any],
    sentence: str,
    deferrable: bool,
) -> None:
    fields = json.loads(site.connection_json)
    fields["extra"]["timeout"] = 2
    if "server_key" in wrong:
        fields["extra"] |= wrong
    elif wrong.get("password") == "stranger":
        fields |= {"password": zmq.curve_keypair()[1].decode(), "login": None}
    else:
        fields |= wrong
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", json.dumps(fields))
    before = site.hook.newest()
    state, _ = play(FieldpostTriggerOperator, job="ping", node="gw-1", deferrable=deferrable)
    out, err = capfd.readouterr()
    assert state == "failed"
    assert sentence in out + err
    assert site.hook.newest() == before, "nothing ran"


def test_outputs_are_what_they_are_said_to_be(play: Play, tmp_path: Path) -> None:
    _, xcoms = play(FieldpostTriggerOperator, job="lines", node="gw-1", output="lines")
    assert xcoms["return_value"]["gw-1"]["output"] == ["one", "two"]
    _, xcoms = play(FieldpostTriggerOperator, job="lines", node="gw-1", output="text")
    assert xcoms["return_value"]["gw-1"]["output"] == "one\ntwo\n"
    for output in ("text", "path"):
        state, xcoms = play(
            FieldpostTriggerOperator,
            job="big",
            node="gw-1",
            output=output,
            output_to=f"file://{tmp_path}/out",
        )
        assert state == "success"
        path = xcoms["return_value"]["gw-1"]["path"]
        assert Path(path.removeprefix("file://")).read_bytes() == b"x" * 300_000


def test_an_output_that_can_not_be_stored_is_fetched_by_the_retry(
    site: Site, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.write_text("a file is in the way")
    context, store = context_of()

    def once() -> Any:
        return FieldpostTriggerOperator(
            task_id="it", job="big", node="gw-1", output="path", output_to=f"file://{folder}"
        ).execute(context)

    with pytest.raises(AirflowException, match=r"could not be written to file://.*: a retry"):
        once()
    run_id = store.values["fieldpost_run"]["run_id"]
    folder.unlink()
    assert run_id in once()["gw-1"]["path"], "the job did not run twice"


def test_fire_and_forget(play: Play, site: Site) -> None:
    state, xcoms = play(
        FieldpostTriggerOperator, job="ping", group="field", wait_for_completion=False
    )
    assert state == "success"
    assert xcoms["return_value"]["count"] == 3
    assert site.hook.run(xcoms["return_value"]["run_id"], wait=20.0).final


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_timeout_stops_the_run_on_the_device(play: Play, site: Site, deferrable: bool) -> None:
    state, xcoms = play(
        FieldpostTriggerOperator,
        job="hang",
        node="gw-1",
        deferrable=deferrable,
        execution_timeout=timedelta(seconds=1),
    )
    assert state == "failed"
    run = site.hook.run(xcoms["fieldpost_run_id"], wait=20.0)
    assert [node.status for node in run.nodes] == ["cancelled"]


def test_offline_nodes(play: Play, site: Site) -> None:
    # A node that was accepted and never came.
    site.ask(
        "nodes.import",
        nodes=[{"node": "gw-away", "key": protocol_key(), "groups": ["half"]}],
    )
    away = {"job": "ping", "node": ["gw-1", "gw-away"]}
    state, _ = play(FieldpostTriggerOperator, offline="fail", **away)
    assert state == "failed"
    state, xcoms = play(FieldpostTriggerOperator, offline="skip", **away)
    assert state == "success"
    assert xcoms[SUMMARY_KEY]["offline"] == ["gw-away"]
    state, _ = play(FieldpostTriggerOperator, offline="skip", job="ping", group="half")
    assert state == "skipped"
    state, xcoms = play(FieldpostTriggerOperator, ttl=1, min_success=1, **away)
    assert state == "success"
    assert xcoms[SUMMARY_KEY]["not_ok"]["gw-away"].startswith("expired")
    site.ask("nodes.revoke", node="gw-away")


def protocol_key() -> str:
    return zmq.curve_keypair()[0].decode()


def test_a_schedule_is_handed_over_and_taken_up(play: Play, site: Site) -> None:
    entries = [{"id": "e", "job": "ping", "every_ms": 60_000}]
    hand: dict[str, Any] = {
        "entries": entries,
        "node": "gw-1",
        "min_taken_up": 1.0,
        "wait": 20.0,
    }
    state, xcoms = play(FieldpostScheduleOperator, **hand)
    assert state == "success"
    versions = xcoms["return_value"].pop("versions")
    nodes = {"gw-1": True}
    assert xcoms["return_value"] == {"changed": True, "count": 1, "nodes": nodes, "notes": []}
    _, xcoms = play(FieldpostScheduleOperator, **hand)
    assert xcoms["return_value"]["changed"] is False
    assert xcoms["return_value"]["versions"] == versions
    operator = FieldpostScheduleOperator(task_id="it", **{**hand, "entries": []})
    context, _ = context_of()
    assert operator.execute(context)["versions"]["gw-1"] > versions["gw-1"]
    site.ask("schedule.clear", select={"nodes": ["gw-1"]})


def test_what_may_be_a_slip_in_a_schedule_is_said_and_what_is_one_fails(site: Site) -> None:
    entry = {"id": "e", "job": "ping", "every_ms": 60_000}
    slips: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"job": "no-such-job"}, {"node": "gw-1"}, "no-such-job"),
        ({}, {"group": "nobody"}, "nobody"),
    ]
    for wrong, where, word in slips:
        context, _ = context_of()
        operator = FieldpostScheduleOperator(
            task_id="it", entries=[{**entry, **wrong}], wait=0, **where
        )
        assert any(word in note for note in operator.execute(context)["notes"])
        FieldpostScheduleOperator(task_id="it", entries=[], wait=0, **where).execute(context)
    faults: list[tuple[dict[str, Any], str, str]] = [
        ({}, "gw-9", "no node is named"),
        ({"cron": "soon"}, "gw-1", "cron"),
        ({"every_ms": None}, "gw-1", "every_ms"),
        ({"job": "No Job"}, "gw-1", "No Job"),
        ({"args": {"bus": "1" * 300}}, "gw-1", "256"),
        ({"args": {"bus": [2]}}, "gw-1", "the schedule entry .e.: the argument bus is a list"),
    ]
    for wrong, node, word in faults:
        operator = FieldpostScheduleOperator(
            task_id="it", entries=[{**entry, **wrong}], node=node, wait=0
        )
        with pytest.raises(AirflowException, match=word):
            operator.execute(context_of()[0])


@pytest.mark.parametrize("deferrable", [False, True])
def test_the_sensors(play: Play, site: Site, deferrable: bool) -> None:
    state, xcoms = play(FieldpostNodeSensor, group="field", deferrable=deferrable, timeout=20)
    assert (state, xcoms["return_value"]) == ("success", ["gw-1", "gw-2", "gw-3"])
    after = site.hook.newest()
    run = site.hook.submit("ping", node="gw-1")
    state, xcoms = play(
        FieldpostResultSensor, job="ping", after=after, deferrable=deferrable, timeout=20
    )
    assert state == "success"
    assert xcoms["return_value"]["run_id"] == run.run_id
    state, _ = play(
        FieldpostResultSensor,
        job="fail",
        statuses=["ok"],
        deferrable=deferrable,
        timeout=0.5,
        poke_interval=0.2,
    )
    assert state == "failed"


# -- the examples that ship ----------------------------------------------------------------------


def test_the_example_with_a_quorum() -> None:
    from fieldpost_airflow.example_dags.example_fieldpost_quorum import dag

    tasks = played(dag)
    assert tasks["collect"][0] == "success"
    assert tasks["total"][1]["return_value"] == 3


def test_the_example_that_fans_out() -> None:
    from fieldpost_airflow.example_dags.example_fieldpost_fan_out import dag

    tasks = played(dag)
    assert {tasks[f"read[{i}]"][0] for i in range(3)} == {"success"}
    assert tasks["read[1]"][1]["return_value"]["gw-2"]["status"] == "ok"


def test_the_example_that_only_publishes(site: Site) -> None:
    from fieldpost_airflow.example_dags.example_fieldpost_publish import dag

    state, xcoms = played(dag)["publish"]
    assert state == "success"
    run = site.hook.run(xcoms["return_value"]["run_id"], wait=20.0)
    assert run.head["args"] == {"bus": "1"}


def test_the_example_that_hands_a_schedule_over(site: Site) -> None:
    from fieldpost_airflow.example_dags.example_fieldpost_schedule import consume, hand_over

    assert played(hand_over)["hand_over"][0] == "success"
    assert played(consume)["show"] == ("success", {"return_value": []})
    site.ask("schedule.clear", select={"groups": ["field"]})


def test_a_worker_that_died_before_its_submit_loses_nothing(site: Site, caplog: Any) -> None:
    """What a retry finds of an earlier try decides what it does."""
    caplog.set_level(logging.INFO)
    operator = FieldpostTriggerOperator(task_id="it", job="ping", node="gw-1")
    store = FakeStore()

    def context(**ti: Any) -> Any:
        return {"ti": FakeTi(**ti), "task_state_store": store, "logical_date": None}

    first = protocol.new_run_id()
    # It died after it had stored the id: the retry submits with the same.
    store.set("fieldpost_run", {"run_id": first, "max_tries": 2, "clears": 0, "memo": {}})
    assert operator.execute(context(try_number=2))["gw-1"]["status"] == "ok"
    assert site.hook.run(first).final
    # It died before Airflow knew of the success: the next try finds it.
    assert operator.execute(context(try_number=3))["gw-1"]["status"] == "ok"
    assert store.values["fieldpost_run"]["run_id"] == first
    # A run that failed was seen to its end: the next try starts a new one.
    fails = FieldpostTriggerOperator(task_id="it", job="fail", node="gw-1")
    failed = []
    for number in (1, 2):
        with pytest.raises(AirflowException, match="ok on 0 of 1"):
            fails.execute(context(try_number=number))
        failed.append(store.values["fieldpost_run"]["run_id"])
    assert len({first, *failed}) == 3
    # So does one that failed while nobody looked.
    spent = site.hook.submit("fail", node="gw-1").run_id
    site.hook.run(spent, wait=20.0)
    store.set("fieldpost_run", {"run_id": spent, "max_tries": 2, "clears": 0, "memo": {}})
    with pytest.raises(AirflowException, match="ok on 0 of 1"):
        fails.execute(context(try_number=2))
    assert store.values["fieldpost_run"]["run_id"] != spent
    # It died while the run went on: the retry goes on waiting for it.
    going = site.hook.submit("ping", node="gw-1").run_id
    store.set("fieldpost_run", {"run_id": going, "max_tries": 2, "clears": 0, "memo": {}})
    operator.execute(context(try_number=2))
    assert store.values["fieldpost_run"]["run_id"] == going
    # A clear gives more tries: it runs afresh, and what may still go on is cancelled.
    hanging = site.hook.submit("hang", node="gw-1").run_id
    eventually("it runs", lambda: (site.home("gw-1") / "hanging").exists() or None)
    store.set("fieldpost_run", {"run_id": hanging, "max_tries": 2, "clears": 0, "memo": {}})
    operator.execute(context(try_number=3, max_tries=5))
    assert store.values["fieldpost_run"]["run_id"] != hanging
    assert site.hook.run(hanging, wait=20.0).nodes[0].status == "cancelled"


@pytest.fixture
def hanging(site: Site) -> Iterator[Callable[[], str]]:
    """Starts a run of the job that hangs, on gw-1; what goes on of them ends with the test."""
    made: list[str] = []

    def start() -> str:
        marker = site.home("gw-1") / "hanging"
        marker.unlink(missing_ok=True)
        made.append(site.hook.submit("hang", node="gw-1").run_id)
        eventually("it runs", lambda: marker.exists() or None)
        return made[-1]

    yield start
    for run_id in made:
        site.hook.cancel(run_id)
        site.hook.run(run_id, wait=20.0)


def status(site: Site, run_id: str) -> str:
    return site.hook.run(run_id).nodes[0].status


@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_a_task_that_is_cleared_while_it_runs_runs_afresh(
    site: Site, hanging: Callable[[], str], cancel_on_kill: bool
) -> None:
    """Airflow gives it no more tries then; only the DAG run counts its clears."""
    old = hanging()
    context, store = context_of(try_number=2, clears=1)
    store.set("fieldpost_run", {"run_id": old, "max_tries": 2, "clears": 0, "memo": {}})
    FieldpostTriggerOperator(
        task_id="it",
        job="hang",
        node="gw-1",
        wait_for_completion=False,
        ttl=1,
        cancel_on_kill=cancel_on_kill,
    ).execute(context)
    new = store.values["fieldpost_run"]["run_id"]
    assert new != old
    # A node says a moment after its program's start that it runs.
    told = "cancelled" if cancel_on_kill else "running"
    eventually(f"it is {told}", lambda: status(site, old) == told or None)
    # The old one is over before the new one is triggered: on a device they would be in conflict.
    if cancel_on_kill:
        assert status(site, new) in ("waiting", "accepted", "running")
    site.hook.cancel(new)


@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_a_retry_with_other_arguments_leaves_no_run_unsaid(
    site: Site, hanging: Callable[[], str], capfd: pytest.CaptureFixture[str], cancel_on_kill: bool
) -> None:
    old = hanging()
    context, store = context_of(try_number=2)
    store.set("fieldpost_run", {"run_id": old, "max_tries": 2, "clears": 0, "memo": {}})
    operator = FieldpostTriggerOperator(
        task_id="it", job="ping", node="gw-1", cancel_on_kill=cancel_on_kill
    )
    assert operator.execute(context)["gw-1"]["status"] == "ok"
    assert store.values["fieldpost_run"]["run_id"] != old
    # A node says a moment after its program's start that it runs.
    told = "cancelled" if cancel_on_kill else "running"
    eventually(f"it is {told}", lambda: status(site, old) == told or None)
    said = capfd.readouterr()
    assert f"he run {old} of an earlier try" in said.out + said.err


@pytest.fixture
def impatient(own_site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site to kill, and a connection that waits half a second for an answer."""
    fields = json.loads(own_site.connection_json)
    fields["extra"]["timeout"] = 0.5
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", json.dumps(fields))
    return own_site


@contextlib.contextmanager
def hub_away(site: Site, until: Callable[[str], bool], capfd: Any) -> Iterator[list[str]]:
    """The hub is killed, and comes back once what was said since tells it to."""
    said: list[str] = []
    site.kill_hub()

    def bring_back() -> None:
        def heard() -> bool | None:
            out, err = capfd.readouterr()
            said.append(out + err)
            return until("".join(said)) or None

        eventually("it is said that the hub is away", heard)
        site.start_hub()

    helper = threading.Thread(target=bring_back, daemon=True)
    helper.start()
    yield said
    helper.join()


def test_a_timeout_while_the_hub_is_away_is_told_to_it_later(
    impatient: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    marker = impatient.home("gw-1") / "hanging"
    context, store = context_of()
    monkeypatch.setattr(operators, "_KILL_PATIENCE", 0.01)
    operator = FieldpostTriggerOperator(task_id="it", job="hang", node="gw-1")

    def cut_off() -> None:
        eventually("it runs", lambda: marker.exists() or None)
        # And the hub has it on disk, and has said so.
        run = store.values["fieldpost_run"]["run_id"]
        eventually("it is told", lambda: status(impatient, run) == "running" or None)
        impatient.kill_hub()

    helper = threading.Thread(target=cut_off, daemon=True)
    helper.start()
    # As Airflow does it.
    with pytest.raises(AirflowTaskTimeout), timeout(4):
        operator.execute(context)
    helper.join()
    helper = threading.Thread(target=impatient.start_hub, daemon=True)
    helper.start()
    operator.on_kill()
    helper.join()
    old = store.values["fieldpost_run"]["run_id"]
    assert impatient.hook.run(old, wait=20.0).nodes[0].status == "cancelled"
    assert f"Cancelled the run {old}" in "".join(capfd.readouterr())


def test_a_run_that_could_not_be_cancelled_is_cancelled_by_the_next_try(
    impatient: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    marker = impatient.home("gw-1") / "hanging"
    run = impatient.hook.submit("hang", node="gw-1")
    eventually("it runs", lambda: marker.exists() or None)
    context, store = context_of()
    monkeypatch.setattr(operators, "_TIMEOUT_PATIENCE", 0.2)
    operator = FieldpostTriggerOperator(task_id="it", job="hang", node="gw-1", ttl=1)
    impatient.kill_hub()
    event = {"run_id": run.run_id, "outcome": "timeout", "memo": {}}
    with pytest.raises(AirflowException, match="was not over within"):
        operator.execute_complete(context, event)
    said = "".join(capfd.readouterr())
    assert f"the run {run.run_id} could not be cancelled and goes on" in said
    # A try that can't reach the hub either forgets nothing.
    with pytest.raises(AirflowException, match="hub"):
        operator.execute(context)
    impatient.start_hub()
    FieldpostTriggerOperator(
        task_id="it", job="hang", node="gw-1", ttl=1, wait_for_completion=False
    ).execute(context)
    new = store.values["fieldpost_run"]["run_id"]
    assert new != run.run_id
    assert impatient.hook.run(run.run_id, wait=20.0).nodes[0].status == "cancelled"


def test_results_are_fetched_from_a_hub_that_was_away_for_a_moment(
    impatient: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    run = impatient.hook.submit("read-meter", {"bus": 3}, node="gw-1")
    impatient.hook.run(run.run_id, wait=20.0)
    context, _ = context_of()
    operator = FieldpostTriggerOperator(task_id="it", job="read-meter", node="gw-1")
    event = {"run_id": run.run_id, "outcome": "final", "memo": {}}
    with hub_away(impatient, lambda said: "waiting for it" in said, capfd):
        results = operator.execute_complete(context, event)
    assert results["gw-1"]["output"] == {"bus": 3, "node": "gw-1"}


def test_another_runs_event_is_not_this_ones() -> None:
    """On SQLite, a trigger may get the number of one that is still at work."""
    operator = FieldpostTriggerOperator(task_id="it", job="ping", node="gw-1")
    awaited = {"run_id": "mine", "memo": {"offline": ["gw-2"]}, "deadline": 5.0}
    for event in ({"run_id": "another's", "outcome": "final"}, {"outcome": "there", "online": []}):
        with pytest.raises(TaskDeferred) as again:
            operator.execute_complete({}, event, awaited=awaited)
        trigger = again.value.trigger
        assert isinstance(trigger, FieldpostRunTrigger)
        assert (trigger.run_id, trigger.deadline) == ("mine", 5.0)
        assert again.value.kwargs == {"awaited": awaited}


def context_of(clears: int = 0, **ti: Any) -> tuple[Any, FakeStore]:
    """What an operator gets of Airflow, and what it remembers by."""
    store = FakeStore()
    dag_run = SimpleNamespace(clear_number=clears)
    context = {"ti": FakeTi(**ti), "task_state_store": store, "dag_run": dag_run}
    return context, store


class FakeStore:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value


class FakeTi:
    def __init__(self, try_number: int = 1, max_tries: int = 2) -> None:
        self.dag_id, self.task_id, self.run_id, self.map_index = "d", "it", "r", -1
        self.try_number, self.max_tries = try_number, max_tries

    def xcom_push(self, key: str, value: Any) -> None:
        pass
