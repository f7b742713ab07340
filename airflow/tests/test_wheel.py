"""The wheel that is built from this tree."""

from __future__ import annotations

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


def test_airflow_finds_it_in_an_environment_without_this_tree(wheel: Path, tmp_path: Path) -> None:
    """Airflow itself is borrowed from this environment: the rest is empty."""
    import airflow

    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    (site,) = (home / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    borrowed = Path(airflow.__file__).parents[1]
    code = (
        "from airflow.providers_manager import ProvidersManager as P\n"
        "import fieldpost_airflow\n"
        "print(fieldpost_airflow.__file__)\n"
        "print(P().providers['airflow-provider-fieldpost'].version)\n"
    )
    done = subprocess.run(
        [python, "-c", f"import sys; sys.path.append({str(borrowed)!r})\n{code}"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    file, version = done.stdout.split()[-2:]
    assert Path(file).is_relative_to(site)
    assert version == "0.1.0"
