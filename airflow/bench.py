"""What Airflow and this package cost, each figure beside its floor, in one run. It asserts no time.
Arguments choose among its rows: ``operator``, ``dags``, ``triggerer``.

1. An operator that waits in its worker, beside the two bare requests that it makes.
2. A thousand deferred tasks in a real triggerer: sockets, memory, and the way from a result to the
   task that goes on.
3. DAGs of one task, beside the same with a BashOperator, on a real Airflow with LocalExecutor.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

# Before Airflow is imported.
HOME = tempfile.TemporaryDirectory(prefix="fp-home.")
os.environ.update(
    AIRFLOW_HOME=HOME.name,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR",
)
sys.path.insert(0, str(Path(__file__).parent))

from tests.live import Live  # noqa: E402
from tests.site import Site, eventually  # noqa: E402

SAMPLES = int(os.environ.get("SAMPLES", "500"))
DEFERRED = int(os.environ.get("DEFERRED", "1000"))
DAG_RUNS = int(os.environ.get("DAG_RUNS", "8"))

DAGS = f"""
from datetime import datetime
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from fieldpost_airflow.operators import FieldpostTriggerOperator

def dag(name):
    return DAG(dag_id=name, schedule=None, start_date=datetime(2026, 1, 1), max_active_tasks=2000)

with dag("bash"):
    BashOperator(task_id="it", bash_command="true")
with dag("fieldpost"):
    FieldpostTriggerOperator(task_id="it", job="ping", node="gw-1", deferrable=False)
with dag("fieldpost_deferred"):
    FieldpostTriggerOperator(task_id="it", job="ping", node="gw-1", deferrable=True)
# Nobody runs these: there is no such pool.
with dag("wide"):
    FieldpostTriggerOperator.partial(
        task_id="it", job="ping", deferrable=True, pool="nobody"
    ).expand(node=["gw-1"] * {DEFERRED})
"""


def line(what: str, *figures: str) -> None:
    print(f"  {what:<58}" + "".join(f"{figure:>13}" for figure in figures), flush=True)


def ms(seconds: Sequence[float]) -> tuple[str, str, str]:
    """p50, p99 and most."""
    ordered = sorted(value * 1000 for value in seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    p50, most = statistics.median(ordered), ordered[-1]
    return f"{p50:,.2f} ms", f"{p99:,.2f} ms", f"{most:,.2f} ms"


# -- 1. the operator ------------------------------------------------------------------------------


class Ti:
    """What an operator needs of a task instance: Airflow's own calls are not measured here."""

    dag_id, task_id, run_id, map_index, try_number, max_tries = "bench", "it", "r", -1, 1, 0

    def xcom_push(self, key: str, value: Any) -> None:
        pass


class Store:
    def get(self, key: str) -> Any:
        return None

    def set(self, key: str, value: Any) -> None:
        pass


