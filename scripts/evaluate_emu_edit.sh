#!/usr/bin/env bash
# Edits the Emu Edit test set (prepared by prepare_emu_edit.sh) and scores it. Several seeds give intervals.
#   CKPT=NEP.pt SEEDS="0 1 2" GPUS=4 bash scripts/evaluate_emu_edit.sh [more flags of the sampler]
set -euo pipefail
cd "$(dirname "$0")/.."
emu="${EMU:-data/emu_edit}" results="${RESULTS:-results/emu_edit}"
generated=()
for seed in ${SEEDS:-0}; do
    torchrun --nproc_per_node="${GPUS:-1}" autoregressive/sample/sample_emu_edit.py \
        --vq-ckpt "${VQ:-pretrained_models/vq_ds16_t2i.pt}" --gpt-ckpt "${CKPT:?name the editor: CKPT=NEP.pt}" \
        --t5-path "${T5:-pretrained_models/t5-ckpt}" --emu-path "$emu" \
        --valid-list "$emu/emu_test_valid_list.json" --write-ceiling --seed "$seed" \
        --output-dir "$results/seed$seed" "$@"
    generated+=("$results/seed$seed/samples")
done
torchrun --nproc_per_node="${GPUS:-1}" evaluations/editing/emuedit_eval.py --generated_path "${generated[@]}" \
    --gt_path "$emu/images_valid" --caption_path "$emu/emu_test_valid_list.json" \
    --ceiling-path "${generated[0]%/samples}/ceiling" --metric "${METRICS:-l1,l2,clip-i,dino,clip-t}" \
    --save_path "$results/scores"
