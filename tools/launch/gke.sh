#!/usr/bin/env bash
# Train on a GKE cluster with TPU node pools and the JobSet controller:
#
#   NAME=legion IMAGE=gcr.io/p/legion ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=4x4 HOSTS=4 \
#   CHIPS_PER_HOST=4 tools/launch/gke.sh --config experiments/base.py \
#       --workdir gs://bucket/runs/legion --config.init_from=gs://bucket/weights
#
# SLICES (1) and MAX_RESTARTS (100) may be set. DRY_RUN=1 prints what would be sent. The image has
# this repository in /legion and `pip install -e . 'jax[tpu]'` done.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }
[ $# -ge 1 ] || fail "usage: gke.sh ARGUMENTS OF legion_jax.train"
export SLICES=${SLICES:-1} MAX_RESTARTS=${MAX_RESTARTS:-100}
for name in NAME IMAGE ACCELERATOR TOPOLOGY HOSTS CHIPS_PER_HOST; do
  [ -n "${!name:-}" ] || fail "$name: not set; see the head of this file"
  export "${name?}"
done

# Every argument as a JSON string, which YAML reads as it is.
quoted=()
for argument in "$@"; do
  [[ $argument != *[$'\n\t']* ]] || fail "an argument holds a line break or a tab"
  argument=${argument//\\/\\\\}
  quoted+=("\"${argument//\"/\\\"}\"")
done
ARGUMENTS=$(IFS=,; echo "${quoted[*]}")
export ARGUMENTS

filled=$(envsubst < "$(dirname "$0")/jobset.yaml")
if [ -n "${DRY_RUN:-}" ]; then echo "$filled"; else kubectl apply -f - <<< "$filled"; fi
