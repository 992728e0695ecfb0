#!/bin/bash
# Sets up and runs every test: style, lints, the crates' tests, the scripts'. Asks nothing; a bare Debian with Rust will do.
#
#   tests/run.sh
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
[[ -x $(command -v cargo) ]] || PATH=~/.cargo/bin:$PATH

log=$(mktemp)
trap 'rm -f "$log"' EXIT
say() { printf '\n== %s\n' "$*"; }

say setup
pipelines/setup.sh --tests

say format
cargo fmt --all --check

say lints
cargo clippy --release --workspace --all-targets --locked -- -D warnings

status=0
say tests
cargo test --release --workspace --locked --no-fail-fast 2>&1 | tee "$log" || status=1

say scripts
tests/scripts.sh 2>&1 | tee -a "$log" || status=1

# Both end with a line "test result: … N passed; N failed".
count() { sed -n 's/^test result: .* \([0-9]*\) '"$1"'.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }'; }
failed=$(count failed)
# A test that could not be built is none that passed.
((status == 0 || failed > 0)) || failed=1
printf '\n%s passed, %s failed\n' "$(count passed)" "$failed"
exit $status
