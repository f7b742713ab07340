"""How Airflow sees the package."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import zmq
from airflow.providers_manager import ProvidersManager
from airflow.sdk import Connection
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

from fieldpost_airflow import assets, connection, requeue, triggers
from fieldpost_airflow.links import FieldpostRunLink
from fieldpost_airflow.operators import FieldpostScheduleOperator, FieldpostTriggerOperator
from fieldpost_airflow.provider_info import get_provider_info
from fieldpost_airflow.queues import FieldpostMessageQueueProvider
from fieldpost_airflow.sensors import FieldpostNodeSensor, FieldpostResultSensor
from fieldpost_airflow.triggers import (
    FieldpostEventTrigger,
    FieldpostNodeTrigger,
    FieldpostResultTrigger,
    FieldpostRunTrigger,
)

PUBLIC, SECRET = (key.decode() for key in zmq.curve_keypair())
SERVER = zmq.curve_keypair()[0].decode()


def test_airflow_finds_all_of_it() -> None:
    manager = ProvidersManager()
    assert "airflow-provider-fieldpost" in manager.providers
    manager.initialize_providers_queues()
    assert "fieldpost_airflow.queues.FieldpostMessageQueueProvider" in manager.queue_class_names
    runtime = ProvidersManagerTaskRuntime()
    assert "fieldpost" in runtime.taskflow_decorators
    hook = runtime.hooks["fieldpost"]
    assert hook is not None
    assert hook.hook_class_name == "fieldpost_airflow.hooks.FieldpostHook"
    assert "fieldpost" in runtime.asset_uri_handlers
    assert "fieldpost_airflow.links.FieldpostRunLink" in manager.extra_links_class_names
    assert "fieldpost" in dict(manager.provider_configs)["airflow-provider-fieldpost"]


def test_airflow_loads_the_listener_by_itself() -> None:
    from airflow.listeners.listener import get_listener_manager

    plugins = get_listener_manager().pm.get_plugins()
    assert any(isinstance(plugin, requeue.Requeue) for plugin in plugins)


def test_the_provider_info_is_as_airflow_wants_it() -> None:
    from importlib.resources import files

    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_every_module_named_is_there() -> None:
    from importlib import import_module

    info = get_provider_info()
    for kind in ("hooks", "operators", "sensors", "triggers"):
        for entry in info[kind]:
            for module in entry["python-modules"]:
                import_module(module)
    paths = [info["task-decorators"][0]["class-name"], info["queues"][0]]
    paths += [info["asset-uris"][0]["handler"], info["asset-uris"][0]["factory"]]
    for path in paths:
        module, name = path.rsplit(".", 1)
        assert hasattr(import_module(module), name)


@pytest.mark.parametrize(
    "trigger",
    [
        FieldpostRunTrigger("r", deadline=1.5, cancel_on_kill=False, memo={"offline": ["a"]}),
        FieldpostEventTrigger(jobs="a", nodes=["n"], statuses=None, start="all"),
        FieldpostEventTrigger(jobs=["a"], consumer="mine"),
        FieldpostNodeTrigger({"groups": ["g"]}, min_online=2, deadline=1.0),
        FieldpostResultTrigger(["a"], ["n"], None, after=3, deadline=1.0),
    ],
    ids=lambda trigger: type(trigger).__name__,
)
def test_triggers_survive_serialization(trigger: Any) -> None:
    path, fields = trigger.serialize()
    module, name = path.rsplit(".", 1)
    assert module == "fieldpost_airflow.triggers"
    fields = json.loads(json.dumps(fields))
    assert getattr(triggers, name)(**fields).serialize() == (path, fields)


def test_operators_survive_serialization() -> None:
    from datetime import datetime

    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG(dag_id="d", start_date=datetime(2026, 1, 1), schedule=None) as dag:
        FieldpostTriggerOperator(task_id="a", job="j", node="n")
        FieldpostScheduleOperator(task_id="b", entries=[], node="n")
        FieldpostNodeSensor(task_id="c", group="g")
        FieldpostResultSensor(task_id="e", job="j")
    back = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert set(back.task_dict) == {"a", "b", "c", "e"}


@pytest.mark.parametrize(
    "wrong",
    [{"min_success": 2.0}, {"offline": "maybe"}, {"output": "xml"}, {"output": "path"}],
)
def test_a_wrong_operator_is_refused_when_the_dag_is_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FieldpostTriggerOperator(task_id="a", job="j", node="n", **wrong)


def test_what_is_wrong_is_said_by_its_own_name() -> None:
    with pytest.raises(ValueError, match=r"min_online 2\.0: "):
        FieldpostNodeSensor(task_id="a", group="g", min_online=2.0)
    with pytest.raises(ValueError, match=r"min_taken_up 2\.0: "):
        FieldpostScheduleOperator(task_id="a", group="g", entries=[], min_taken_up=2.0)
    with pytest.raises(ValueError, match="status 'okay'"):
        FieldpostResultSensor(task_id="a", job="j", statuses=["okay"])
    with pytest.raises(ValueError, match="status 'okay'"):
        FieldpostEventTrigger(jobs="j", statuses="okay")


# -- connections ---------------------------------------------------------------------------------


def conn(**fields: Any) -> Connection:
    given = {
        "conn_id": "hub",
        "conn_type": "fieldpost",
        "host": "hub.example",
        "login": PUBLIC,
        "password": SECRET,
        "extra": json.dumps({"server_key": SERVER}),
    }
    return Connection(**{**given, **fields})


def test_a_connection_is_an_address() -> None:
    address = connection.address(conn())
    assert address.endpoint == "tcp://hub.example:4512"
    assert address.events == "tcp://hub.example:4513"
    assert (address.server_key, address.public_key, address.timeout) == (SERVER, PUBLIC, 10.0)
    assert SECRET not in repr(address)
    assert connection.address(conn(login=None)).public_key == PUBLIC
    assert connection.address(conn(host="::1", port=9)).endpoint == "tcp://[::1]:9"


def test_a_local_socket_needs_no_keys() -> None:
    local = conn(host="/run/fieldpost/hub.sock", login=None, password=None, extra=None)
    address = connection.address(local)
    assert address.endpoint == "ipc:///run/fieldpost/hub.sock"
    assert address.events == "ipc:///run/fieldpost/events.sock"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"host": None}, "no host"),
        ({"password": None}, "has no password"),
        ({"password": "short"}, "5 characters"),
        ({"password": "#" * 40}, "is mistyped"),
        ({"extra": json.dumps({"server_key": "#" * 40})}, "server_key .* is mistyped"),
        ({"login": SERVER}, "not one pair"),
        ({"extra": None}, "server_key"),
        ({"extra": json.dumps({"server_key": SERVER, "timeout": -1})}, "timeout -1"),
        ({"host": "tcp://hub.example"}, "host 'tcp://hub.example': a name or an address"),
        ({"host": "hub.example:4512"}, "host 'hub.example:4512': a name or an address"),
        ({"host": "hub .example"}, "host 'hub .example': a name or an address"),
        ({"host": f"/{'a' * 120}"}, "has 121 bytes: a Unix socket's path has at most 107"),
        ({"port": 70_000}, "port 70000: 1 to 65535"),
        (
            {"extra": json.dumps({"server_key": SERVER, "events_port": "x"})},
            "events_port 'x': 1 to 65535",
        ),
    ],
)
def test_a_wrong_connection_says_which_field(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        connection.address(conn(**wrong))
    assert SECRET not in str(error.value)


# -- queues, assets, links -----------------------------------------------------------------------


def test_the_message_queue_of_common_messaging() -> None:
    from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger

    trigger = MessageQueueTrigger(scheme="fieldpost", jobs=["read-meter"])
    path, fields = trigger.serialize()
    assert path == "fieldpost_airflow.triggers.FieldpostEventTrigger"
    assert fields["jobs"] == ["read-meter"]
    provider = FieldpostMessageQueueProvider()
    assert provider.queue_matches("fieldpost://conn/job")
    assert not provider.queue_matches("kafka://x")
    assert provider.trigger_kwargs("fieldpost://conn/job") == {
        "jobs": ["job"],
        "fieldpost_conn_id": "conn",
    }


def test_two_different_event_triggers_never_share_a_consumer() -> None:
    made = [
        FieldpostEventTrigger(jobs="a"),
        FieldpostEventTrigger(jobs="b"),
        FieldpostEventTrigger(jobs="a", statuses=None),
        FieldpostEventTrigger(jobs="a", fieldpost_conn_id="other"),
    ]
    assert len({trigger.consumer for trigger in made}) == len(made)
    assert FieldpostEventTrigger(jobs=["a"]).consumer == made[0].consumer


def test_asset_uris() -> None:
    assert assets.create_asset(hub="hub", job="read-meter").uri == "fieldpost://hub/read-meter"
    for wrong in (
        "fieldpost:///job",
        "fieldpost://hub",
        "fieldpost://hub/a/b",
        "fieldpost://h/j?x",
    ):
        with pytest.raises(ValueError, match="asset URI"):
            assets.sanitize_uri(urlsplit(wrong))


def test_the_extra_link(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = FieldpostTriggerOperator(task_id="a", job="j", node="n")
    link = FieldpostRunLink()
    operator.fieldpost_run_id = "r"
    assert link.get_link(operator, ti_key=None) == ""  # type: ignore[arg-type]
    monkeypatch.setenv("AIRFLOW__FIELDPOST__RUN_URL", "https://f.example/{run_id}")
    assert link.get_link(operator, ti_key=None) == "https://f.example/r"  # type: ignore[arg-type]
