#!/bin/bash
# Prints a table of the memory that a video takes at most, over its size and length, with sessions kept open and not.
#
#   pipelines/memory.sh [OPTIONS]
#
#   --model FOLDER     another model than the one built in
#   --sizes "256x160"  widths and heights, in a list
#   --frames "9 17"    lengths in frames, in a list
#   --fps 16           frames a second
#   --steps 1          denoising steps
#   --tile-size -1     what vaedecode has: pixels a tile's side, 0 for whole frames, -1 for what it does by itself
#   --keep-loaded "true false"
#
# Memory is that of the whole process at its worst moment, in MiB: all that it has, the weights' mapped files included (VmHWM in
# /proc), and what is its own (RssAnon). Mapped files go when others need the memory, and come back from the disk.
. "$(dirname "$(readlink -f "$0")")/common.sh"

sizes=256x160 frames='9 17' fps=16 steps=1 tile_size=-1 keeps='true false'
while (($#)); do
  [[ $1 != -h && $1 != --help ]] || help
  (($# > 1)) || die "$1 needs a value; --help lists the options"
  case $1 in
    --model) model=$2 ;;
    --sizes) sizes=$2 ;;
    --frames) frames=$2 ;;
    --fps) fps=$2 ;;
    --steps) steps=$2 ;;
    --tile-size) tile_size=$2 ;;
    --keep-loaded) keeps=$2 ;;
    *) die "$1 is no option; --help lists them" ;;
  esac
  shift 2
done
for size in $sizes; do check_options; done
for count in $frames; do
  [[ $count =~ ^[1-9][0-9]*$ ]] || die "--frames holds \`$count\`; whole numbers over 0 are needed, such as \"9 17\""
done
for keep in $keeps; do
  [[ $keep == true || $keep == false ]] || die "--keep-loaded holds \`$keep\`; true and false can be chosen"
done
[[ $tile_size =~ ^-1$|^[0-9]+$ ]] || die "--tile-size is \`$tile_size\`; -1, 0 or pixels are needed"
setup

log=$(mktemp)
pid=''
trap 'rm -f "$log"; [[ -z $pid ]] || kill "$pid" 2>/dev/null || true' EXIT

# Sets `peak` and `own`: the memory in KiB, in all and without files, that a video of `count` frames of `size` takes at most.
measure() {
  local word field now failed='' line=()
  seconds=$(awk -v n="$count" -v f="$fps" 'BEGIN { split(f, r, "/"); printf "%.9f", n * (r[2] ? r[2] : 1) / r[1] }')
  compose "a cat walks on the grass"
  for word in "${generate[@]}"; do
    line+=("$word")
    [[ $word != textsrc && $word != latentdiffuse && $word != vaedecode ]] || line+=("keep-loaded=$keep")
    [[ $word != vaedecode ]] || line+=("tile-size=$tile_size")
  done
  gst-launch-1.0 -q "${line[@]}" ! fakesink >"$log" 2>&1 &
  pid=$!
  peak=0 own=0
  while [[ -r /proc/$pid/status ]]; do
    while read -r field now _; do
      case $field in
        VmHWM:) peak=$now ;;
        RssAnon:) ((now <= own)) || own=$now ;;
      esac
    done < <(cat "/proc/$pid/status" 2>/dev/null)
    sleep 0.02
    # gst-launch (1.22) may lose an error of the first moment and wait for ever.
    [[ -n $failed ]] || ! grep -q ^ERROR "$log" || failed=$((SECONDS + 5))
    [[ -z $failed || $SECONDS -lt $failed ]] || kill "$pid" 2>/dev/null || true
  done
  local status=0
  wait "$pid" || status=$?
  pid=''
  ((status == 0)) || { cat "$log" >&2 && die "a video of $count frames of $size failed"; }
}

printf '%10s %8s %12s %10s %10s %10s\n' size frames keep-loaded MiB own seconds
for size in $sizes; do
  for count in $frames; do
    for keep in $keeps; do
      begin=$EPOCHREALTIME
      measure
      printf '%10s %8s %12s %10d %10d %10.1f\n' "$size" "$count" "$keep" $((peak / 1024)) $((own / 1024)) \
        "$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')"
    done
  done
done
