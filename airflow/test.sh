#!/usr/bin/env bash
# Tests of the Airflow provider: formatting, lint, types, unit tests, DAGs against a real hub and
# real agents, and the wheel. About 3 minutes on two cores, and 3 more the first time, when Airflow
# is installed into airflow/.venv with the versions of constraints.txt. No other argument: all;
# else they go to pytest.
#
#   FIELDPOST_BIN=DIR   takes fieldpost and fieldpost-agent from there (else: target/debug, built)
#   VENV=DIR            the virtual environment (else: airflow/.venv)
#   PYTHON=python3.12   what it is made with
#   E2E=0               without a real scheduler, API server and triggerer
set -euo pipefail
cd "$(dirname "$0")"
started=$SECONDS
venv=${VENV:-$PWD/.venv}
if [[ ! -x $venv/bin/airflow ]]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt \
        'apache-airflow>=3.3,<4' apache-airflow-providers-common-messaging pyzmq hatchling editables \
        pytest pytest-asyncio mypy ruff build
fi
export PATH=$venv/bin:$PATH
pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
if [[ -z ${FIELDPOST_BIN:-} ]]; then
    cargo build --quiet -p fieldpost-agent -p fieldpost-hub
    target=${CARGO_TARGET_DIR:-$PWD/../target}
    export FIELDPOST_BIN=$target/debug
fi
ruff format --quiet --check .
ruff check --quiet .
mypy
if (($#)); then
    pytest -q "$@"
elif [[ ${E2E:-1} == 0 ]]; then
    pytest -q -m 'not e2e'
else
    pytest -q
fi
echo "airflow/test.sh: all well after $((SECONDS - started)) s"
