#!/usr/bin/env bash
# Tests of the Airflow provider: formatting, lint, types, unit tests, DAGs against a real hub and
# real agents, the wheel, and an end-to-end suite on a real Airflow. 14 minutes on two busy cores,
# and some more the first time, when Airflow is installed. Arguments go to pytest.
#
#   FIELDPOST_BIN=DIR   takes fieldpost and fieldpost-agent from there (else: target/debug, built)
#   VENV=DIR            the virtual environment (else: target/airflow-venv)
#   E2E=0               without a real scheduler, API server and triggerer
#   E2E_DATABASE=URL    those over this empty database (else: SQLite, made for it); its driver is
#                       not among the constraints
set -euo pipefail
cd "$(dirname "$0")"
started=$SECONDS
venv=$(./venv.sh ${VENV:+"$VENV"})
# This tree's own code, whichever tree the environment was made for.
export PYTHONPATH=$PWD/src
export PATH=$venv/bin:$PATH
if [[ -z ${FIELDPOST_BIN:-} ]]; then
    # With --workspace: another set of packages would build libsodium and libzmq again.
    cargo build --quiet --workspace
    target=${CARGO_TARGET_DIR:-$PWD/../target}
    export FIELDPOST_BIN=$target/debug
fi
ruff format --quiet --check .
ruff check --quiet .
mypy
if [[ ${E2E:-1} == 0 ]]; then set -- -m 'not e2e' "$@"; fi
pytest -q "$@"
echo "airflow/test.sh: all well after $((SECONDS - started)) s"
