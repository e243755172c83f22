#!/usr/bin/env bash
# A VQ-16 tokenizer from a folder of images, with LlamaGen's settings. LPIPS weights: pretrained_models/README.md;
# without them add --perceptual-weight 0.
#   IMAGES=images/ GPUS=8 bash scripts/train_tokenizer.sh
set -euo pipefail
cd "$(dirname "$0")/.."
torchrun --nproc_per_node="${GPUS:-1}" tokenizer/tokenizer_image/vq_train.py \
    --data-path "${IMAGES:?name the folder of images: IMAGES=images/}" --vq-model VQ-16 --image-size 256 \
    --global-batch-size 128 --lr 1e-4 --results-dir "${RESULTS:-results/tokenizer}" "$@"
