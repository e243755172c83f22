#!/usr/bin/env bash
# The project's results on the shapes set: trains and scores every row for each seed, writes tables and figures.
# Flags go to scripts/reproduce_results.py, e.g. --seeds 0 1 2, --rows nep ntp, --quick. Can be stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec "${VENV:-.venv}/bin/python" scripts/reproduce_results.py "$@"
