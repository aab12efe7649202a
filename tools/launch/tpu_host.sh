#!/usr/bin/env bash
# What tpu_vm.sh does on each host of a slice, where it lies as ~/legion_host.sh.
#
#   prepare      unpack ~/legion_code.tar.gz into ~/legion and install it, when the chips are free
#   start STAMP WORKDIR ARGUMENTS...    train, detached from the ssh session that says so
#   log LINES    the log after its first LINES lines, then "legion-state LINES STATE [EXIT CODE]"
#   state        "STATE [EXIT CODE]", then the arguments of the training it is about
#   stop         tell training to save a checkpoint and stop
#
# STATE is none, running, ended or lost (ended without leaving an exit code). Settings: SLICE, the
# number of the slice; END_HOLDERS=1; UPLOAD_SECONDS (60) between two copies of the log to the
# bucket; CHIPS, patterns of the device files.
set -uo pipefail

RUN=$HOME/legion_run CODE=$HOME/legion VENV=$HOME/legion_venv
CHIPS=${CHIPS:-/dev/accel* /dev/vfio/*}

fail() { echo "error: $(hostname): $*" >&2; exit 1; }

as_root() {  # other users' processes show themselves to root alone
  if sudo -n true 2> /dev/null; then sudo -n "$@"; else "$@"; fi
}

running() {
  local pid
  pid=$(cat "$RUN/pid" 2> /dev/null) || return 1
  # After a restart of the host another process may have the number.
  [ -n "$pid" ] && tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -q ' supervise '
}

state() {
  if [ ! -f "$RUN/arguments" ]; then echo none
  elif [ -f "$RUN/exit" ]; then echo "ended $(cat "$RUN/exit")"
  elif running; then echo running
  else echo lost
  fi
}

holders() {  # process numbers, a line each
  local pattern tests=()
  set -f
  for pattern in $CHIPS; do tests+=(-o -lname "$pattern"); done
  set +f
  as_root find /proc/[0-9]*/fd -maxdepth 1 \( "${tests[@]:1}" \) 2> /dev/null |
    cut -d / -f 3 | sort -nu
}

free_chips() {
  local pid pids signal
  for signal in TERM KILL; do
    pids=$(holders)
    [ -n "$pids" ] || return 0
    for pid in $pids; do
      echo "$(hostname): process $pid holds the chips:" \
        "$(tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline")" >&2
      if [ -n "${END_HOLDERS:-}" ]; then as_root kill "-$signal" "$pid"; fi
    done
    [ -n "${END_HOLDERS:-}" ] || fail "the chips are held; END_HOLDERS=1 ends such processes"
    for _ in {1..100}; do
      [ -n "$(holders)" ] || break
      sleep 0.1
    done
  done
  [ -z "$(holders)" ] || fail "the chips are still held by $(holders | paste -sd ' ' -)"
}

prepare() {
  running && fail "training already runs here"
  free_chips
  as_root rm -f "${TMPDIR:-/tmp}/libtpu_lockfile"  # an aborted process of another user leaves it
  if ! { rm -rf "$CODE" && mkdir "$CODE" &&
      tar --extract --gzip --file "$HOME/legion_code.tar.gz" --directory "$CODE"; }; then
    fail "the code could not be unpacked into $CODE"
  fi
  # The images have Python 3.10 without venv; uv brings one that this library takes.
  export PATH=$HOME/.local/bin:$PATH
  if ! command -v uv > /dev/null; then
    curl -LsSf https://astral.sh/uv/install.sh |
      env UV_UNMANAGED_INSTALL="$HOME/.local/bin" sh || fail "uv could not be installed"
  fi
  if [ ! -x "$VENV/bin/python" ]; then
    uv venv --quiet --python 3.12 --seed "$VENV" || fail "uv could not make $VENV"
  fi
  uv pip install --quiet --python "$VENV/bin/python" --editable "$CODE" 'jax[tpu]' ||
    fail "the packages could not be installed"
  echo "$(hostname): $(head -n 1 "$CODE/code.txt")"
}

upload() {  # FILE NAME: into the folder of this start, as SLICE-HOST.NAME
  local target
  target=$(cat "$RUN/folder")/slice${SLICE:-0}-$(hostname).$2
  gcloud storage cp --quiet "$1" "$target" || gsutil -q cp "$1" "$target"
}

start() {
  local stamp=$1 workdir=$2
  shift 2
  running && fail "training already runs here"
  if ! { rm -rf "$RUN" && mkdir "$RUN"; }; then fail "$RUN could not be made"; fi
  echo "${workdir%/}/launch/$stamp" > "$RUN/folder"
  upload "$CODE/code.txt" code.txt ||
    fail "nothing could be written to $workdir; has the service account of this host the rights?"
  touch "$RUN/log"
  printf '%q ' "$workdir" "$@" > "$RUN/arguments"
  setsid nohup bash "$0" supervise "$workdir" "$@" < /dev/null > "$RUN/supervisor.log" 2>&1 &
  echo $! > "$RUN/pid"
  echo "$(hostname): training started"
}

supervise() {  # the process that outlives the session: trains, and copies the log to the bucket
  local workdir=$1 training uploader code
  shift
  cd "$CODE" || exit 1
  trap 'kill -TERM "$training"' TERM
  "$VENV/bin/python" -m legion_jax.train --distributed=auto --workdir "$workdir" "$@" \
    > "$RUN/log" 2>&1 &
  training=$!
  while sleep "${UPLOAD_SECONDS:-60}" && kill -0 $$; do upload "$RUN/log" log; done &
  uploader=$!
  wait "$training"
  code=$?
  while kill -0 "$training" 2> /dev/null; do  # it was the trap that ended the wait
    wait "$training"
    code=$?
  done
  kill "$uploader"
  printf '\ntraining ended with exit code %s\n' "$code" >> "$RUN/log"
  echo "$code" > "$RUN/exit.new" && mv "$RUN/exit.new" "$RUN/exit"
  upload "$RUN/log" log
  upload "$RUN/exit" exit
}

log() {
  local now lines
  now=$(state)  # before the log is read: of an ended training all of it is shown
  lines=$(wc -l < "$RUN/log")
  if [ "$lines" -gt "$1" ]; then sed -n "$(($1 + 1)),${lines}p" "$RUN/log"; fi
  echo "legion-state $lines $now"
}

main() {
  local command=${1:-}
  [ $# = 0 ] || shift
  case $command in
    state) state; cat "$RUN/arguments" 2> /dev/null || true ;;
    stop)
      running || fail "no training runs here"
      kill -TERM "$(cat "$RUN/pid")" && echo "$(hostname): training was told to stop" ;;
    prepare) prepare ;;
    start) start "$@" ;;
    supervise) supervise "$@" ;;
    log) log "$1" ;;
    *) echo "error: usage: tpu_host.sh prepare|start|log|state|stop" >&2; exit 1 ;;
  esac
}

main "$@"; exit  # on one line: a new copy of this file may be laid over it while it runs
