#!/usr/bin/env bash
# The gap between in-mask orders against samples seen and model size: trainings, scores, a table and a figure.
# Flags go to scripts/orders/order_gap.py, e.g. --dry-run (hours), --quick (two minutes), --num-ranks 2. Can be stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec "${VENV:-.venv}/bin/python" scripts/orders/order_gap.py "$@"
