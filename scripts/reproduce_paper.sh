#!/usr/bin/env bash
# One table of the paper, 1 to 7: downloads, prepares, samples, evaluates; prints our figures beside the paper's.
# Flags go to scripts/paper/reproduce_paper.py, e.g. --dry-run, --gpt-ckpt NEP.pt, --num-ranks 8. Run again to go on.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec "${VENV:-.venv}/bin/python" scripts/paper/reproduce_paper.py "$@"
