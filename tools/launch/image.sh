#!/usr/bin/env bash
# Build the image for gke.sh from the checked-out code, local changes included, and push it.
# /legion/code.txt in it names the commit and shows the changes.
#
#   tools/launch/image.sh us-docker.pkg.dev/p/images/legion:1
#
# PUSH= (empty) builds only. Wants docker with BuildKit.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }
[ $# -eq 1 ] || fail "usage: image.sh IMAGE"
command -v docker > /dev/null || fail "docker: not installed"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
code=$("$(dirname "$0")/pack_code.sh" "$scratch/code.tar.gz")
# The archive is all that docker sees: no .git, no environments, no data.
DOCKER_BUILDKIT=1 docker build --file tools/launch/Dockerfile --build-arg "CODE=$code" \
  --tag "$1" - < "$scratch/code.tar.gz" || fail "$1: could not be built"
[ -z "${PUSH-1}" ] || docker push "$1" || fail "$1: could not be pushed"
echo "$1: $code"
