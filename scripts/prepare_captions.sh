#!/usr/bin/env bash
# A caption set in CC12M's form (folders or tar shards of img2dataset, csv, tsv) or LLaVA's JSON: the list, then
# the T5 features of the captions.
#   CAPTIONS=cc12m/ GPUS=8 bash scripts/prepare_captions.sh                            # beside the images
#   CAPTIONS=shards/ OUTPUT=data/cc12m bash scripts/prepare_captions.sh                # tar shards are unpacked
#   CAPTIONS=llava.json OUTPUT=images bash scripts/prepare_captions.sh --image-root images
# Train stage 1 with DATA=OUTPUT/captions_t5.jsonl.
set -euo pipefail
cd "$(dirname "$0")/.."
captions="${CAPTIONS:?name the set: CAPTIONS=cc12m/}"
output="${OUTPUT:-$captions}"
python dataset/prepare_captions.py --data-path "$captions" --output-dir "$output" "$@"
torchrun --nproc_per_node="${GPUS:-1}" language/extract_t5_feature.py --data-path "$output/captions.jsonl" \
    --caption-key text --t5-model-path "${T5:-pretrained_models/t5-ckpt}" --t5-model-type "${T5_TYPE:-flan-t5-xl}"
