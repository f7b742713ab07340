"""The listener, in a database of Airflow's tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy
from airflow.models import import_all_models
from airflow.models.asset import (
    AssetDagRunQueue,
    AssetEvent,
    AssetModel,
    AssetWatcherModel,
    DagScheduleAssetReference,
)
from airflow.models.base import Base
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.trigger import Trigger
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunType
from sqlalchemy import select
from sqlalchemy.orm import Session

from fieldpost_airflow import requeue

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


class World:
    """A DAG ``d`` that two watched assets start, and a run of it that was made at noon."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.dag = DagModel(dag_id="d", bundle_name="b")
        session.add(self.dag)
        self.assets = [self._asset(name) for name in ("meter", "weather")]
        self.run = DagRun(
            dag_id="d",
            run_id="asset_triggered__1",
            run_type=DagRunType.ASSET_TRIGGERED,
            run_after=NOON,
            state=DagRunState.QUEUED,
        )
        session.add(self.run)
        session.commit()

    def _asset(self, name: str, classpath: str = "fieldpost_airflow.triggers.Any") -> AssetModel:
        asset = AssetModel(name=name, uri=f"fieldpost://hub/{name}", group="asset")
        trigger = Trigger(classpath=classpath, kwargs={})
        self.session.add_all([asset, trigger])
        self.session.flush()
        self.session.add_all(
            [
                DagScheduleAssetReference(asset_id=asset.id, dag_id="d"),
                AssetWatcherModel(name="hub", asset_id=asset.id, trigger_id=trigger.id),
            ]
        )
        return asset

    def happens(self, number: int, minutes: int) -> None:
        at = NOON + timedelta(minutes=minutes)
        self.session.add(AssetEvent(asset_id=self.assets[number].id, timestamp=at))
        self.session.commit()

    def starts(self) -> None:
        """As the scheduler says it, before it commits."""
        self.run.state = DagRunState.RUNNING
        requeue.Requeue().on_dag_run_running(dag_run=self.run, msg="")
        self.session.commit()

    def queued(self) -> dict[str, datetime]:
        rows = self.session.scalars(select(AssetDagRunQueue))
        names = {asset.id: asset.name for asset in self.assets}
        return {names[row.asset_id]: row.created_at for row in rows}


@pytest.fixture
def world() -> Iterator[World]:
    import_all_models()
    engine = sqlalchemy.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield World(session)
    engine.dispose()


def test_what_came_after_the_run_is_queued_with_its_time(world: World) -> None:
    world.happens(0, -1)
    world.starts()
    assert world.queued() == {}
    world.happens(0, 1)
    world.happens(0, 2)
    world.starts()
    assert world.queued() == {"meter": NOON + timedelta(minutes=2)}
    # Who has a place keeps it.
    world.happens(0, 3)
    world.happens(1, 3)
    world.starts()
    assert world.queued() == {
        "meter": NOON + timedelta(minutes=2),
        "weather": NOON + timedelta(minutes=3),
    }


def test_other_watchers_and_other_runs_are_left_alone(world: World) -> None:
    world.happens(0, 1)
    for trigger in world.session.scalars(select(Trigger)):
        trigger.classpath = "airflow.providers.other.Trigger"
    world.starts()
    assert world.queued() == {}
    for trigger in world.session.scalars(select(Trigger)):
        trigger.classpath = "fieldpost_airflow.triggers.FieldpostEventTrigger"
    world.run.run_type = DagRunType.MANUAL
    world.starts()
    assert world.queued() == {}
    # Nor is anything done for an event of a trigger that no asset has any more.
    world.run.run_type = DagRunType.ASSET_TRIGGERED
    for watcher in world.session.scalars(select(AssetWatcherModel)):
        world.session.delete(watcher)
    world.starts()
    assert world.queued() == {}


def test_a_dag_of_partitions_is_left_alone(world: World) -> None:
    """A place in this queue would start a run of no partition."""
    world.dag.timetable_partitioned = True
    world.happens(0, 1)
    world.starts()
    assert world.queued() == {}


def test_an_error_takes_nothing_of_the_schedulers_back(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = requeue._queued
    calls = []

    def second_fails(session: Session, row: Any) -> Any:
        calls.append(row)
        return made(session, row) if len(calls) == 1 else sqlalchemy.text("INSERT INTO nowhere")

    monkeypatch.setattr(requeue, "_queued", second_fails)
    world.happens(0, 1)
    world.happens(1, 1)
    world.starts()
    assert len(calls) == 2
    assert "Results may be left behind" in caplog.text
    world.session.expire_all()
    assert world.run.state == DagRunState.RUNNING
    assert world.queued() == {}, "all or nothing"
    # The next run looks again.
    world.starts()


def test_the_schedulers_guard_against_commits_is_not_woken(world: World) -> None:
    from airflow.utils.sqlalchemy import prohibit_commit

    world.happens(0, 1)
    world.run.state = DagRunState.RUNNING
    with prohibit_commit(world.session) as guard:
        requeue.requeue(world.run)
        guard.commit()
    assert list(world.queued()) == ["meter"]
