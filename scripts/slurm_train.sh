#!/usr/bin/env bash
#SBATCH --job-name=nep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=48:00:00
#SBATCH --output=%x-%j.log
# Training on several machines under SLURM: one torchrun a node, which starts one process a GPU.
#   sbatch --nodes=2 scripts/slurm_train.sh autoregressive/train/train_t2i.py --auto-resume ... (flags as on one machine)
# The first node's name and a port of the job's own are where the ranks meet. After a crash all ranks start again, three
# times at most, and --auto-resume goes on from the newest whole checkpoint, file or folder.
set -euo pipefail
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # else a restart may meet the addresses of the attempt before
srun torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$head_node:$((20000 + SLURM_JOB_ID % 20000))" \
    --max-restarts=3 "$@"
