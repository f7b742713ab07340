"""What Airflow is told of this package."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "Fieldpost"


def get_provider_info() -> dict[str, Any]:
    """Found through the entry point ``apache_airflow_provider``."""

    def modules(*names: str) -> list[dict[str, Any]]:
        paths = [f"fieldpost_airflow.{name}" for name in names]
        return [{"integration-name": _INTEGRATION, "python-modules": paths}]

    return {
        "package-name": "airflow-provider-fieldpost",
        "name": "Fieldpost",
        "description": "Collection jobs on devices in the field, over ZeroMQ.",
        "integrations": [{"integration-name": _INTEGRATION, "tags": ["service"]}],
        "hooks": modules("hooks"),
        "operators": modules("operators"),
        "sensors": modules("sensors"),
        "triggers": modules("triggers"),
        "connection-types": [
            {
                "connection-type": "fieldpost",
                "hook-class-name": "fieldpost_airflow.hooks.FieldpostHook",
                "hook-name": "Fieldpost",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "extra"],
                    "relabeling": {
                        "host": "Hub",
                        "port": "Clients' port",
                        "login": "Client's public key",
                        "password": "Client's secret key",
                    },
                    "placeholders": {
                        "host": "hub.example, or /run/fieldpost/hub.sock on the hub's own host",
                        "port": "4512",
                        "login": "40 characters; `fieldpost key new` makes a pair",
                    },
                },
                "conn-fields": {
                    "server_key": {
                        "label": "Hub's public key",
                        "description": "40 characters: `fieldpost key show` on the hub's key file",
                        "schema": {"type": ["string", "null"], "minLength": 40, "maxLength": 40},
                    },
                    "events_port": {
                        "label": "Events' port",
                        "description": "Where the hub publishes live events",
                        "schema": {"type": ["integer", "null"], "default": 4513},
                    },
                    "timeout": {
                        "label": "Timeout (seconds)",
                        "description": "How long the hub may take to answer one request",
                        "schema": {"type": ["number", "null"], "default": 10},
                    },
                },
            }
        ],
        "extra-links": ["fieldpost_airflow.links.FieldpostRunLink"],
        "task-decorators": [
            {"name": "fieldpost", "class-name": "fieldpost_airflow.decorators.fieldpost_task"}
        ],
        # Airflow 3.3 reads class names here, whatever its schema says.
        "queues": ["fieldpost_airflow.queues.FieldpostMessageQueueProvider"],
        "asset-uris": [
            {
                "schemes": ["fieldpost"],
                "handler": "fieldpost_airflow.assets.sanitize_uri",
                "factory": "fieldpost_airflow.assets.create_asset",
            }
        ],
        "config": {
            "fieldpost": {
                "description": "Settings of the Fieldpost provider.",
                "options": {
                    "xcom_bytes": {
                        "description": (
                            "Most bytes of one node's output that go to XCom; a larger one goes to "
                            "object storage (output_to) or fails the task.\n"
                        ),
                        "version_added": "0.1.0",
                        "type": "integer",
                        "example": None,
                        "default": "65536",
                    },
                    "run_url": {
                        "description": (
                            "Where a run can be looked at, for the task's extra link; "
                            "{run_id} stands for its id.\n"
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "https://fieldpost.example/runs/{run_id}",
                        "default": "",
                    },
                },
            }
        },
    }
