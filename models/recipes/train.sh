#!/usr/bin/env bash
# Trains papercut.
#
#   train.sh vae [--minutes N] [--resume] …          the autoencoder
#   train.sh prepare …                               render and encode the transformer's clips (once the autoencoder is good)
#   train.sh transformer [--minutes N] [--resume] …  text encoder and transformer
#   train.sh imagine                                 what the transformer makes of the autoencoder's clips; then
#   train.sh vae --freeze-encoder --imagined --sharpen .5 --resume …   the decoder alone, on that too, with a critic
#   train.sh all                                     the three in turn, with their default lengths
#   train.sh soup A.pt B.pt --out C.pt               the average of several runs' checkpoints, better than each
#   train.sh restore PACKAGE                         checkpoints of a package, to go on with --resume where none is left
#   train.sh pieces split|join --pieces DIR          checkpoints as small files, to carry them to another machine and back
#
# All but soup take --work DIR for checkpoints, data and logs (default: $LATENTFLOW_WORK or ~/.cache/latentflow), and --help.
# A GPU is used where there is one; the lengths by default are then those of three calls of ten minutes:
#
#   train.sh vae; train.sh pieces split --pieces P
#   train.sh pieces join --pieces P; train.sh prepare; train.sh transformer --end .5; train.sh pieces split --pieces P
#   train.sh pieces join --pieces P; train.sh prepare --seed 1; train.sh transformer --resume --begin .5; train.sh pieces split --pieces P
set -euo pipefail
stage=${1:---help}
shift || true
case $stage in
    vae | prepare | transformer | imagine | soup | restore | pieces | all) ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; [ "$stage" = --help ] || [ "$stage" = -h ]; exit ;;
esac
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
case $stage in
    vae) exec "$python" -m papercut.train_vae "$@" ;;
    prepare) exec "$python" -m papercut.prepare "$@" ;;
    transformer) exec "$python" -m papercut.train_transformer "$@" ;;
    imagine) exec "$python" -m papercut.imagine "$@" ;;
    soup) exec "$python" -m papercut.soup "$@" ;;
    restore) exec "$python" -m papercut.restore "$@" ;;
    pieces) exec "$python" -m papercut.pieces "$@" ;;
    all)
        "$python" -m papercut.train_vae "$@"
        "$python" -m papercut.prepare "$@"
        "$python" -m papercut.train_transformer "$@"
        ;;
esac
