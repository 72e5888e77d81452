#!/usr/bin/env bash
# What the build itself needs besides Rust (a C compiler, make, perl), and
# cargo-deny into the parts' folder. Safe to run again and by several at once.
set -euo pipefail
all="${TIDEGATE_PARTS:-$(cd "$(dirname "$0")/../.." && pwd)/.parts}"
mkdir -p "$all/bin"
exec 9>"$all/tools.lock"
flock 9
missing=""
for tool in cc make perl; do
  command -v "$tool" >/dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "tools.sh: missing:$missing; install build-essential and perl" >&2
    exit 1
  fi
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends build-essential perl >&2
fi
version=0.20.2
if [ "$("$all/bin/cargo-deny" --version 2>/dev/null)" != "cargo-deny $version" ]; then
  env -u CARGO_TARGET_DIR cargo install --quiet --locked --root "$all" --version "$version" cargo-deny >&2
fi
echo "$all/bin"
