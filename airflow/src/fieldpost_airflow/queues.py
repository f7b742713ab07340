"""``MessageQueueTrigger(scheme="fieldpost", …)`` of the common.messaging provider."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow.providers.common.messaging.providers.base_provider import BaseMessageQueueProvider
from airflow.triggers.base import BaseEventTrigger

from fieldpost_airflow.triggers import FieldpostEventTrigger


class FieldpostMessageQueueProvider(BaseMessageQueueProvider):
    """Results from the field as messages: the arguments are
    :class:`~fieldpost_airflow.triggers.FieldpostEventTrigger`'s."""

    scheme = "fieldpost"

    def queue_matches(self, queue: str) -> bool:
        return urlsplit(queue).scheme == self.scheme

    def trigger_class(self) -> type[BaseEventTrigger]:
        return FieldpostEventTrigger

    def trigger_kwargs(self, queue: str, **kwargs: Any) -> dict[str, Any]:
        """``fieldpost://<connection>/<job>``: the path may be left out."""
        parts = urlsplit(queue)
        job = parts.path.strip("/")
        found: dict[str, Any] = {"jobs": [job]} if job else {}
        if parts.netloc:
            found["fieldpost_conn_id"] = parts.netloc
        return {key: value for key, value in found.items() if key not in kwargs}
