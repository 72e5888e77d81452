#!/usr/bin/env bash
# strace, which kills a process at its N-th call or makes that call fail, from
# the system's packages. Prints the program's path. Safe to run again and by
# several at once.
set -euo pipefail
all="${TIDEGATE_PARTS:-$(cd "$(dirname "$0")/../.." && pwd)/.parts}"
if ! command -v strace >/dev/null; then
  mkdir -p "$all"
  exec 9>"$all/apt.lock"
  flock 9
fi
if ! command -v strace >/dev/null; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "strace.sh: strace is missing; install the package of that name" >&2
    exit 1
  fi
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends strace >&2
fi
command -v strace
