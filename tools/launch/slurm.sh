#!/usr/bin/env bash
# Train on GPU nodes under Slurm, one process per GPU:
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 tools/launch/slurm.sh \
#       --config experiments/base.py --workdir /shared/runs/legion --config.init_from=/shared/weights
#
# Two minutes before the time limit, and when the job is preempted, every process is told to stop;
# the run saves its state and the job goes back into the queue. PYTHON is .venv/bin/python of the
# folder sbatch was called in, unless set.
#SBATCH --job-name=legion
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=legion-%j.log
set -uo pipefail

TOLD_TO_STOP=143  # exit code of a run that SIGTERM has stopped and that has saved its state

fail() { echo "error: $*" >&2; exit 1; }
[ $# -ge 1 ] || fail "usage: sbatch slurm.sh ARGUMENTS OF legion_jax.train"
[ -n "${SLURM_JOB_ID:-}" ] || fail "no Slurm job; start this by sbatch"
PYTHON=${PYTHON:-.venv/bin/python}
command -v "$PYTHON" > /dev/null || fail "PYTHON: $PYTHON is no program in $PWD"
command -v srun > /dev/null || fail "srun: not found on this node"

srun --kill-on-bad-exit=0 "$PYTHON" -m legion_jax.train --distributed=auto "$@"
code=$?
[ "$code" -eq "$TOLD_TO_STOP" ] || exit "$code"
scontrol requeue "$SLURM_JOB_ID" && exit
echo "error: job $SLURM_JOB_ID could not be put back into the queue; its state is saved, and the" \
  "same sbatch command goes on" >&2
exit "$TOLD_TO_STOP"
