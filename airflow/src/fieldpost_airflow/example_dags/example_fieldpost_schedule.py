"""Hands a schedule to a group; each result that comes of it starts another DAG, by asset."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, task

from fieldpost_airflow.operators import FieldpostScheduleOperator
from fieldpost_airflow.triggers import FieldpostEventTrigger

vitals = Asset(
    uri="fieldpost://hub/vitals",
    name="fieldpost_vitals",
    watchers=[AssetWatcher(name="fieldpost", trigger=FieldpostEventTrigger(jobs=["vitals"]))],
)

with DAG(
    dag_id="example_fieldpost_schedule",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    tags=["fieldpost", "example"],
) as hand_over:
    FieldpostScheduleOperator(
        task_id="hand_over",
        group="field",
        entries=[{"id": "vitals", "job": "vitals", "every_ms": 60_000, "splay_ms": 5_000}],
    )

with DAG(
    dag_id="example_fieldpost_results",
    schedule=[vitals],
    start_date=datetime(2026, 1, 1),
    catchup=False,
    tags=["fieldpost", "example"],
) as consume:

    @task
    def show(triggering_asset_events: Any = None) -> list[str]:
        """Which results started this run: each with the id it has whenever it is delivered."""
        seen: list[str] = []
        for events in (triggering_asset_events or {}).values():
            seen.extend(event.extra["payload"]["event_id"] for event in events)
        return seen

    show()
