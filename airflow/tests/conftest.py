"""What all tests share. Airflow's home is a temporary folder, made before Airflow is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_HOME = tempfile.mkdtemp(prefix="fieldpost-airflow.")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(
    AIRFLOW_HOME=_HOME,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__CORE__DAGS_FOLDER=f"{_HOME}/dags",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME}/airflow.db",
    AIRFLOW__LOGGING__LOGGING_LEVEL="INFO",
    AIRFLOW__API__SECRET_KEY="tests",
    AIRFLOW__API_AUTH__JWT_SECRET="tests-tests-tests-tests-tests-tests-tests-tests-tests-tests-0000",
)

from tests.site import Site, binaries  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Where the whole suite is asked for, a missing hub is an error and no skip.
    needed = os.environ.get("FIELDPOST_BIN") is not None
    if binaries() is None and not needed:
        skip = pytest.mark.skip(reason="no hub and agent: cargo build, or FIELDPOST_BIN")
        for item in items:
            if "hub" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A hub and three nodes that all tests share: leave them as you find them."""
    made = Site(_short(tmp_path_factory), nodes=3)
    yield made
    made.close()


@pytest.fixture
def own_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A hub and two nodes of this test's own, to kill."""
    made = Site(_short(tmp_path_factory), nodes=2)
    yield made
    made.close()


def _short(_: pytest.TempPathFactory) -> Path:
    # A Unix socket's path has at most 108 bytes, and pytest's folders are long.
    return Path(tempfile.mkdtemp(prefix="fp."))


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Airflow's database, made once."""
    import subprocess
    import sys

    (Path(_HOME) / "dags").mkdir()

    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
