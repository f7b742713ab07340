"""The task's link to its run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

RUN_ID_KEY = "fieldpost_run_id"
"""The XCom that holds the run's id."""


@attrs.define()
class FieldpostRunLink(BaseOperatorLink):
    """Where the run can be looked at: ``[fieldpost] run_url``, with ``{run_id}`` in it."""

    name: str = "Fieldpost run"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        url = conf.get("fieldpost", "run_url", fallback="")
        run_id = getattr(operator, "fieldpost_run_id", None)
        return url.replace("{run_id}", str(run_id)) if url and run_id else ""
