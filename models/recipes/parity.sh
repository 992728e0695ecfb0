#!/usr/bin/env bash
# Rebuilds tests/data/parity: tiny random instances of the open models' families, and diffusers' numbers; --help for options.
set -euo pipefail
environment=export
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$python" -m parity "$@"
