#!/usr/bin/env bash
# Pack the checked-out code as it lies: tracked files with their local changes, and new files that
# git does not ignore. code.txt in the archive names the commit and shows every local change.
#
#   tools/launch/pack_code.sh ARCHIVE.tar.gz
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }
[ $# -eq 1 ] || fail "usage: pack_code.sh ARCHIVE.tar.gz"
case $1 in /*) archive=$1 ;; *) archive=$PWD/$1 ;; esac
cd "$(dirname "$0")/../.."
commit=$(git rev-parse HEAD) || fail "$PWD: no commit of a git checkout to pack"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# A copy of the index, so that new files show in the diff and yours stays as it is.
cp "$(git rev-parse --git-path index)" "$scratch/index"
export GIT_INDEX_FILE=$scratch/index
git add --intent-to-add --all
changes=$(git status --short)
{
  echo "commit $commit${changes:+ with local changes}"
  if [ -n "$changes" ]; then echo "$changes"; git diff HEAD; fi
} > "$scratch/code.txt"

git ls-files -z | while IFS= read -r -d '' file; do
  if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi  # not those deleted since
done > "$scratch/files"
tar --create --gzip --file "$archive" --null --files-from "$scratch/files" -C "$scratch" code.txt
head -n 1 "$scratch/code.txt"
