"""A real Airflow: scheduler, DAG processor, triggerer and API server, each a process to kill."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.site import Site, eventually, next_port

DAGS = """
from datetime import datetime, timedelta
from airflow.sdk import DAG, Asset, AssetWatcher, task
from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from fieldpost_airflow.operators import FieldpostScheduleOperator, FieldpostTriggerOperator
from fieldpost_airflow.sensors import FieldpostNodeSensor, FieldpostResultSensor
from fieldpost_airflow.triggers import FieldpostEventTrigger

# Airflow may fail a task that goes on after it was deferred: see `Live.until`.
again_once = dict(retries=1, retry_delay=timedelta(seconds=0))

def one(dag_id, **kwargs):
    with DAG(dag_id=dag_id, schedule=None, start_date=datetime(2026, 1, 1)) as dag:
        FieldpostTriggerOperator(task_id="it", **kwargs)
    return dag

quick = one("quick", job="read-meter", group="field", deferrable=True, **again_once)
worker = one("worker", job="read-meter", node="gw-1", deferrable=False)
partly = one("partly", job="fail-on-gw-2", group="field", min_success=1, deferrable=True,
             **again_once)
fails = one("fails", job="fail", node="gw-1", deferrable=True)
hang = one("hang", job="hang", node="gw-1", deferrable=True)
keeps = one("keeps", job="hang", node="gw-2", deferrable=False, cancel_on_kill=False)
hang_worker = one("hang_worker", job="hang", node="gw-2", deferrable=False)
away = one("away", job="read-meter", node="gw-2", ttl=120, deferrable=True, **again_once)
again = one("again", job="fail-once", node="gw-1", deferrable=True, **again_once)
late = one("late", job="hang", node="gw-1", deferrable=True,
           execution_timeout=timedelta(seconds=2))
late_worker = one("late_worker", job="hang", node="gw-2", deferrable=False,
                  execution_timeout=timedelta(seconds=5))

with DAG(dag_id="sensors", schedule=None, start_date=datetime(2026, 1, 1),
         default_args=again_once) as sensors:
    FieldpostNodeSensor(task_id="nodes", group="field", deferrable=True, timeout=600)
    FieldpostResultSensor(task_id="deferred", job="ping", deferrable=True, timeout=600)
    FieldpostResultSensor(task_id="rescheduled", job="ping", mode="reschedule",
                          poke_interval=1, timeout=600)

with DAG(dag_id="many", schedule=None, start_date=datetime(2026, 1, 1),
         max_active_tasks=64, default_args=again_once) as many:
    FieldpostTriggerOperator.partial(task_id="it", job="mark", deferrable=True, ttl=600).expand(
        node=["gw-1", "gw-2"] * 25
    )

with DAG(dag_id="decorated", schedule=None, start_date=datetime(2026, 1, 1),
         params={"more": 2}, default_args=again_once) as decorated:
    @task
    def number():
        return 3
    @task.fieldpost(job="read-meter", group="field", deferrable=True)
    def it(number, more):
        return {"bus": number + int(more)}
    more = "{{ params.more }}"
    it(number(), more)
    it.override(task_id="worker", node="gw-1", group=None, deferrable=False)(1, more)
    it.override(task_id="each", map_index_template="{{ task.op_kwargs['number'] }}").partial(
        more=more
    ).expand(number=[0, 7])

with DAG(dag_id="hand_over", schedule=None, start_date=datetime(2026, 1, 1)) as hand_over:
    FieldpostScheduleOperator(task_id="it", group="field", min_taken_up=1.0, wait=30,
                              entries=[{"id": "beat", "job": "beat", "every_ms": 5_000}])

lines = Asset(uri="fieldpost://hub/lines", name="lines", watchers=[
    AssetWatcher(name="hub", trigger=FieldpostEventTrigger(jobs=["lines"], consumer="e2e"))])
@task
def seen(triggering_asset_events=None):
    return [event.extra["payload"]["event_id"]
            for found in triggering_asset_events.values() for event in found]

with DAG(dag_id="events", schedule=[lines], start_date=datetime(2026, 1, 1)) as events:
    seen()
# Airflow makes a run only when the one before is over: most results come while it can't.
with DAG(dag_id="one_by_one", schedule=[lines], start_date=datetime(2026, 1, 1),
         max_active_runs=1) as one_by_one:
    seen()

beats = Asset(uri="fieldpost://hub/beat", name="beats", watchers=[
    AssetWatcher(name="queue", trigger=MessageQueueTrigger(
        scheme="fieldpost", jobs=["beat"], statuses=["ok"], consumer="e2e-queue"))])
with DAG(dag_id="messages", schedule=[beats], start_date=datetime(2026, 1, 1)) as messages:
    seen()
"""
WATCHERS = 2
"""Each asset's waits for results at the hub."""
RUN_URL = "https://fieldpost.example/runs/{run_id}"


