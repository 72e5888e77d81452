#!/usr/bin/env bash
# Installs every part that tests need. Safe to run again.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
for part in tools faketime kafka mosquitto openssl parquet postgres python redis s3 socat strace; do
  echo "part: $part"
  "$here/$part.sh" >/dev/null
done
