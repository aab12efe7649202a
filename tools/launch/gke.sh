#!/usr/bin/env bash
# Train on a GKE cluster with TPU node pools and the JobSet controller:
#
#   NAME=legion IMAGE=us-docker.pkg.dev/p/images/legion:1 SERVICE_ACCOUNT=trainer \
#   ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=4x4 HOSTS=4 CHIPS_PER_HOST=4 \
#       tools/launch/gke.sh --config experiments/base.py \
#       --workdir gs://bucket/runs/legion --config.init_from=gs://bucket/weights
#
# IMAGE is made by tools/launch/image.sh. SERVICE_ACCOUNT is a Kubernetes service account of the
# current namespace with rights to the bucket (README.md). Other settings:
#
#   SLICES=1         slices that train together
#   MAX_RESTARTS=3   restarts after errors; those after being told to stop do not count
#   DRY_RUN=1        print what would be sent
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }
# Neither what YAML takes for a line break or not at all, nor other bytes than those of UTF-8.
plain() (
  LC_ALL=C
  [[ $1 != *[$'\x01'-$'\x1f'$'\x7f']* && $1 != *$'\xc2'[$'\x80'-$'\x9f']* &&
     $1 != *$'\xe2\x80'[$'\xa8\xa9']* ]] && iconv -f UTF-8 -t UTF-8 <<< "$1" > /dev/null 2>&1
)
[ $# -ge 1 ] || fail "usage: gke.sh ARGUMENTS OF legion_jax.train"
export SLICES=${SLICES:-1} MAX_RESTARTS=${MAX_RESTARTS:-3}
# Each goes into YAML as it is: nothing but what Kubernetes or the registry takes there.
word='[a-z0-9]([a-z0-9.-]*[a-z0-9])?' number='[0-9]{1,6}'
settings=(
  "NAME=[a-z]([a-z0-9-]*[a-z0-9])?" "IMAGE=[A-Za-z0-9][A-Za-z0-9._/:@-]*" "SERVICE_ACCOUNT=$word"
  "ACCELERATOR=$word" "TOPOLOGY=$number(x$number)*" "HOSTS=$number" "CHIPS_PER_HOST=$number"
  "SLICES=$number" "MAX_RESTARTS=$number")
for setting in "${settings[@]}"; do
  name=${setting%%=*}
  [ -n "${!name:-}" ] || fail "$name: not set; see the head of this file"
  [[ ${!name} =~ ^(${setting#*=})$ ]] || fail "$name: cannot be $(printf %q "${!name}")"
  export "${name?}"
done
command -v envsubst > /dev/null || fail "envsubst: not installed; it is part of gettext"
[ -n "${DRY_RUN:-}" ] || command -v kubectl > /dev/null || fail "kubectl: not installed"

# Every argument as a JSON string, which YAML reads as it is; Kubernetes makes $$ to $ again.
quoted=()
for argument in "$@"; do
  plain "$argument" || fail "an argument holds a line break, a tab, another control character or" \
    "no UTF-8: $(printf %q "$argument")"
  argument=${argument//\\/\\\\}
  argument=${argument//\$/\$\$}
  quoted+=("\"${argument//\"/\\\"}\"")
done
ARGUMENTS=$(IFS=,; echo "${quoted[*]}")
export ARGUMENTS

filled=$(envsubst < "$(dirname "$0")/jobset.yaml")
if [ -n "${DRY_RUN:-}" ]; then echo "$filled"; exit; fi
kubectl get serviceaccount "$SERVICE_ACCOUNT" > /dev/null || fail "SERVICE_ACCOUNT:" \
  "$SERVICE_ACCOUNT could not be found in this namespace; tools/launch/README.md makes one"
# Not apply: it would leave a JobSet of that name as it is, and report success.
kubectl create -f - <<< "$filled" || fail "$NAME was not sent; if a JobSet of that name is there:" \
  "kubectl delete jobset $NAME, and the same command goes on from the newest checkpoint"
echo "the log of the first host: kubectl logs --follow job/$NAME-slice-0"
