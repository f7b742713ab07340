#!/usr/bin/env bash
# Makes a virtual environment with Airflow in the versions of constraints.txt and this package in
# it (editable), and says where it is. It is made once, and again when those versions change.
#
#   airflow/venv.sh [DIR]     (default: target/airflow-venv)
#   PYTHON=python3.12         what it is made with
set -euo pipefail
cd "$(dirname "$0")"
venv=${1:-$PWD/../target/airflow-venv}
mkdir -p "$venv"
venv=$(cd "$venv" && pwd)
stamp() { cat "$@" | sha256sum; }
made() { [[ $(cat "$venv/$1" 2>/dev/null) == "$(stamp "${@:2}")" ]]; }
pip() { "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
if ! made airflow constraints.txt venv.sh; then
    echo "airflow/venv.sh: installing Airflow into $venv (once; 1 to 3 minutes)" >&2
    "${PYTHON:-python3}" -m venv --clear "$venv"
    pip --constraint constraints.txt 'apache-airflow>=3.3,<4' apache-airflow-providers-common-messaging \
        pyzmq hatchling editables pytest pytest-asyncio mypy ruff build
    stamp constraints.txt venv.sh >"$venv/airflow"
fi
if ! made package pyproject.toml; then
    pip --no-deps --no-build-isolation --editable .
    stamp pyproject.toml >"$venv/package"
fi
echo "$venv"
