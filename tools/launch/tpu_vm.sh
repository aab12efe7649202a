#!/usr/bin/env bash
# Train on Cloud TPU slices: ask for them as a queued resource, copy the checked-out code to every
# host, install it, train detached from this script, and show the log of the first host.
#
#   PROJECT=p ZONE=us-west4-a TYPE=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite \
#   WORKDIR=gs://bucket/runs/legion \
#       tools/launch/tpu_vm.sh NAME --config experiments/base.py --config.init_from=gs://bucket/weights
#
# Ends with the exit code of training and leaves the slices for the next start. When Google takes
# spare slices back, it asks for others and training goes on where it stopped. Training does not need
# this script: the same command shows the log again. Other settings:
#
#   SLICES=1         slices of TYPE that train together
#   SPOT=1           spare capacity, which can be taken back
#   SERVICE_ACCOUNT  whose rights the hosts have, instead of the project's default
#   MAX_WAIT=86400   seconds to wait for slices
#   POLL=30          seconds between two looks at them and at the log
#   END_HOLDERS=1    end processes that hold the chips, instead of naming them and stopping
#   DRY_RUN=1        print the commands and run none
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }
[ $# -ge 2 ] || fail "usage: tpu_vm.sh NAME ARGUMENTS OF legion_jax.train"
for name in PROJECT ZONE TYPE RUNTIME WORKDIR; do
  [ -n "${!name:-}" ] || fail "$name: not set; see the head of this file"
done
case $WORKDIR in gs://*) ;; *) fail "WORKDIR: $WORKDIR; hosts share gs:// folders only" ;; esac
SLICES=${SLICES:-1} MAX_WAIT=${MAX_WAIT:-86400} POLL=${POLL:-30}
[[ $SLICES =~ ^[1-9][0-9]*$ ]] || fail "SLICES: $SLICES is no number of slices"
command -v gcloud > /dev/null || [ -n "${DRY_RUN:-}" ] || fail "gcloud: not installed"

MISSES=5  # looks in a row that may fail for want of an answer
NAME=$1; shift
HERE=$(dirname "$0")
WHERE=(--project "$PROJECT" --zone "$ZONE")
QUEUE=(gcloud compute tpus queued-resources)
if [ "$SLICES" = 1 ]; then
  NODES=("$NAME") ASKED=(--node-id "$NAME")
else
  NODES=() ASKED=(--node-count "$SLICES" --node-prefix "$NAME")
  for ((slice = 0; slice < SLICES; slice++)); do NODES+=("$NAME-$slice"); done
fi
DELETE="${QUEUE[*]} delete $NAME --force ${WHERE[*]}"
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

run() {
  if [ -n "${DRY_RUN:-}" ]; then printf '%q ' "$@"; echo; else "$@"; fi
}

# --- the queued resource ---

look() {  # sets STATE: what describe says, or NONE when there is no resource of that name
  if STATE=$("${QUEUE[@]}" describe "$NAME" "${WHERE[@]}" --format='value(state.state)' \
      2> "$SCRATCH/describe"); then
    [ -n "$STATE" ] || fail "$NAME: gcloud describes it without a state"
  elif grep -q 'NOT_FOUND' "$SCRATCH/describe"; then
    STATE=NONE
  else
    cat "$SCRATCH/describe" >&2
    STATE=UNKNOWN
  fi
}

create() {
  run "${QUEUE[@]}" create "$NAME" "${ASKED[@]}" "${WHERE[@]}" --accelerator-type "$TYPE" \
    --runtime-version "$RUNTIME" ${SPOT:+--spot} \
    ${SERVICE_ACCOUNT:+--service-account "$SERVICE_ACCOUNT"} ||
    fail "$NAME: the slices could not be asked for"
}

obtain() {  # waits until the slices are there
  local until=$((SECONDS + MAX_WAIT)) misses=$MISSES  # none may fail before the first answer
  while look; [ "$STATE" != ACTIVE ]; do
    if [ "$STATE" != UNKNOWN ]; then misses=0; echo "$NAME: $STATE"; fi
    case $STATE in
      NONE) create ;;
      SUSPENDED)  # taken back; the name is free again once the resource is deleted
        "${QUEUE[@]}" delete "$NAME" --force --quiet "${WHERE[@]}" ||
          fail "$NAME: SUSPENDED, and could not be deleted" ;;
      FAILED)
        fail "$NAME: FAILED: $("${QUEUE[@]}" describe "$NAME" "${WHERE[@]}" \
          --format='value(state.failedData.error.message)'); give it back with: $DELETE" ;;
      CREATING|ACCEPTED|WAITING_FOR_RESOURCES|PROVISIONING|SUSPENDING|DELETING) ;;
      UNKNOWN) [ $((++misses)) -lt "$MISSES" ] || fail "$NAME: gcloud could not describe it" ;;
      *) fail "$NAME: in the state $STATE, which this script does not know" ;;
    esac
    [ "$SECONDS" -lt "$until" ] || fail "$NAME: $STATE after MAX_WAIT=$MAX_WAIT seconds; the" \
      "request stays in the queue, and the same command waits on; give it back with: $DELETE"
    sleep "$POLL"
  done
}

