#!/usr/bin/env bash
# Text to image on COCO-30K: the list of captions, 30,000 images, FID against val2014 and the CLIP score.
# MODEL names the size where the file does not; without it, that is GPT-XL.
#   COCO=data/coco CKPT=t2i.pt MODEL=GPT-XL GPUS=8 bash scripts/evaluate_coco.sh [more flags of the sampler]
set -euo pipefail
cd "$(dirname "$0")/.."
coco="${COCO:-data/coco}" samples="${RESULTS:-results/coco}"
python dataset/prepare_coco.py --annotations "$coco/annotations/captions_val2014.json" \
    --output "$samples/coco_captions.tsv"
folder="$(torchrun --nproc_per_node="${GPUS:-1}" autoregressive/sample/sample_t2i_ddp.py \
    --prompt-csv "$samples/coco_captions.tsv" --sample-dir "$samples" \
    --vq-ckpt "${VQ:-pretrained_models/vq_ds16_t2i.pt}" ${MODEL:+--gpt-model "$MODEL"} \
    --gpt-ckpt "${CKPT:?name the text-to-image model: CKPT=t2i.pt}" --t5-path "${T5:-pretrained_models/t5-ckpt}" \
    --image-size "${SIZE:-256}" --num-fid-samples 30000 "$@" | tail -n 1)"
torchrun --nproc_per_node="${GPUS:-1}" evaluations/t2i/evaluation.py --fake_dir "$folder" \
    --ref_dir "$coco" --ref_data coco2014 --ref_type val2014 --eval_res 256 --batch_size 256
