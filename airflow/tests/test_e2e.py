"""End to end: a real scheduler, DAG processor, triggerer and API server; a real hub and agents."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import Live
from tests.site import Site, eventually

pytestmark = [pytest.mark.hub, pytest.mark.e2e]


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    site = Site(Path(tempfile.mkdtemp(prefix="fp.")), nodes=2)
    try:
        made = Live(Path(tempfile.mkdtemp(prefix="fp-airflow.")), site)
        yield made
        made.close()
    finally:
        site.close()


def hanging(live: Live, node: str = "gw-1") -> int:
    """The process of the job that hangs, once it runs."""
    file = live.site.home(node) / "hanging"

    def written() -> str | None:
        return file.read_text().strip() or None if file.exists() else None

    pid = eventually("the job runs", written, 120.0)
    assert Path(f"/proc/{pid}").exists()
    return int(pid)


def waits(live: Live) -> bool:
    """Whether a trigger, besides the watcher, asks the hub for a run's end."""
    return bool(live.site.hook.status()["clients"]["waiting"] >= 2)


def gone(pid: int) -> None:
    eventually("its process is gone", lambda: not Path(f"/proc/{pid}").exists() or None, 60.0)


def test_success(live: Live) -> None:
    run = live.run("quick")
    live.until("quick", run, "success")
    results = live.xcom("quick", run)
    assert {node: row["status"] for node, row in results.items()} == {"gw-1": "ok", "gw-2": "ok"}
    run = live.run("worker")
    live.until("worker", run, "success")
    assert live.xcom("worker", run)["gw-1"]["output"] == {"bus": 0, "node": "gw-1"}


def test_partial_success_and_failure(live: Live) -> None:
    partly, fails = live.run("partly"), live.run("fails")
    live.until("partly", partly, "success")
    assert live.xcom("partly", partly, "fieldpost_summary")["ok"] == 1
    live.until("fails", fails, "failed")
    assert live.xcom("fails", fails, "fieldpost_results")["gw-1"]["exit_code"] == 3


def test_a_kill_stops_the_program_on_the_node(live: Live) -> None:
    for dag_id, node in (("hang", "gw-1"), ("hang_worker", "gw-2")):
        run = live.run(dag_id)
        pid = hanging(live, node)
        in_progress = "deferred" if dag_id == "hang" else "running"
        live.until(dag_id, run, in_progress)
        if in_progress == "deferred":
            # Before the triggerer has taken the trigger up, Airflow calls nobody's on_kill.
            eventually("the triggerer waits for it", lambda: waits(live), 60.0)
        live.set_state(dag_id, run, "failed")
        gone(pid)
        (live.site.home(node) / "hanging").unlink()


def test_a_timeout_stops_it_too(live: Live) -> None:
    run = live.run("late")
    pid = hanging(live)
    live.until("late", run, "failed")
    gone(pid)
    (live.site.home("gw-1") / "hanging").unlink()


def test_a_retry_and_a_clear_run_afresh(live: Live) -> None:
    run = live.run("again")
    live.until("again", run, "success")
    assert live.tasks("again", run)[0]["try_number"] == 2
    first = live.xcom("again", run, "fieldpost_run_id")
    live.clear("again", run)
    eventually(
        "it runs once more",
        lambda: (
            (
                live.tasks("again", run)[0]["try_number"] == 3
                and live.tasks("again", run)[0]["state"] == "success"
            )
            or None
        ),
        120.0,
    )
    assert live.xcom("again", run, "fieldpost_run_id") != first


def test_a_node_that_returns(live: Live) -> None:
    live.site.stop("gw-2")
    run = live.run("away")
    live.until("away", run, "deferred")
    live.site.start("gw-2")
    live.until("away", run, "success")


def test_fifty_wait_while_the_triggerer_and_the_hub_are_killed(live: Live) -> None:
    homes = [live.site.home(node) for node in live.site.names]
    for home in homes:
        (home / "slow").unlink(missing_ok=True)
    run = live.run("many")

    def some_deferred() -> Any:
        return sum(task["state"] == "deferred" for task in live.tasks("many", run)) >= 3 or None

    eventually("some are deferred", some_deferred, 180.0)
    live.kill("triggerer")
    live.site.kill_hub()
    live.site.start_hub()
    live.start("triggerer")
    tasks = live.until("many", run, "success", 500.0)
    assert len(tasks) == 50
    executed = sum((home / "slow").read_text().count("x") for home in homes)
    assert executed == 50, "each ran once"


def events_seen(live: Live) -> list[str]:
    seen: list[str] = []
    for run in live.get("/dags/events/dagRuns?limit=100")["dag_runs"]:
        if run["state"] == "success":
            seen += live.xcom("events", run["dag_run_id"], task="seen")
    return seen


def events_stored(live: Live) -> set[str]:
    """The events that Airflow has taken."""
    found = live.get("/assets/events?limit=100")["asset_events"]
    return {event["extra"]["payload"]["event_id"] for event in found}


def test_results_start_a_dag_through_restarts(live: Live) -> None:
    hook = live.site.hook
    known = [consumer["name"] for consumer in hook.status()["consumers"]]
    assert "e2e" in known, "the watcher waits for results"
    wanted = []

    def result() -> None:
        run = hook.submit("lines", node="gw-1")
        hook.run(run.run_id, wait=30.0)
        wanted.append(f"{run.run_id}/gw-1/1")

    result()
    eventually("it started the DAG", lambda: set(wanted) <= set(events_seen(live)) or None, 180.0)
    live.kill("triggerer")
    result()
    live.site.kill_hub()
    live.site.start_hub()
    live.start("triggerer")
    result()
    eventually("Airflow has them all", lambda: set(wanted) <= events_stored(live) or None, 240.0)
    # An event that comes while Airflow makes a run of the one before is shown by the next run.
    result()
    eventually("all started it", lambda: set(wanted) <= set(events_seen(live)) or None, 120.0)
    assert set(events_seen(live)) == set(wanted) == events_stored(live)


def test_nothing_of_ours_is_in_the_way(live: Live) -> None:
    for log in live.home.glob("*.log"):
        assert "ResourceWarning" not in log.read_text(errors="replace"), os.fspath(log)
