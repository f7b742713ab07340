"""Fire and forget: the task succeeds once the hub has stored the trigger."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, task

with DAG(
    dag_id="example_fieldpost_publish",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    tags=["fieldpost", "example"],
) as dag:

    @task.fieldpost(job="read-meter", group="field", wait_for_completion=False)
    def publish() -> dict[str, str]:
        """With which arguments the job runs."""
        return {"bus": "1"}

    publish()
