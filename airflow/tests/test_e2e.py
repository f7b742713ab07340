"""End to end: a real scheduler, DAG processor, triggerer and API server; a real hub and agents."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldpost_airflow.protocol import event_id
from tests.live import RUN_URL, WATCHERS, Live
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


def hanging(live: Live, node: str = "gw-1", after: int = 0) -> int:
    """The process of the job that hangs, once it runs; another than ``after``."""
    file = live.site.home(node) / "hanging"

    def written() -> int | None:
        pid = int(file.read_text().strip() or 0) if file.exists() else 0
        return pid if pid != after and Path(f"/proc/{pid}").exists() else None

    return eventually("the job runs", written, 120.0)


def waiting(live: Live) -> int:
    """How many triggers await a run at the hub."""
    return int(live.site.hook.status()["clients"]["waiting"]) - WATCHERS


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


def test_a_function_gives_the_arguments(live: Live) -> None:
    run = live.run("decorated")
    live.until("decorated", run, "success")

    def buses(**of: Any) -> dict[str, int]:
        results = live.xcom("decorated", run, **of)
        return {node: row["output"]["bus"] for node, row in results.items()}

    assert buses() == {"gw-1": 5, "gw-2": 5}
    assert buses(task="worker") == {"gw-1": 3}
    assert [buses(task="each", map_index=index)["gw-2"] for index in (0, 1)] == [2, 9]
    names = {
        task["map_index"]: task["rendered_map_index"]
        for task in live.tasks("decorated", run)
        if task["task_id"] == "each"
    }
    assert names == {0: "0", 1: "7"}


def test_the_link_leads_to_the_run_while_it_goes_on_and_after_it(live: Live) -> None:
    run = live.run("hang")
    pid = hanging(live)
    live.until("hang", run, "deferred")
    linked(live, "hang", run)
    first = live.xcom("hang", run, "fieldpost_run_id")
    live.site.hook.cancel(first)
    live.until("hang", run, "failed")
    linked(live, "hang", run)
    gone(pid)
    (live.site.home("gw-1") / "hanging").unlink()
    run = live.run("quick")
    live.until("quick", run, "success")
    linked(live, "quick", run)


def linked(live: Live, dag_id: str, run: str) -> None:
    def link() -> str | None:
        return live.links(dag_id, run)["Fieldpost run"]

    # The task's process writes it after it has told its state.
    url = eventually("the link is known", link, 30.0)
    assert url == RUN_URL.replace("{run_id}", live.xcom(dag_id, run, "fieldpost_run_id"))


def test_a_kill_stops_the_program_on_the_node(live: Live) -> None:
    for dag_id, node in (("hang", "gw-1"), ("hang_worker", "gw-2")):
        run = live.run(dag_id)
        pid = hanging(live, node)
        in_progress = "deferred" if dag_id == "hang" else "running"
        live.until(dag_id, run, in_progress)
        if in_progress == "deferred":
            # Before the triggerer has taken the trigger up, Airflow calls nobody's on_kill.
            eventually("the triggerer waits for it", lambda: waiting(live) >= 1 or None, 60.0)
        live.set_state(dag_id, run, "failed")
        gone(pid)
        (live.site.home(node) / "hanging").unlink()


def test_a_clear_in_the_middle_stops_it_and_runs_afresh(live: Live) -> None:
    run = live.run("hang")
    first = hanging(live)
    live.until("hang", run, "deferred")
    eventually("the triggerer waits for it", lambda: waiting(live) >= 1 or None, 60.0)
    live.clear("hang", run)
    gone(first)
    second = hanging(live, after=first)
    live.until("hang", run, "deferred")
    eventually("the triggerer waits for it", lambda: waiting(live) >= 1 or None, 60.0)
    live.set_state("hang", run, "failed")
    gone(second)
    (live.site.home("gw-1") / "hanging").unlink()


def test_a_clear_of_a_running_task_runs_afresh_and_leaves_what_it_may_not_cancel(
    live: Live,
) -> None:
    run = live.run("keeps")
    pid = hanging(live, "gw-2")
    first = eventually("its run is known", lambda: run_of(live, "keeps", run), 60.0)
    live.clear("keeps", run)

    def afresh() -> str | None:
        known = run_of(live, "keeps", run)
        return known if known != first else None

    second = eventually("it runs afresh", afresh, 120.0)
    assert Path(f"/proc/{pid}").exists()
    # On the device the new one may wait for the old one.
    for each in (second, first):
        live.site.hook.cancel(each)
    live.until("keeps", run, "failed")
    gone(pid)
    (live.site.home("gw-2") / "hanging").unlink()


def run_of(live: Live, dag_id: str, run: str) -> str | None:
    """The run that a task has triggered, once it has."""
    time.sleep(0.3)  # it is asked for in a loop
    try:
        return str(live.xcom(dag_id, run, "fieldpost_run_id"))
    except AssertionError:
        return None


def test_sensors(live: Live) -> None:
    site = live.site
    site.stop("gw-2")
    site.kill_hub()
    site.start_hub()  # which has not heard anybody yet
    site.wait_up("gw-1")
    run = live.run("sensors")

    def states() -> dict[str, str]:
        return {task["task_id"]: str(task["state"]) for task in live.tasks("sensors", run)}

    wait = {"nodes": "deferred", "deferred": "deferred", "rescheduled": "up_for_reschedule"}
    eventually("they wait", lambda: states() == wait or None, 120.0)
    ping = site.hook.submit("ping", node="gw-1").run_id
    site.start("gw-2")
    live.until("sensors", run, "success")
    assert live.xcom("sensors", run, task="nodes") == ["gw-1", "gw-2"]
    for task in ("deferred", "rescheduled"):
        assert live.xcom("sensors", run, task=task)["run_id"] == ping


def test_a_timeout_stops_it_too(live: Live) -> None:
    for dag_id, node in (("late", "gw-1"), ("late_worker", "gw-2")):
        run = live.run(dag_id)
        pid = hanging(live, node)
        live.until(dag_id, run, "failed")
        gone(pid)
        (live.site.home(node) / "hanging").unlink()


def test_a_retry_and_a_clear_run_afresh(live: Live) -> None:
    run = live.run("again")
    live.until("again", run, "success", tries=2)
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
    site = live.site
    for node in site.names:
        site.stop(node)
    run = live.run("many")
    live.until("many", run, "deferred", 300.0)
    eventually("the triggerer waits for all", lambda: waiting(live) >= 50 or None, 120.0)
    live.kill("triggerer")
    site.kill_hub()
    for node in site.names:
        site.start(node)
    site.start_hub()
    live.start("triggerer")
    tasks = live.until("many", run, "success", 500.0)
    assert len(tasks) == 50
    executed = sum((site.home(node) / "marks").read_text().count("x") for node in site.names)
    assert executed == 50, "each ran once"


class Seen:
    """The results that Airflow has stored, and that each DAG was started by."""

    def __init__(self, live: Live, asset: str) -> None:
        self.live = live
        self.asset = asset
        self.known: dict[tuple[str, str], list[str]] = {}

    def stored(self) -> Counter[str]:
        found = self.live.get(f"/assets/events?limit=100&name_pattern={self.asset}")["asset_events"]
        return Counter(event["extra"]["payload"]["event_id"] for event in found)

    def started(self, dag_id: str) -> Counter[str]:
        for run in self.live.get(f"/dags/{dag_id}/dagRuns?limit=100")["dag_runs"]:
            key = dag_id, run["dag_run_id"]
            if run["state"] == "success" and key not in self.known:
                self.known[key] = self.live.xcom(*key, task="seen")
        return Counter(
            event for (dag, _), events in self.known.items() if dag == dag_id for event in events
        )


def test_each_result_starts_a_dag_through_restarts(live: Live) -> None:
    hook, seen = live.site.hook, Seen(live, "lines")
    known = [consumer["name"] for consumer in hook.status()["consumers"]]
    assert "e2e" in known, "the watcher waits for results"
    wanted: set[str] = set()

    def results(count: int) -> None:
        runs = [hook.submit("lines", group="field").run_id for _ in range(count)]
        for run in runs:
            done = hook.run(run, wait=30.0)
            wanted.update(f"{run}/{node.node}/1" for node in done.nodes)

    def all_started() -> bool | None:
        time.sleep(1)  # Airflow has better things to do
        stored = seen.stored()
        return (
            set(stored) == wanted
            # Each one that Airflow has stored is in one run, and in one alone.
            and all(seen.started(dag_id) == stored for dag_id in ("events", "one_by_one"))
        ) or None

    results(1)
    eventually("they started the DAGs", all_started, 120.0)
    live.kill("triggerer")
    results(1)
    live.site.kill_hub()
    live.site.start_hub()
    live.start("triggerer")
    results(1)
    eventually("so did those of the outage", all_started, 240.0)
    # Of many at once, Airflow itself would leave most until another one comes.
    results(10)
    eventually("so did a burst", all_started, 240.0)


def all_once(seen: Seen, dag_id: str, wanted: set[str]) -> bool | None:
    """All of these have started the DAG, and each result that Airflow stored is in one run."""
    time.sleep(1)  # Airflow has better things to do
    stored = seen.stored()
    return (wanted <= set(stored) and seen.started(dag_id) == stored) or None


def test_a_schedule_is_handed_over_and_what_comes_of_it_starts_a_dag(live: Live) -> None:
    hook, seen = live.site.hook, Seen(live, "beats")
    after = hook.newest()
    try:
        run = live.run("hand_over")
        live.until("hand_over", run, "success")
        handed = live.xcom("hand_over", run)
        assert handed["changed"] is True
        assert handed["nodes"] == {"gw-1": True, "gw-2": True}
        (held,) = hook.schedule_get(group="field")
        assert [entry["job"] for entry in held["entries"]] == ["beat"]
        run = live.run("hand_over")
        live.until("hand_over", run, "success")
        again = live.xcom("hand_over", run)
        assert again == {**handed, "changed": False}, "the same again changes nothing"

        def both() -> bool | None:
            rows = hook.results(after, jobs=["beat"], wait=5.0).results
            return {row["node"] for row in rows} == {"gw-1", "gw-2"} or None

        eventually("the nodes run it by themselves", both, 60.0)
    finally:
        live.site.ask("schedule.clear", select={"groups": ["field"]})
    rows = hook.results(after, jobs=["beat"], limit=100).results
    wanted = {event_id(row) for row in rows}
    eventually("its results started the DAG", lambda: all_once(seen, "messages", wanted), 120.0)


def test_a_message_queue_trigger_starts_a_dag_through_a_restart(live: Live) -> None:
    hook, seen = live.site.hook, Seen(live, "beats")
    assert "e2e-queue" in [consumer["name"] for consumer in hook.status()["consumers"]]

    def beat() -> set[str]:
        run = hook.run(hook.submit("beat", group="field").run_id, wait=30.0)
        return {f"{run.run_id}/{node.node}/1" for node in run.nodes}

    wanted = beat()
    eventually("they started the DAG", lambda: all_once(seen, "messages", wanted), 120.0)
    live.kill("triggerer")
    wanted |= beat()
    live.start("triggerer")
    eventually("so did those of the outage", lambda: all_once(seen, "messages", wanted), 240.0)


def test_nothing_of_ours_is_in_the_way(live: Live) -> None:
    for log in live.home.glob("*.log"):
        assert "ResourceWarning" not in log.read_text(errors="replace"), os.fspath(log)
