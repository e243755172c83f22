#!/usr/bin/env bash
# The shipped editor of shapes trained by rewards, over seeds, beside best-of-4 of the start and beside as many
# further supervised steps. An hour of two cores a seed and more; can be stopped at any time and started again.
#   bash scripts/rewards_study.sh DATA RESULTS [SEEDS]     DATA as dataset/prepare_shapes.py --setting hard makes it
# STEPS, LR and NUM_RANKS are read from the environment.
set -euo pipefail
data=$(realpath "$1"); mkdir -p "$2"; results=$(realpath "$2"); seeds=${3:-"0 1 2"}
cd "$(dirname "$0")/.."
bash scripts/setup.sh
python=${VENV:-.venv}/bin/python; steps=${STEPS:-400}; lr=${LR:-1.5e-4}
run="$python"; [ "${NUM_RANKS:-1}" = 1 ] || run="$python -m torch.distributed.run --standalone --nproc_per_node=$NUM_RANKS"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shipped=pretrained_models/shapes; start=$shipped/editing.safetensors
models=(--vq-ckpt $shipped/tokenizer.safetensors --t5-path $shipped/text_encoder)
score() { # checkpoint, output, further flags
  $python scripts/rewards/score_edits.py "${models[@]}" --gpt-ckpt "$1" --output "$2" --cfg-scale 1 --temperature 0.1 \
    --mask-rule exact --magicbrush-path "$data/test" --batch-size 64 "${@:3}"
}
for seed in $seeds; do
  score $start "$results/start_$seed.json" --seed "$seed" --regions given found all
  score $start "$results/best_of_4_$seed.json" --seed "$seed" --best-of 4 --batch-size 16
  $run autoregressive/train/train_rewards.py "${models[@]}" --task editing --data-path "$data/train/editing.jsonl" \
    --init-gpt-ckpt $start --text-field instruction --mask-rule exact --rewards shapes_edit --regions given given found \
    --orders raster random random --lr "$lr" --warmup-steps 5 --max-steps "$steps" --preview-every 25 --ckpt-every 25 \
    --max-checkpoints 2 --global-seed "$seed" --results-dir "$results/rewards_$seed" --auto-resume
  score "$(ls "$results/rewards_$seed/checkpoints/"*.pt | tail -1)" "$results/rewards_$seed.json" --seed "$seed" \
    --regions given found all
  $run autoregressive/train/train_editing.py "${models[@]}" --gpt-model R-GPT-mini --own-cell --image-size 72 --mask_in_context \
    --data-path "$data/train/editing.jsonl" --text-field instruction --mask-rule exact --center-crop \
    --init-gpt-ckpt $start --edit-orders raster random random --global-batch-size 64 --lr "$lr" --warmup-steps 5 \
    --dropout-p 0 --token-dropout-p 0 --class-dropout-p 0 --max-steps "$steps" --epochs 100 --ckpt-every 100 \
    --max-checkpoints 2 --num-workers 1 --global-seed "$seed" --results-dir "$results/supervised_$seed" --auto-resume
  score "$(ls "$results/supervised_$seed/checkpoints/"*.pt | tail -1)" "$results/supervised_$seed.json" --seed "$seed" \
    --regions given found all
done
