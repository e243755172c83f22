#!/usr/bin/env bash
# Edits the MagicBrush test set, single-turn and multi-turn, and scores it. Several seeds give intervals.
#   CKPT=NEP.pt SEEDS="0 1 2" GPUS=4 bash scripts/evaluate_magicbrush.sh [more flags of the sampler]
# Ends with results/magicbrush/scores: evaluation_metrics.json, a table, a page of the worst and best edits.
set -euo pipefail
cd "$(dirname "$0")/.."
set_path="${MAGICBRUSH:-data/MagicBrush_test/test}" results="${RESULTS:-results/magicbrush}"
generated=() regions=() samples=()
for seed in ${SEEDS:-0}; do
    torchrun --nproc_per_node="${GPUS:-1}" autoregressive/sample/sample_magicbrush.py \
        --vq-ckpt "${VQ:-pretrained_models/vq_ds16_t2i.pt}" --gpt-ckpt "${CKPT:?name the editor: CKPT=NEP.pt}" \
        --t5-path "${T5:-pretrained_models/t5-ckpt}" --magicbrush-path "$set_path" --write-ceiling \
        --seed "$seed" --output-dir "$results/seed$seed" "$@"
    generated+=("$results/seed$seed/images") regions+=("$results/seed$seed/regions")
    samples+=("$results/seed$seed/samples.json")
done
torchrun --nproc_per_node="${GPUS:-1}" evaluations/editing/image_eval.py \
    --generated_path "${generated[@]}" --regions-path "${regions[@]}" --samples-json "${samples[@]}" \
    --gt_path "$set_path/images" --caption_path "$set_path/local_descriptions.json" \
    --sessions-json "$set_path/edit_sessions.json" --ceiling-path "${generated[0]%/images}/ceiling" \
    --metric "${METRICS:-l1,l2,clip-i,dino,clip-t}" --save_path "$results/scores"
