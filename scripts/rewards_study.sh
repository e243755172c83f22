#!/usr/bin/env bash
# An editor of shapes trained by rewards, over seeds, beside best-of-4 of the start and beside further supervised
# steps on the same list. Can be stopped at any time and started again.
#   bash scripts/rewards_study.sh DATA RESULTS [SEEDS]     DATA as dataset/prepare_shapes.py makes it
# From the environment:
#   START     the editor to begin with, the shipped one; SEED in its path stands for the seed
#   T5_PATH   its text encoder
#   REGIONS   which cells edits may change, in training ("given given found") and in the scores (all of these)
#   ORDERS    of the edited cells, likewise
#   STEPS, PROMPTS, LR    steps by rewards, prompts in each, learning rate
#   SUPERVISED_STEPS      steps of 32 edits; take as many as need the same time
#   NUM_RANKS             processes of a training
set -euo pipefail
data=$(realpath "$1"); mkdir -p "$2"; results=$(realpath "$2"); seeds=${3:-"0 1 2"}
shipped=pretrained_models/shapes
start=$(realpath -m "${START:-$(dirname "$0")/../$shipped/editing.safetensors}")
t5=$(realpath "${T5_PATH:-$(dirname "$0")/../$shipped/text_encoder}")
cd "$(dirname "$0")/.."
bash scripts/setup.sh
python=${VENV:-.venv}/bin/python
read -ra regions <<< "${REGIONS:-given given found}"; read -ra orders <<< "${ORDERS:-raster random random}"
scored=(--regions $(printf '%s\n' "${regions[@]}" | sort -u) --orders $(printf '%s\n' "${orders[@]}" | sort -u))
run=("$python"); [ "${NUM_RANKS:-1}" = 1 ] || run+=(-m torch.distributed.run --standalone "--nproc_per_node=$NUM_RANKS")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
models=(--vq-ckpt $shipped/tokenizer.safetensors --t5-path "$t5")
score() { # seed, checkpoint, output, further flags
  "$python" scripts/rewards/score_edits.py "${models[@]}" --gpt-ckpt "$2" --output "$3" --cfg-scale 1 --mask-rule exact \
    --magicbrush-path "$data/test" --seed "$1" "${scored[@]}" --temperature "${temperature:-0.1}" "${@:4}"
}
last() { ls "$1/checkpoints/"*.pt | tail -1; }
for seed in $seeds; do
  init=${start//SEED/$seed}
  edits=("${models[@]}" --data-path "$data/train/editing.jsonl" --text-field instruction --mask-rule exact
    --init-gpt-ckpt "$init" --warmup-steps 5 --max-checkpoints 2 --global-seed "$seed" --auto-resume)
  score "$seed" "$init" "$results/start_$seed.json" --batch-size 64
  score "$seed" "$init" "$results/best_of_4_$seed.json" --batch-size 16 --best-of 4
  temperature=1 score "$seed" "$init" "$results/best_of_4_diverse_$seed.json" --batch-size 16 --best-of 4
  "${run[@]}" autoregressive/train/train_rewards.py "${edits[@]}" --task editing --rewards shapes_edit \
    --regions "${regions[@]}" --orders "${orders[@]}" --lr "${LR:-1.5e-4}" --max-steps "${STEPS:-400}" \
    --global-batch-size "${PROMPTS:-8}" --epochs 100 --preview-every 25 --ckpt-every 25 --results-dir "$results/rewards_$seed"
  score "$seed" "$(last "$results/rewards_$seed")" "$results/rewards_$seed.json" --batch-size 64
  "${run[@]}" autoregressive/train/train_editing.py "${edits[@]}" --gpt-model R-GPT-mini --own-cell --image-size 72 \
    --mask_in_context --center-crop --edit-orders "${orders[@]}" --cache-codes --num-workers 0 --global-batch-size 32 \
    --optimizer muon --lr 1e-3 --muon-lr 0.01 --weight-decay 0 --lr-scheduler cosine --dropout-p 0 --token-dropout-p 0 \
    --max-steps "${SUPERVISED_STEPS:-1500}" --epochs 1000 --no-epoch-save --ckpt-every 100 \
    --results-dir "$results/supervised_$seed"
  score "$seed" "$(last "$results/supervised_$seed")" "$results/supervised_$seed.json" --batch-size 64
done
"$python" scripts/rewards/compare_study.py --results-dir "$results" --seeds $seeds | tee "$results/study.md"
