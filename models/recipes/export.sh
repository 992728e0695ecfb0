#!/usr/bin/env bash
# Exports a diffusers pipeline as a package: export.sh SOURCE OUT_DIR [--dtype fp32|fp16|int8] [--check] …; --help for options.
set -euo pipefail
environment=export
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$python" -m open_models.cli "$@"
