#!/usr/bin/env bash
# UltraEdit: images, masks and the list from the hub's parquet files, then the T5 features of the captions.
#   ULTRAEDIT=UltraEdit/data GPUS=8 bash scripts/prepare_ultraedit.sh
# Train with DATA=data/ultraedit/ultraedit_t5.jsonl.
set -euo pipefail
cd "$(dirname "$0")/.."
output="${OUTPUT:-data/ultraedit}"
python dataset/prepare_ultraedit.py --data-path "${ULTRAEDIT:?name the parquet folder: ULTRAEDIT=UltraEdit/data}" \
    --output-dir "$output" "$@"
torchrun --nproc_per_node="${GPUS:-1}" language/extract_t5_feature.py --data-path "$output/ultraedit.jsonl" \
    --caption-key output_caption --t5-model-path "${T5:-pretrained_models/t5-ckpt}" \
    --t5-model-type "${T5_TYPE:-flan-t5-xl}"
