#!/usr/bin/env bash
# Python with pyarrow and duckdb (other people's readers of Parquet) in an
# environment of its own. Prints the interpreter's path.
set -euo pipefail
all="${TIDEGATE_PARTS:-$(cd "$(dirname "$0")/../.." && pwd)/.parts}"
venv="$all/parquet"
mkdir -p "$all"
exec 9>"$all/parquet.lock"
flock 9
packages="pyarrow==26.0.1 duckdb==2.0.1"
if [ "$(cat "$venv/complete" 2>/dev/null)" != "$packages" ]; then
  if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    if [ "$(id -u)" -ne 0 ]; then
      echo "parquet.sh: python3 with venv is missing; install python3-venv" >&2
      exit 1
    fi
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3-venv >&2
  fi
  [ -x "$venv/bin/pip" ] || python3 -m venv --clear "$venv" >&2
  # shellcheck disable=SC2086
  "$venv/bin/pip" install --quiet --disable-pip-version-check $packages >&2
  echo "$packages" >"$venv/complete"
fi
echo "$venv/bin/python"
