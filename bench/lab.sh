#!/bin/sh
# L1: how long a lab of 1,000 namespaces takes up and down, and what it leaves.
# Usage: sudo bench/lab.sh [short]
set -eu
cd "$(dirname "$0")/.."
if [ "${1:-}" = short ]; then
	exec go run ./bench/lab -hosts 50 -runs 1 -peer-hosts 10
fi
exec go run ./bench/lab -markdown docs/reference/benchmarks.md
