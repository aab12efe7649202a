#!/usr/bin/env bash
# Train on GPU nodes under Slurm, one process per GPU:
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 tools/launch/slurm.sh \
#       --config experiments/base.py --workdir /shared/runs/legion --config.init_from=/shared/weights
#
# Two minutes before the time limit, and when the job is preempted, every process is told to stop;
# the run saves its state and the job goes back into the queue.
#SBATCH --job-name=legion
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=legion-%j.log
set -uo pipefail

TOLD_TO_STOP=143  # exit code of a run that SIGTERM has stopped and that has saved its state

[ $# -ge 1 ] || { echo "error: usage: sbatch slurm.sh ARGUMENTS OF legion_jax.train" >&2; exit 1; }
[ -n "${SLURM_JOB_ID:-}" ] || { echo "error: no Slurm job; start this by sbatch" >&2; exit 1; }

srun --kill-on-bad-exit=0 "${PYTHON:-.venv/bin/python}" -m legion_jax.train --distributed=auto "$@"
code=$?
if [ "$code" -eq "$TOLD_TO_STOP" ]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
