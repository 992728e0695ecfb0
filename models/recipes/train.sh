#!/usr/bin/env bash
# Trains papercut.
#
#   train.sh vae [--minutes N] [--resume] …          the autoencoder
#   train.sh prepare …                               render and encode the transformer's clips (once the autoencoder is good)
#   train.sh transformer [--minutes N] [--resume] …  text encoder and transformer
#   train.sh all                                     the three in turn, with their default lengths
#
# All take --work DIR for checkpoints, data and logs (default: $LATENTFLOW_WORK or ~/.cache/latentflow), and --help.
set -euo pipefail
stage=${1:---help}
shift || true
case $stage in
    vae | prepare | transformer | all) ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; [ "$stage" = --help ] || [ "$stage" = -h ]; exit ;;
esac
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
case $stage in
    vae) exec "$python" -m papercut.train_vae "$@" ;;
    prepare) exec "$python" -m papercut.prepare "$@" ;;
    transformer) exec "$python" -m papercut.train_transformer "$@" ;;
    all)
        "$python" -m papercut.train_vae "$@"
        "$python" -m papercut.prepare "$@"
        "$python" -m papercut.train_transformer "$@"
        ;;
esac
