#!/usr/bin/env bash
# The MagicBrush test set: checks it, writes the instructions' T5 features and the session file that names them.
#   MAGICBRUSH=data/MagicBrush_test/test bash scripts/prepare_magicbrush.sh [--write-white-masks ...]
set -euo pipefail
cd "$(dirname "$0")/.."
torchrun --nproc_per_node="${GPUS:-1}" dataset/prepare_magicbrush.py \
    --magicbrush-path "${MAGICBRUSH:-data/MagicBrush_test/test}" \
    --t5-path "${T5:-pretrained_models/t5-ckpt}" --t5-model-type "${T5_TYPE:-flan-t5-xl}" "$@"
