#!/usr/bin/env bash
# Emoji from the npm package to a page of edits: fetches, prepares, trains three models, edits, evaluates, reports.
# PACKAGE: the .tgz or its folder; without it `npm pack` brings it into DATA (data/emoji_package).
# Flags go to scripts/emoji/train_emoji.py, e.g. --steps-scale 0.1, --until data. Run again to go on.
set -euo pipefail
cd "$(dirname "$0")/.."
name=emoji-datasource-google version=16.0.0
package="${PACKAGE:-${DATA:-data/emoji_package}/$name-$version.tgz}"
if [ ! -e "$package" ]; then
  if [ -n "${PACKAGE:-}" ]; then echo "PACKAGE=$PACKAGE does not exist" >&2; exit 2; fi
  command -v npm >/dev/null || { echo "npm is missing: install it, or give PACKAGE=FILE.tgz" >&2; exit 2; }
  mkdir -p "$(dirname "$package")"
  (cd "$(dirname "$package")" && npm pack --silent "$name@$version")
fi
bash scripts/setup.sh
exec "${VENV:-.venv}/bin/python" scripts/emoji/train_emoji.py --package "$package" "$@"
