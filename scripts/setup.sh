#!/usr/bin/env bash
# Makes a virtual environment with everything the project needs. Done already: does nothing.
# VENV: where (default .venv). PYTHON: which interpreter (default python3, 3.10 or newer).
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${VENV:-.venv}"
python="${PYTHON:-python3}"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "error: $("$python" --version 2>&1) is too old: set PYTHON to a Python 3.10 or newer" >&2
  exit 2
}
wanted="$(cat requirements.txt pyproject.toml | cksum)"
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$wanted" ]; then
  echo "setting up $venv (a few minutes: PyTorch is large)"
  "$python" -m venv "$venv" || {
    echo "error: no virtual environment could be made; on Debian: apt-get install python3-venv" >&2
    exit 2
  }
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
  echo "$wanted" > "$venv/.installed"
fi
