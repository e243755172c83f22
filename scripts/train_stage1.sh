#!/usr/bin/env bash
# Stage 1: any-order text-to-image training from LlamaGen's weights, as published (8 GPUs of one machine).
#   DATA="a.jsonl b.jsonl" bash scripts/train_stage1.sh [more flags of train_t2i.py]
# Lines of the lists: {"image_path": ..., "embedding_path": ...} or, with --t5-path, "text".
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra lists <<<"${DATA:?name the lists: DATA=\"a.jsonl b.jsonl\"}"
torchrun --nproc_per_node="${GPUS:-8}" autoregressive/train/train_t2i.py \
    --vq-ckpt "${VQ:-pretrained_models/vq_ds16_t2i.pt}" --data-paths "${lists[@]}" \
    --init-gpt-ckpt "${INIT:-pretrained_models/t2i_XL_stage1_256.pt}" --results-dir "${RESULTS:-results/stage1}" \
    --ckpt-every 10000 --max_checkpoints 3 --image-size 256 --gpt-model R-GPT-XL \
    --global-batch-size 360 --epochs 2 --lr 1e-4 "$@"