def took(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def operator(site: Site) -> None:
    from fieldpost_airflow import calls, protocol
    from fieldpost_airflow.hooks import drive
    from fieldpost_airflow.operators import FieldpostTriggerOperator
    from fieldpost_airflow.sockets import Client

    it = FieldpostTriggerOperator(task_id="it", job="ping", node="gw-1", deferrable=False)
    context: Any = {"ti": Ti(), "task_state_store": Store(), "logical_date": None}
    with Client(site.address) as client:

        def bare() -> None:
            where = protocol.select(node="gw-1")
            run = drive(client, calls.submit(job="ping", select=where))
            drive(client, calls.run(run.run_id, 30_000))

        bare()
        it.execute(context)
        floor, ours = [], []
        # By turns, so that both have the same weather.
        for _ in range(SAMPLES):
            floor.append(took(bare))
            ours.append(took(lambda: it.execute(context)))
    beyond = statistics.median(ours) - statistics.median(floor)
    print(f"\nAn operator that waits in its worker: the job ping, {SAMPLES} times")
    line("", "p50", "p99", "most")
    line("execute() → result", *ms(ours))
    line("  floor: the two bare requests, submit and wait", *ms(floor))
    line("  beyond it", f"{beyond * 1000:,.2f} ms")


# -- 2. the triggerer -----------------------------------------------------------------------------


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def memory(pid: int) -> int:
    """Bytes that a process and its descendants hold; of shared pages, their part."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for row in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if row.startswith("Pss:"):
                    total += int(row.split()[1]) * 1024
    return total


def settled(pid: int) -> int:
    """The same, once it no longer grows."""
    seen = [0]

    def still() -> bool:
        time.sleep(3)
        seen.append(memory(pid))
        return abs(seen[-1] - seen[-2]) < 100_000

    eventually("memory settles", still, 120.0)
    return seen[-1]


def sockets(pid: int, port: int) -> int:
    """How many TCP connections to a port a process and its descendants have."""
    held = set()
    for each in tree(pid):
        for fd in Path(f"/proc/{each}/fd").glob("*"):
            with contextlib.suppress(OSError):
                held.add(os.readlink(fd))
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(row[2].rpartition(":")[2], 16) == port and f"socket:[{row[9]}]" in held for row in rows
    )


@contextlib.contextmanager
def database(live: Live) -> Iterator[Any]:
    """Airflow's own."""
    import sqlalchemy
    from sqlalchemy.orm import Session

    engine = sqlalchemy.create_engine(f"sqlite:///{live.home}/airflow.db")
    with Session(engine) as session:
        yield session
    engine.dispose()


# SQLite would give a number again.
_numbers = itertools.count(1000)


def defer(live: Live, trigger_of: Callable[[int], Any], most: int = DEFERRED) -> None:
    """Makes the tasks of ``wide`` deferred, as if each had been run, which takes half an hour."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from sqlalchemy import delete, select, update

    of_wide = TaskInstance.dag_id == "wide"
    wide = select(TaskInstance).where(of_wide)
    with database(live) as session:
        session.execute(update(TaskInstance).where(of_wide).values(trigger_id=None))
        session.execute(update(TaskInstance).where(of_wide).values(state="scheduled"))
        session.execute(delete(Trigger))
        for ti in session.scalars(wide.order_by(TaskInstance.map_index).limit(most)).all():
            row = Trigger.from_object(trigger_of(ti.map_index))
            row.id = next(_numbers)
            session.add(row)
            session.flush()
            ti.state, ti.trigger_id, ti.try_number = "deferred", row.id, 1
            ti.next_method, ti.next_kwargs = "execute_complete", {}
        session.commit()


def mapped(live: Live) -> list[int]:
    """The indices of the tasks of ``wide``."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select

    with database(live) as session:
        wide = select(TaskInstance.map_index).where(TaskInstance.dag_id == "wide")
        return sorted(session.scalars(wide))


def triggers(live: Live) -> tuple[int, int]:
    """How many there are, and how many of them a triggerer has."""
    from airflow.models.trigger import Trigger
    from sqlalchemy import func, select

    counts = select(func.count(Trigger.id), func.count(Trigger.triggerer_id))
    with database(live) as session:
        there, taken = session.execute(counts).one()
        return int(there), int(taken)


def resumed(live: Live) -> dict[int, float]:
    """When Airflow scheduled each task again."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select

    rows = select(TaskInstance.map_index, TaskInstance.scheduled_dttm).where(
        TaskInstance.dag_id == "wide", TaskInstance.state == "scheduled"
    )
    with database(live) as session:
        return {index: at.timestamp() for index, at in session.execute(rows)}


def received(site: Site, run_id: str) -> float:
    """When the hub had a run's result."""
    nodes = site.hook.run(run_id).nodes
    return float(nodes[0].result["received_ms"]) / 1000


async def events(site: Site, runs: Sequence[str]) -> list[float]:
    """From each result's arrival at the hub to its trigger's event; all wait on one socket."""
    from fieldpost_airflow.triggers import FieldpostRunTrigger

    at: dict[str, float] = {}

    async def watch(run_id: str) -> None:
        async for _ in FieldpostRunTrigger(run_id).run():
            at[run_id] = time.time()

    tasks = [asyncio.create_task(watch(run_id)) for run_id in runs]
    while waiting(site) < len(runs):
        await asyncio.sleep(0.05)
    site.start("gw-1")
    await asyncio.gather(*tasks)
    return [at[run_id] - received(site, run_id) for run_id in runs]


def waiting(site: Site) -> int:
    return int(site.ask("status")["clients"]["waiting"])


def triggerer(site: Site, live: Live) -> None:
    from airflow.providers.standard.triggers.temporal import DateTimeTrigger

    from fieldpost_airflow.triggers import FieldpostRunTrigger

    live.run("wide")
    eventually("its tasks are made", lambda: len(mapped(live)) == DEFERRED, 240.0)
    for what in ("scheduler", "triggerer"):
        live.stop(what)

    def offline() -> list[str]:
        """Runs that wait for a node which is away."""
        site.stop("gw-1")
        submit = site.hook.submit
        return [submit("ping", node="gw-1", ttl=3600).run_id for _ in range(DEFERRED)]

    def held(
        first: Any, made: Callable[[int], Any], then: Callable[[int], None] = lambda _: None
    ) -> int:
        """Bytes that the triggers take in a triggerer of their own. It has had some like ``first``
        before, which were over at once: what the first ones load is no trigger's."""
        defer(live, lambda _: first, most=10)
        live.start("triggerer")
        pid = live.processes["triggerer"].pid
        eventually("the triggerer works", lambda: triggers(live) == (0, 0), 300.0)
        empty = settled(pid)
        defer(live, made)
        eventually("it has them all", lambda: triggers(live) == (DEFERRED, DEFERRED), 300.0)
        grown = settled(pid) - empty
        then(pid)
        live.stop("triggerer")
        return grown

    now = datetime.now(timezone.utc)
    month = now + timedelta(days=30)
    own = held(DateTimeTrigger(now), lambda _: DateTimeTrigger(month))
    over = site.hook.submit("ping", node="gw-1").run_id
    site.hook.run(over, wait=30)
    runs = offline()
    seen: list[int] = []

    def go_on(pid: int) -> None:
        # Each asks anew every minute: at no moment do quite all of them wait.
        eventually("they wait at the hub", lambda: waiting(site) >= DEFERRED * 0.9, 120.0)
        seen.append(sockets(pid, site.ports[2]))
        site.start("gw-1")
        eventually("all are scheduled again", lambda: len(resumed(live)) == DEFERRED, 600.0)

    ours = held(FieldpostRunTrigger(over), lambda index: FieldpostRunTrigger(runs[index]), go_on)
    at = resumed(live)
    whole = [at[index] - received(site, run_id) for index, run_id in enumerate(runs)]
    mine = asyncio.run(events(site, offline()))

    print(f"\n{DEFERRED} deferred tasks in one triggerer")
    line("sockets to the hub", str(seen[0]))
    line("memory each, FieldpostRunTrigger", f"{ours / DEFERRED / 1024:.1f} KiB")
    line("  floor: Airflow's own DateTimeTrigger", f"{own / DEFERRED / 1024:.1f} KiB")
    print(f"  all {DEFERRED} results come at once:")
    line("", "p50", "p99", "most")
    line("at the hub → the task is scheduled to go on", *ms(whole))
    line("  of it: at the hub → the trigger's event", *ms(mine))


# -- 3. DAGs --------------------------------------------------------------------------------------


def stamp(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def dags(live: Live) -> None:
    names = ("bash", "fieldpost", "fieldpost_deferred")
    whole: dict[str, list[float]] = {name: [] for name in names}
    alone: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(DAG_RUNS + 1):
        for name in names:
            asked = time.time()
            run_id = live.run(name)
            (task,) = live.until(name, run_id, "success")
            if turn == 0:
                continue  # Airflow starts up
            whole[name].append(stamp(task["end_date"]) - asked)
            alone[name].append(stamp(task["end_date"]) - stamp(task["start_date"]))
    print(f"\nA DAG of one task, by Airflow's API, LocalExecutor and SQLite, {DAG_RUNS} times each")
    line("", "p50", "p99", "most")
    for name, what in zip(names, ("BashOperator, true", "ping", "ping, deferred"), strict=True):
        line(f"{what}: API call → the task's end", *ms(whole[name]))
        line("  of it: the task's start → its end", *ms(alone[name]))


def main() -> None:
    # So that what it has started ends with it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    rows = sys.argv[1:] or ["operator", "dags", "triggerer"]
    site = Site(Path(tempfile.mkdtemp(prefix="fp.")), nodes=1)
    try:
        os.environ["AIRFLOW_CONN_FIELDPOST_DEFAULT"] = site.connection_json
        if "operator" in rows:
            operator(site)
        if rows == ["operator"]:
            return
        live = Live(Path(tempfile.mkdtemp(prefix="fp-airflow.")), site, DAGS, 4)
        try:
            if "dags" in rows:
                dags(live)
            if "triggerer" in rows:
                triggerer(site, live)
        finally:
            live.close()
    finally:
        site.close()


if __name__ == "__main__":
    main()
