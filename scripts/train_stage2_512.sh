#!/usr/bin/env bash
# Stage 2 at 512 px from the 256 px editor, with validation on MagicBrush and Emu Edit, as published (4 GPUs).
#   DATA=ultraedit.jsonl INIT=NEP_256.pt bash scripts/train_stage2_512.sh [more flags of train_editing.py]
# The published lists hold absolute paths, which --absolute-paths takes as they are: look who wrote the list.
# The test sets are prepared by prepare_magicbrush.sh and prepare_emu_edit.sh. CLIP and DINO weights: see
# pretrained_models/README.md; without them add --metric l1,l2 --emuedit_metric l1,l2.
set -euo pipefail
cd "$(dirname "$0")/.."
magicbrush="${MAGICBRUSH:-data/MagicBrush_test/test}" emu="${EMU:-data/emu_edit}"
torchrun --nproc_per_node="${GPUS:-4}" autoregressive/train/train_editing.py \
    --vq-ckpt "${VQ:-pretrained_models/vq_ds16_t2i.pt}" \
    --data-path "${DATA:?name the list: DATA=ultraedit.jsonl}" --dataset editing_ultraedit --absolute-paths \
    --init-gpt-ckpt "${INIT:?name the 256 px editor: INIT=NEP_256.pt}" \
    --results-dir "${RESULTS:-results/stage2_512}" --ckpt-every 2000 --no_epoch_save \
    --image-size 512 --gpt-model GPT-XL-RAR --mask_in_context --global-batch-size 16 --epochs 1 --lr 1e-5 \
    --val_dataset magicbrush,emuedit_test --validate_every 2000 \
    --magicbrush_json "$magicbrush/edit_sessions_with_instruction_t5.json" --with_t5_prompt \
    --magicbrush_input_path "$magicbrush/images" --gt_path "$magicbrush/images" \
    --caption_path "$magicbrush/local_descriptions.json" \
    --emu_data_file "$emu" --valid_emuedit_test_data "$emu/emu_test_valid_list.json" \
    --emuedit_gt_path "$emu/images_valid" --emuedit_caption_path "$emu/emu_test_valid_list.json" \
    --enforce_emu_validation_fake_masking --val-global-batch-size 16 --early-stop 2001 "$@"
