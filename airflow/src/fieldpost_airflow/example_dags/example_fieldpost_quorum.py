"""Collects a meter from a group every 15 minutes; nine in ten devices are enough."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, task

from fieldpost_airflow.operators import FieldpostTriggerOperator

with DAG(
    dag_id="example_fieldpost_quorum",
    schedule=timedelta(minutes=15),
    start_date=datetime(2026, 1, 1),
    catchup=False,
    tags=["fieldpost", "example"],
) as dag:
    collect = FieldpostTriggerOperator(
        task_id="collect",
        job="read-meter",
        args={"bus": "2"},
        group="field",
        ttl=timedelta(minutes=10),
        min_success=0.9,
        deferrable=True,
        retries=2,
    )

    @task
    def total(readings: dict[str, Any]) -> int:
        """How many devices answered well."""
        return sum(reading["status"] == "ok" for reading in readings.values())

    total(collect.output)  # type: ignore[arg-type]
