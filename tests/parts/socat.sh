#!/usr/bin/env bash
# socat, which makes a serial line out of two pseudo-terminals, from the
# system's packages. Prints the program's path. Safe to run again and by
# several at once.
set -euo pipefail
all="${TIDEGATE_PARTS:-$(cd "$(dirname "$0")/../.." && pwd)/.parts}"
if ! command -v socat >/dev/null; then
  mkdir -p "$all"
  exec 9>"$all/apt.lock"
  flock 9
fi
if ! command -v socat >/dev/null; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "socat.sh: socat is missing; install the package of that name" >&2
    exit 1
  fi
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends socat >&2
fi
command -v socat
