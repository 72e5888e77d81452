#!/usr/bin/env bash
# Redis for tests, from the system's packages. Prints the program's path.
# Safe to run again and by several at once.
set -euo pipefail
all="${TIDEGATE_PARTS:-$(cd "$(dirname "$0")/../.." && pwd)/.parts}"
program() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v redis-server; }
if ! program >/dev/null; then
  mkdir -p "$all"
  exec 9>"$all/apt.lock"
  flock 9
fi
if ! program >/dev/null; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "redis.sh: redis-server is missing; install the package of that name" >&2
    exit 1
  fi
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends redis-server >&2
fi
program
