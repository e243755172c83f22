#!/usr/bin/env bash
# Drives the demo in a real browser; installs gradio, playwright and (on Debian, as root) chromium where missing.
# SCREENSHOTS: a folder for pictures of the page.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
python="${VENV:-.venv}/bin/python"
"$python" -c 'import gradio, playwright' 2>/dev/null ||
  "$python" -m pip install --quiet --disable-pip-version-check -e '.[demo]' playwright
if ! command -v chromium chromium-browser google-chrome > /dev/null; then
  apt-get update -q && apt-get install -y -q chromium || {
    echo "error: no browser: install chromium or google-chrome" >&2
    exit 2
  }
fi
REQUIRE_BROWSER=1 OMP_NUM_THREADS=1 exec "$python" -m pytest -q tests/scripts/test_demo_work.py tests/scripts/test_demo.py "$@"
