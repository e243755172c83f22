#!/usr/bin/env bash
# The Emu Edit test set: images and the list of items to score, from the hub's parquet files.
#   EMU_PARQUET=emu_edit_test_set/data bash scripts/prepare_emu_edit.sh [--valid-list assets/emu_test_data.json]
# Without --valid-list the items whose two captions are there and differ.
set -euo pipefail
cd "$(dirname "$0")/.."
python dataset/prepare_emu_edit.py --data-path "${EMU_PARQUET:-data/emu_edit_test_set/data}" \
    --output-dir "${EMU:-data/emu_edit}" "$@"
