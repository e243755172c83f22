#!/usr/bin/env bash
# Codes of images on disk, so that stage 1 need not run the tokenizer; then train with --dataset t2i_code.
#   LISTS=lists/ CODES=codes/ GPUS=8 bash scripts/extract_codes.sh
set -euo pipefail
cd "$(dirname "$0")/.."
torchrun --nproc_per_node="${GPUS:-1}" autoregressive/train/extract_codes_t2i.py \
    --data-path "${LISTS:?name the folder of jsonl files: LISTS=lists/}" \
    --code-path "${CODES:?name a folder for the codes: CODES=codes/}" \
    --vq-ckpt "${VQ:-pretrained_models/vq_ds16_t2i.pt}" --image-size "${SIZE:-256}" "$@"
