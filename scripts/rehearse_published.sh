#!/usr/bin/env bash
# The three published training commands at full size, with random weights: sets up, makes weights and tiny
# data, runs a few steps of each, checks what they leave behind. 45 to 60 minutes on 2 cores, 21 GB of memory,
# 24 GB of disk. Flags go to scripts/rehearse_published.py, e.g. --gpt-model R-GPT-B for minutes, --ranks 2.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec "${VENV:-.venv}/bin/python" scripts/rehearse_published.py "$@"
