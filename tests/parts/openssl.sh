#!/usr/bin/env bash
# The program openssl, with which tests make certificates, from the system's
# packages. Prints its path. Safe to run again and by several at once.
set -euo pipefail
all="${TIDEGATE_PARTS:-$(cd "$(dirname "$0")/../.." && pwd)/.parts}"
if ! command -v openssl >/dev/null; then
  mkdir -p "$all"
  exec 9>"$all/apt.lock"
  flock 9
fi
if ! command -v openssl >/dev/null; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "openssl.sh: openssl is missing; install the package of that name" >&2
    exit 1
  fi
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends openssl >&2
fi
command -v openssl
