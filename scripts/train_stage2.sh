#!/usr/bin/env bash
# Stage 2: editing at 256 px from the stage-1 model, as published (4 GPUs of one machine).
#   DATA=ultraedit.jsonl INIT=RLlamaGen.pt bash scripts/train_stage2.sh [more flags of train_editing.py]
set -euo pipefail
cd "$(dirname "$0")/.."
torchrun --nproc_per_node="${GPUS:-4}" autoregressive/train/train_editing.py \
    --vq-ckpt "${VQ:-pretrained_models/vq_ds16_t2i.pt}" \
    --data-path "${DATA:?name the list: DATA=ultraedit.jsonl}" --dataset editing_ultraedit \
    --init-gpt-ckpt "${INIT:?name the stage-1 checkpoint: INIT=RLlamaGen.pt}" \
    --results-dir "${RESULTS:-results/stage2}" --image-size 256 --gpt-model R-GPT-XL --mask_in_context \
    --global-batch-size 16 --epochs 10 --lr 1e-4 --validate_every -1 --ckpt-every 10000 \
    --max_checkpoints 3 "$@"  # the published default