taken_back() {  # whether the slices were
  look
  [ "$STATE" = SUSPENDING ] || [ "$STATE" = SUSPENDED ]
}

# --- its hosts ---

# By node: `queued-resources ssh --node=all` leaves out nodes it cannot reach and reports success.
on_every_node() {  # FUNCTION ARGUMENTS, called with the number of the slice and its node in front
  local slice jobs=() failed=()
  for slice in "${!NODES[@]}"; do
    "$1" "$slice" "${NODES[slice]}" "${@:2}" &
    jobs+=($!)
    [ -z "${DRY_RUN:-}" ] || wait $!  # in order
  done
  for slice in "${!NODES[@]}"; do
    wait "${jobs[slice]}" || failed+=("${NODES[slice]}")
  done
  [ ${#failed[@]} = 0 ] || { echo "error: failed on: ${failed[*]}" >&2; return 1; }
}
copy_to() {
  run gcloud compute tpus tpu-vm scp "$SCRATCH/legion_code.tar.gz" "$SCRATCH/legion_host.sh" \
    "$2:" "${WHERE[@]}" --worker=all
}
on_hosts() {
  run gcloud compute tpus tpu-vm ssh "$2" "${WHERE[@]}" --worker=all \
    --command "SLICE=$1 ${END_HOLDERS:+END_HOLDERS=1 }bash legion_host.sh $3"
}
on_first_host() {
  run gcloud compute tpus tpu-vm ssh "${NODES[0]}" "${WHERE[@]}" --worker=0 --command "$1"
}

# --- training ---

start() {  # ARGUMENTS OF legion_jax.train
  local stamp
  stamp=$(date -u +%Y%m%dT%H%M%SZ)
  cp "$HERE/tpu_host.sh" "$SCRATCH/legion_host.sh"
  [ -n "${DRY_RUN:-}" ] || "$HERE/pack_code.sh" "$SCRATCH/legion_code.tar.gz"
  on_every_node copy_to || fail "$NAME: the code could not be copied to every host"
  on_every_node on_hosts prepare || fail "$NAME: not every host is ready; nothing was started"
  if ! on_every_node on_hosts "start$(printf ' %q' "$stamp" "$WORKDIR" "$@")"; then
    on_every_node on_hosts stop || true
    fail "$NAME: training did not start on every host; those that did were told to stop"
  fi
  echo "logs of all hosts: ${WORKDIR%/}/launch/$stamp"
}

start_or_attach() {  # ARGUMENTS OF legion_jax.train
  local asked found
  asked=$(printf '%q ' "$WORKDIR" "$@")
  if [ -n "${DRY_RUN:-}" ]; then start "$@"; return; fi
  found=$(on_first_host "if [ -f legion_host.sh ]; then bash legion_host.sh state; fi") ||
    fail "$NAME: its first host does not answer"
  if [ "${found%%$'\n'*}" != running ]; then
    start "$@"
  elif [ "${found#*$'\n'}" = "$asked" ]; then
    echo "$NAME: training runs already; here is its log"
  else
    fail "$NAME: trains already, with ${found#*$'\n'}; stop it with: gcloud compute tpus tpu-vm" \
      "ssh ${NODES[0]} ${WHERE[*]} --worker=0 --command 'bash legion_host.sh stop'"
  fi
}

follow() {  # shows the log; sets CODE to training's exit code, or to nothing when slices are gone
  local lines=0 misses=0 state
  CODE=
  while sleep "$POLL"; do
    if on_first_host "bash legion_host.sh log $lines" \
        < /dev/null > "$SCRATCH/log" 2> "$SCRATCH/errors"; then
      misses=0
      sed '$d' "$SCRATCH/log"
      read -r _ lines state CODE < <(tail -n 1 "$SCRATCH/log")
      case $state in
        running) ;;
        ended) return ;;
        *) fail "${NODES[0]}: training is gone without an exit code; was the host restarted? The" \
          "same command goes on from the newest checkpoint" ;;
      esac
    elif taken_back; then
      return
    elif [ "$STATE" = NONE ] || [ "$STATE" = DELETING ]; then
      fail "$NAME: was deleted"
    elif [ $((++misses)) -ge "$MISSES" ]; then
      cat "$SCRATCH/errors" >&2
      fail "${NODES[0]}: does not answer; training may go on, and the same command follows it"
    fi
  done
}

if [ -n "${DRY_RUN:-}" ]; then
  create
  start_or_attach "$@"
  on_first_host "bash legion_host.sh log 0"
  exit
fi
while true; do
  obtain
  start_or_attach "$@"
  trap 'echo "training goes on; the same command follows it" >&2; exit 130' INT
  follow
  trap - INT
  # Hosts that are taken away end with any code, perhaps a moment before the resource says so.
  if [ -n "$CODE" ] && [ "$CODE" != 0 ]; then sleep "$POLL"; fi
  if [ "$CODE" = 0 ] || { [ -n "$CODE" ] && ! taken_back; }; then break; fi
  echo "$NAME: the slices were taken back; asking for others"
done
echo "$NAME: training ended with exit code $CODE; give the slices back with: $DELETE"
exit "$CODE"
