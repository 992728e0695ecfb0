#!/usr/bin/env bash
# Exports the checkpoints as a package (by default over models/papercut), and checks it against PyTorch; --help for options.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
case " $* " in
    *" --out "* | *" --out="* | *" -h "* | *" --help "*) exec "$python" -m papercut.export "$@" ;;
    *) exec "$python" -m papercut.export --out "$here/../papercut" "$@" ;;
esac
