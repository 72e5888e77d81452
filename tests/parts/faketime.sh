#!/usr/bin/env bash
# libfaketime, which lets a test set the clock of one process, from the system's
# packages. Prints the library's path. Safe to run again and by several at once.
set -euo pipefail
all="${TIDEGATE_PARTS:-$(cd "$(dirname "$0")/../.." && pwd)/.parts}"
library() {
  for file in /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib/faketime/libfaketimeMT.so.1; do
    if [ -e "$file" ]; then echo "$file"; return; fi
  done
}
if [ -z "$(library)" ]; then
  mkdir -p "$all"
  exec 9>"$all/apt.lock"
  flock 9
fi
if [ -z "$(library)" ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "faketime.sh: libfaketime is missing; install the package faketime" >&2
    exit 1
  fi
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends faketime >&2
fi
library
