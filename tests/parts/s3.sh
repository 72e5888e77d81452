#!/usr/bin/env bash
# VersityGW, an S3 server over a folder of files, built from its Go module.
# Prints the program's path. Safe to run again and by several at once.
set -euo pipefail
version=v1.8.0
all="${TIDEGATE_PARTS:-$(cd "$(dirname "$0")/../.." && pwd)/.parts}"
parts="$all/s3/$version"
if [ ! -x "$parts/versitygw" ]; then
  mkdir -p "$parts"
  exec 9>"$all/s3.lock"
  flock 9
fi
if [ ! -x "$parts/versitygw" ]; then
  if ! command -v go >/dev/null; then
    if [ "$(id -u)" -ne 0 ]; then
      echo "s3.sh: go is missing; install Go 1.21 or later" >&2
      exit 1
    fi
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends golang-go >&2
  fi
  # A later toolchain, if the module wants one, is fetched by go itself.
  GOBIN="$parts/new" GOFLAGS=-trimpath go install "github.com/versity/versitygw/cmd/versitygw@$version" >&2
  mv "$parts/new/versitygw" "$parts/versitygw"
  rmdir "$parts/new"
fi
echo "$parts/versitygw"
