#!/usr/bin/env bash
# Measures what Airflow and this package cost, each figure beside its floor: see bench.py.
#
#   FIELDPOST_BIN=DIR   takes fieldpost and fieldpost-agent from there (else: target/release)
set -euo pipefail
cd "$(dirname "$0")"
venv=$(./venv.sh ${VENV:+"$VENV"})
# This tree's own code, whichever tree the environment was made for.
export PYTHONPATH=$PWD/src
export FIELDPOST_BIN=${FIELDPOST_BIN:-$PWD/../target/release}
PATH=$venv/bin:$PATH exec python -W ignore bench.py "$@"
