#!/usr/bin/env bash
# PostgreSQL for tests, from the system's packages. Prints the folder of its
# programs. Safe to run again and by several at once.
set -euo pipefail
all="${TIDEGATE_PARTS:-$(cd "$(dirname "$0")/../.." && pwd)/.parts}"
programs() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | while read -r folder; do
  if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then echo "$folder"; fi
done | tail -n 1; }
if [ -z "$(programs)" ]; then
  mkdir -p "$all"
  exec 9>"$all/apt.lock"
  flock 9
fi
if [ -z "$(programs)" ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "postgres.sh: PostgreSQL is missing; install the package postgresql" >&2
    exit 1
  fi
  apt-get update -q >&2
  # Its files are wanted, not a server that starts with the machine.
  mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] ||
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql >&2
fi
programs
