"""The wheel that is built from this tree."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*build, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.glob("*.whl")
    return made


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "fieldpost_airflow/py.typed" in names
    assert "fieldpost_airflow/example_dags/example_fieldpost_quorum.py" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {
        "fieldpost_airflow",
        "airflow_provider_fieldpost",
    }


@pytest.mark.e2e
def test_it_installs_into_an_empty_environment_and_airflow_finds_it(
    wheel: Path, tmp_path: Path
) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "AIRFLOW_HOME": str(tmp_path / "home"), "PYTHONPATH": ""},
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check"]
    # To compile all of Airflow takes as long as the rest, and little of it is used here.
    install: list[str | Path] = [*pip, "install", "--quiet", "--no-compile"]
    run(*install, "--constraint", ROOT / "constraints.txt", wheel)
    run(*pip, "check")
    said = run(
        python,
        "-c",
        "from airflow.plugins_manager import get_plugin_info\n"
        "from airflow.providers_manager import ProvidersManager as P\n"
        "import fieldpost_airflow\n"
        "print(fieldpost_airflow.__file__)\n"
        "print(P().providers['airflow-provider-fieldpost'].version)\n"
        "print([plugin['name'] for plugin in get_plugin_info()])\n",
    )
    file, version, plugins = said.splitlines()[-3:]
    assert Path(file).is_relative_to(home)
    assert version == "0.1.0"
    assert "'fieldpost'" in plugins
