"""No result is left behind when Airflow makes DAG runs of many: a listener in its scheduler.

An asset's event starts a DAG run through a row in Airflow's queue, one for each asset and DAG. An
event that comes while that row is there adds none, and the run that is then made holds only what
was there when the row was: the rest would wait for the next event, which may come tomorrow. So when
such a run starts, and again when it ends, this looks whether events are left, and queues the
asset once more. Only assets that a :class:`~fieldpost_airflow.triggers.FieldpostEventTrigger`
watches are looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy import Insert
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)


class Requeue:
    """The listener."""

    @hookimpl
    def on_dag_run_running(self, dag_run: DagRun, msg: str) -> None:
        """Called by the scheduler, in the transaction that starts the run."""
        requeue(dag_run)

    @hookimpl
    def on_dag_run_success(self, dag_run: DagRun, msg: str) -> None:
        requeue(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: DagRun, msg: str) -> None:
        requeue(dag_run)


def requeue(dag_run: DagRun) -> None:
    """Queues the assets again of which events came too late for this run."""
    from airflow.utils.types import DagRunType
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.orm import object_session

    if dag_run.run_type != DagRunType.ASSET_TRIGGERED:
        return
    # The scheduler's own transaction: SQLite has one writer, and another session would wait for it.
    session = object_session(dag_run)
    if session is None:
        return
    # What the scheduler has changed is not to be taken back with what fails here.
    session.flush()
    try:
        # Not the session's: Airflow guards it against commits, and takes a savepoint's for one.
        with session.connection().begin_nested():
            for asset_id, at in left_behind(session, dag_run.dag_id):
                # Not this machine's time: events have the triggerer's, and a run takes those up to
                # it.
                row = {"asset_id": asset_id, "target_dag_id": dag_run.dag_id, "created_at": at}
                session.execute(_queued(session, row))
                log.info("More results came while %s was made: they start another", dag_run.run_id)
    except SQLAlchemyError:
        log.exception(
            "Results may be left behind until %s has another run, or another one comes",
            dag_run.dag_id,
        )


def left_behind(session: Session, dag_id: str) -> list[tuple[int, datetime]]:
    """The watched assets of a DAG with events after its newest run, and without a place in the
    queue; each with the time of its newest event. None where assets start the DAG by partitions:
    Airflow queues those elsewhere, and never for a trigger's event, which has no partition."""
    from airflow.models.asset import (
        AssetDagRunQueue,
        AssetEvent,
        AssetWatcherModel,
        DagScheduleAssetReference,
    )
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.models.trigger import Trigger
    from airflow.utils.types import DagRunType
    from sqlalchemy import exists, func, select

    # Airflow gives the next run what is newer than this.
    newest = (
        select(func.max(DagRun.run_after))
        .where(DagRun.dag_id == dag_id, DagRun.run_type == DagRunType.ASSET_TRIGGERED)
        .scalar_subquery()
    )
    asset = DagScheduleAssetReference.asset_id
    latest = (
        select(func.max(AssetEvent.timestamp))
        .where(AssetEvent.asset_id == asset)
        .correlate(DagScheduleAssetReference)
        .scalar_subquery()
    )
    return [
        (asset_id, at)
        for asset_id, at in session.execute(
            select(asset, latest).where(
                DagScheduleAssetReference.dag_id == dag_id,
                ~exists().where(DagModel.dag_id == dag_id, DagModel.timetable_partitioned),
                exists().where(
                    AssetWatcherModel.asset_id == asset,
                    AssetWatcherModel.trigger_id == Trigger.id,
                    Trigger.classpath.startswith("fieldpost_airflow."),
                ),
                exists().where(AssetEvent.asset_id == asset, AssetEvent.timestamp > newest),
                ~exists().where(
                    AssetDagRunQueue.asset_id == asset, AssetDagRunQueue.target_dag_id == dag_id
                ),
            )
        )
    ]


def _queued(session: Session, row: Mapping[str, Any]) -> Insert:
    """A place in the queue; who has one keeps it."""
    from airflow.models.asset import AssetDagRunQueue

    match session.get_bind().dialect.name:
        case "postgresql":
            from sqlalchemy.dialects import postgresql

            return postgresql.insert(AssetDagRunQueue).values(row).on_conflict_do_nothing()
        case "sqlite":
            from sqlalchemy.dialects import sqlite

            return sqlite.insert(AssetDagRunQueue).values(row).on_conflict_do_nothing()
        case _:
            from sqlalchemy.dialects import mysql

            return mysql.insert(AssetDagRunQueue).values(row).prefix_with("IGNORE")


class FieldpostPlugin(AirflowPlugin):
    """Loaded by Airflow through the entry point ``airflow.plugins``."""

    name = "fieldpost"
    listeners = [Requeue()]  # noqa: RUF012
