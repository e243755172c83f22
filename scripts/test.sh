#!/usr/bin/env bash
# Sets up and runs the linter and the tests. Flags go to pytest, e.g. -k layout.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
bin="${VENV:-.venv}/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
# One thread a worker: tiny models gain nothing from more, and workers would fight over the cores.
OMP_NUM_THREADS=1 "$bin/python" -m pytest -q -n "${TEST_WORKERS:-2}" "$@"
