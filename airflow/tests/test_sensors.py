"""The sensors, as a worker runs them: between two pokes Airflow may end the task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    TaskDeferred,
)

from fieldpost_airflow.sensors import FieldpostNodeSensor, FieldpostResultSensor
from fieldpost_airflow.triggers import FieldpostNodeTrigger, FieldpostResultTrigger
from tests.site import Site, eventually

pytestmark = [pytest.mark.hub, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(autouse=True)
def _connected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", site.connection_json)


class Store(dict[str, Any]):
    """Airflow's task state store."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def context_of(store: Store, max_tries: int = 1) -> Any:
    ti = SimpleNamespace(max_tries=max_tries, get_first_reschedule_date=lambda _: None)
    return {"ti": ti, "task_state_store": store}


def rescheduling(**kwargs: Any) -> FieldpostResultSensor:
    """As Airflow makes it anew for each poke."""
    fields = {"mode": "reschedule", "poke_interval": 0, "timeout": 60, **kwargs}
    return FieldpostResultSensor(task_id="it", job="ping", **fields)


def done(site: Site, job: str = "ping") -> str:
    run_id = site.hook.submit(job, node="gw-1").run_id
    assert site.hook.run(run_id, wait=20.0).final
    return run_id


def test_a_result_between_two_pokes_is_not_missed(site: Site) -> None:
    store = Store()
    with pytest.raises(AirflowRescheduleException):
        rescheduling().execute(context_of(store))
    first = done(site)
    assert rescheduling().execute(context_of(store))["run_id"] == first
    # A clear gives more tries: it starts anew, with results from then on.
    with pytest.raises(AirflowRescheduleException):
        rescheduling().execute(context_of(store, max_tries=2))
    second = done(site)
    assert rescheduling().execute(context_of(store, max_tries=2))["run_id"] == second


def test_results_that_are_not_wanted_are_read_once(site: Site) -> None:
    store = Store()
    with pytest.raises(AirflowRescheduleException):
        rescheduling(statuses=["failed"]).execute(context_of(store))
    done(site)
    with pytest.raises(AirflowRescheduleException):
        rescheduling(statuses=["failed"]).execute(context_of(store))
    assert store["fieldpost_after"]["after"] == site.hook.newest()


@pytest.mark.parametrize("deferrable", [False, True])
def test_one_status_is_no_list_of_letters(site: Site, deferrable: bool) -> None:
    sensor = FieldpostResultSensor(
        task_id="it", job="ping", statuses="ok", after=0, deferrable=deferrable
    )
    done(site)
    if not deferrable:
        assert sensor.execute(context_of(Store()))["status"] == "ok"
        return
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context_of(Store()))
    trigger = deferred.value.trigger
    assert isinstance(trigger, FieldpostResultTrigger)
    assert trigger.statuses == ["ok"]


def test_an_offset_that_is_none_is_said_so() -> None:
    after: Any = "x"
    with pytest.raises(AirflowFailException, match="after 'x': an offset of the hub's"):
        FieldpostResultSensor(task_id="it", job="ping", after=after).execute(context_of(Store()))


def test_a_poke_while_the_hub_is_away_is_not_yet(
    own_site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fields = own_site.connection_json.replace('"extra": {', '"extra": {"timeout": 0.5, ')
    monkeypatch.setenv("AIRFLOW_CONN_FIELDPOST_DEFAULT", fields)
    context = context_of(Store())
    nodes = FieldpostNodeSensor(task_id="nodes", group="field")
    results = rescheduling(after=own_site.hook.newest())
    run_id = done(own_site)
    own_site.kill_hub()
    assert not nodes.poke(context)
    assert not results.poke(context)
    assert "".join(capfd.readouterr()).count("not yet") == 2
    own_site.start_hub()
    found = results.poke(context)
    assert (found.xcom_value or {})["run_id"] == run_id

    eventually("they are there", lambda: bool(nodes.poke(context)) or None)


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"node": "gw-9"}, "no node is named 'gw-9'"),
        ({"node": ["gw-1", "gw-9"]}, "no node is named 'gw-9'"),
        ({"group": "nobody"}, "no node is in the group 'nobody'"),
        ({"group": "No Body"}, "is no name"),
        ({}, "exactly one of node="),
    ],
)
def test_nodes_that_nobody_knows_are_not_waited_for(
    wrong: dict[str, Any], sentence: str, deferrable: bool
) -> None:
    sensor = FieldpostNodeSensor(task_id="it", deferrable=deferrable, timeout=60, **wrong)
    with pytest.raises(AirflowFailException, match=sentence):
        sensor.execute(context_of(Store()))


def test_nodes_that_are_there_need_no_triggerer(site: Site) -> None:
    sensor = FieldpostNodeSensor(task_id="it", group="field", deferrable=True)
    assert sensor.execute(context_of(Store())) == site.names


def test_anothers_event_wakes_no_sensor() -> None:
    """On SQLite, a trigger may get the number of one that is still at work."""
    mine: list[tuple[Any, Any, dict[str, Any], Any]] = [
        (
            FieldpostNodeSensor(task_id="nodes", group="field"),
            FieldpostNodeTrigger({"groups": ["field"]}, 0.5, deadline=5.25),
            {"online": ["gw-1"]},
            ["gw-1"],
        ),
        (
            FieldpostResultSensor(task_id="results", job="ping"),
            FieldpostResultTrigger(["ping"], after=7, deadline=5.25),
            {"result": {"run_id": "r"}},
            {"run_id": "r"},
        ),
    ]
    for sensor, trigger, said, expected in mine:
        awaited = trigger.serialize()[1]
        others = [
            {"run_id": "r", "outcome": "final"},
            {"outcome": "there", **said, "awaited": {**awaited, "deadline": 6.0}},
            {"outcome": "timeout", "awaited": {**awaited, "deadline": 6.0}},
        ]
        for event in others:
            with pytest.raises(TaskDeferred) as again:
                sensor.execute_complete({}, event, awaited=awaited)
            assert again.value.trigger.serialize() == trigger.serialize()
            assert again.value.kwargs == {"awaited": awaited}
        event = {"outcome": "there", **said, "awaited": awaited}
        assert sensor.execute_complete({}, event, awaited=awaited) == expected
        failed = {"outcome": "error", "message": "why", "awaited": awaited}
        with pytest.raises(AirflowException, match="why"):
            sensor.execute_complete({}, failed, awaited=awaited)
