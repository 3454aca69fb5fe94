#!/usr/bin/env bash
# Installs what a lock file holds and nothing else, every file checked against its hash: install_locked.sh VENV LOCK [pip's options]
#
# Wheels alone are taken: to build one, pip would fetch a build backend that nothing pins. With a hash for every file it
# does not matter which index a file comes from, so that no other index can shadow a name.
set -uo pipefail
venv=$1 lock=$2
shift 2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$venv/bin/pip" install -q --require-hashes --no-deps --only-binary=:all: -r "$lock" "$@" 2>"$log" && exit 0
if grep -q "DO NOT MATCH THE HASHES" "$log"; then
  name=$(grep -m1 -oE "^ +[A-Za-z0-9._-]+[^ ]* from [^ ]+" "$log" | awk '{print $1}')
  echo "set-up: ${name:-a package} does not have the hash in $lock; nothing of it was installed. If you did not change the file, somebody changed the package" >&2
else
  echo "set-up: cannot install $lock: $(grep -m1 -E "^ERROR" "$log" || tail -n 1 "$log")" >&2
fi
exit 2
