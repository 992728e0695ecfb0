#!/usr/bin/env bash
# Tests the exporter of open models: test.sh [NAME …] for test_NAME.py alone. Needs PyTorch, which tests/run.sh does not.
set -euo pipefail
environment=export
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$here/tests"
exec "$python" -m unittest -v "${@/#/test_}"
