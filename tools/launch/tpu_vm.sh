#!/usr/bin/env bash
# Train on a Cloud TPU slice: ask for it as a queued resource, install on every host, run, and leave
# the slice for the next start. A run that was preempted goes on where it stopped.
#
#   PROJECT=p ZONE=us-west4-a TYPE=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite \
#   REPOSITORY=https://... WORKDIR=gs://bucket/runs/legion \
#       tools/launch/tpu_vm.sh NAME --config experiments/base.py --config.init_from=gs://bucket/weights
#
# SPOT=1 takes spare capacity. DRY_RUN=1 prints the commands and runs none. Give the slice back with
#   gcloud compute tpus queued-resources delete NAME --force --project PROJECT --zone ZONE
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }
[ $# -ge 2 ] || fail "usage: tpu_vm.sh NAME ARGUMENTS OF legion_jax.train"
for name in PROJECT ZONE TYPE RUNTIME REPOSITORY WORKDIR; do
  [ -n "${!name:-}" ] || fail "$name: not set; see the head of this file"
done
case "$WORKDIR" in gs://*) ;; *) fail "WORKDIR: $WORKDIR; hosts share gs:// folders only" ;; esac

NAME=$1; shift
WHERE=(--project "$PROJECT" --zone "$ZONE")

run() {
  if [ -n "${DRY_RUN:-}" ]; then printf '%q ' "$@"; echo; else "$@"; fi
}
state() {
  gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" \
    --format='value(state.state)' 2>/dev/null || true
}
on_every_host() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" --worker=all --command "$1"
}

if [ -n "${DRY_RUN:-}" ] || [ -z "$(state)" ]; then
  run gcloud compute tpus queued-resources create "$NAME" --node-id "$NAME" "${WHERE[@]}" \
    --accelerator-type "$TYPE" --runtime-version "$RUNTIME" ${SPOT:+--spot}
fi
if [ -z "${DRY_RUN:-}" ]; then
  until [ "$(state)" = ACTIVE ]; do
    case "$(state)" in FAILED|SUSPENDED) fail "$NAME: $(state); delete it and try again" ;; esac
    echo "$NAME: $(state), waiting"
    sleep 30
  done
fi

on_every_host "git clone --depth 1 $(printf %q "$REPOSITORY") legion 2>/dev/null || git -C legion pull
cd legion && python3 -m venv .venv && .venv/bin/pip install --quiet -e . 'jax[tpu]'"
on_every_host "cd legion && .venv/bin/python -m legion_jax.train --distributed=auto \
--workdir $(printf %q "$WORKDIR")$(printf ' %q' "$@")"
