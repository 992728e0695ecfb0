#!/usr/bin/env bash
# Judges a package (by default models/papercut): what prompts name against what detectors see; --help for options.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$python" -m papercut.evaluate "$@"
