#!/usr/bin/env bash
# From nothing to a page of edits: sets up, makes data, trains three models, edits, evaluates, reports.
# Flags go to scripts/quickstart.py, e.g. --steps-scale 3 to train longer.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec "${VENV:-.venv}/bin/python" scripts/quickstart.py "$@"