class Live:
    """Airflow over a site."""

    def __init__(self, home: Path, site: Site, dags: str = DAGS, count: int = 18) -> None:
        """``dags`` holds ``count`` DAGs."""
        self.home = home
        self.site = site
        self.count = count
        self.port = next_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (home / "dags").mkdir()
        (home / "dags" / "all.py").write_text(dags)
        url = f"http://127.0.0.1:{self.port}"
        self.env = {
            **{key: value for key, value in os.environ.items() if "AIRFLOW" not in key},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW_CONN_FIELDPOST_DEFAULT": site.connection_json,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": f"{home}/dags",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            # The first task of a busy machine loads all of Airflow in this time.
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": os.environ.get(
                "E2E_DATABASE", f"sqlite:///{home}/airflow.db"
            ),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__SECRET_KEY": "e2e",
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "e2e" * 30,
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__FIELDPOST__RUN_URL": RUN_URL,
            "PYTHONUNBUFFERED": "1",
        }
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        airflow = [sys.executable, "-m", "airflow"]
        done = subprocess.run(
            [*airflow, "db", "migrate"], env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        self.start("api-server", "--port", str(self.port), "--host", "127.0.0.1")
        self.start("dag-processor")
        self.start("scheduler")
        self.start("triggerer")
        eventually("the API server answers", self._token, 300.0)
        eventually("the DAGs are read", lambda: len(self.get("/dags")["dags"]) == self.count, 300.0)

    def start(self, what: str, *args: str) -> None:
        with (self.home / f"{what}.log").open("ab") as log:
            self.processes[what] = subprocess.Popen(
                [sys.executable, "-m", "airflow", what, *args],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, what: str) -> None:
        process = self.processes.pop(what)
        # The whole session: the processes that it forked too.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)

    def stop(self, what: str) -> None:
        process = self.processes.pop(what)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)

    def close(self) -> None:
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGTERM)
        ends = time.monotonic() + 15
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, ends - time.monotonic()))
            # What it forked may outlive it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        if os.environ.get("KEEP") is None:
            shutil.rmtree(self.home, ignore_errors=True)

    # -- its API ---------------------------------------------------------------------------------

    def _token(self) -> str | None:
        try:
            request = f"http://127.0.0.1:{self.port}/auth/token"
            with urllib.request.urlopen(request, timeout=30) as answer:
                token = str(json.load(answer)["access_token"])
        except (urllib.error.URLError, OSError):
            return None
        self.token = token
        return token

    def _ask(self, method: str, path: str, body: Any = None, tries: int = 20) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/v2{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode()
            # SQLite has one writer at a time, and Airflow does not wait long for its turn.
            # And it can't show an event while a run that it started is queued.
            queued = error.code == 500 and path.startswith("/assets/events")
            if ("Database error" in said or queued) and tries > 1:
                time.sleep(0.5)
                return self._ask(method, path, body, tries - 1)
            log = (self.home / "api-server.log").read_text(errors="replace")
            raise AssertionError(f"{method} {path}: {said}\n{log[-3000:]}") from None
        except TimeoutError:
            # A busy machine: what changes nothing is asked again. A minute counts for six tries.
            if method != "GET" or tries <= 6:
                raise
            return self._ask(method, path, body, tries - 6)

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def run(self, dag_id: str) -> str:
        """Triggers a DAG."""
        made = self._ask("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None})
        return str(made["dag_run_id"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=100"
        time.sleep(0.3)  # it is asked for in a loop, and Airflow has better things to do
        found: list[dict[str, Any]] = self.get(path)["task_instances"]
        return found

    def until(
        self, dag_id: str, run_id: str, state: str, patience: float = 120.0, tries: int = 1
    ) -> Any:
        """Waits until all tasks of a run are in a state.

        On a busy machine Airflow's scheduler may hear so late that a task's first process is over
        (it was deferred) that it takes the second one for dead and fails the task. Such a task may
        have one try more; no other may.
        """

        def all_there() -> Any:
            tasks = self.tasks(dag_id, run_id)
            states = {task["state"] for task in tasks}
            if state != "failed" and "failed" in states:
                raise AssertionError(self._why(tasks))
            return tasks if states == {state} else None

        tasks = eventually(f"{dag_id} is {state}", all_there, patience)
        if state == "success":
            more = sum(max(0, task["try_number"] - tries) for task in tasks)
            assert more <= self._taken_for_dead(run_id), f"{more} tries more: {self.home}"
        return tasks

    def _taken_for_dead(self, run_id: str) -> int:
        """How often the scheduler took a living process of a run for dead."""
        log = (self.home / "scheduler.log").read_text(errors="replace")
        said = "finished with state success, but the task instance's state attribute is"
        return sum(said in line and f" {run_id} " in line for line in log.splitlines())

    def _why(self, tasks: list[dict[str, Any]]) -> str:
        """What the first task that failed has logged."""
        failed = [task for task in tasks if task["state"] == "failed"]
        first = failed[0]
        folder = self.home / "logs" / f"dag_id={first['dag_id']}"
        logs = sorted((folder / f"run_id={first['dag_run_id']}").rglob("*.log"))
        mine = [log for log in logs if first["map_index"] < 0 or self._is_of(log, first)]
        said = "\n".join(log.read_text(errors="replace")[-6000:] for log in mine)
        scheduler = (self.home / "scheduler.log").read_text(errors="replace").splitlines()
        said += "\n".join(line for line in scheduler if "[error" in line or "Error" in line)[-3000:]
        return f"{len(failed)} of {len(tasks)} tasks failed; the first one's log:\n{said}"

    @staticmethod
    def _is_of(log: Path, task: dict[str, Any]) -> bool:
        return f"map_index={task['map_index']}" in log.parts

    def xcom(
        self,
        dag_id: str,
        run_id: str,
        key: str = "return_value",
        task: str = "it",
        map_index: int = -1,
    ) -> Any:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/{key}"
        value = self.get(f"{path}?deserialize=false&map_index={map_index}")["value"]
        return json.loads(value) if isinstance(value, str) and value[:1] in '[{"' else value

    def links(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/it/links"
        links: dict[str, str | None] = self.get(path)["extra_links"]
        return links

    def set_state(self, dag_id: str, run_id: str, state: str) -> None:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/it"
        self._ask("PATCH", path, {"new_state": state})

    def clear(self, dag_id: str, run_id: str) -> None:
        body = {
            "dry_run": False,
            "only_failed": False,
            "dag_run_id": run_id,
            "task_ids": ["it"],
            "reset_dag_runs": True,
        }
        self._ask("POST", f"/dags/{dag_id}/clearTaskInstances", body)
