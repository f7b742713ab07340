"""One mapped task for each device that the hub hears: each is seen, retried and cleared alone."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, task

from fieldpost_airflow.hooks import FieldpostHook
from fieldpost_airflow.operators import FieldpostTriggerOperator

with DAG(
    dag_id="example_fieldpost_fan_out",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    tags=["fieldpost", "example"],
) as dag:

    @task
    def online() -> list[str]:
        """The devices that the hub hears now."""
        return [str(node["node"]) for node in FieldpostHook().nodes("field", online=True)]

    FieldpostTriggerOperator.partial(
        task_id="read",
        job="read-meter",
        map_index_template="{{ task.node }}",
    ).expand(node=online())
