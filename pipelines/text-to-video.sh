#!/bin/bash
# Makes a video from a prompt.
#
#   pipelines/text-to-video.sh [OPTIONS] PROMPT OUT.mp4 [SECONDS]
#
#   --seconds 5        how long (5 unless said)
#   --size 256x160     width and height; the model's own unless said
#   --fps 24           frames a second; the model's own unless said
#   --seed 7           another seed, another video; the same seed, the same one
#   --steps 8          denoising steps; more take longer
#   --model FOLDER     another model than the one built in
#
#   pipelines/text-to-video.sh "a dog runs in the snow" dog.mp4 --seconds 3 --size 256x160
. "$(dirname "$(readlink -f "$0")")/common.sh"

parse_arguments "$@"
((${#words[@]} == 2 || ${#words[@]} == 3)) || die "a PROMPT and a file OUT.mp4 are needed; --help shows how"
prompt=${words[0]} out=${words[1]} seconds=${words[2]:-${seconds:-5}}
[[ $prompt == *[![:space:]]* ]] || die "the prompt is empty"
[[ $out == *.mp4 ]] || die "the file is \`$out\`; it has to end in .mp4"
folder=$(dirname -- "$out")
[[ -d $folder && -w $folder ]] || die "\`$folder\` is no folder that can be written to"
[[ ! -d $out ]] || die "\`$out\` is a folder"
check_options
setup
compose "$prompt"

# The video gets its name when it is whole; until then it has another, beside it.
half=$(mktemp "$folder/.latentflow.XXXXXX")
pid='' stopped=''
trap 'rm -f "$half" "$half.moov"' EXIT
trap 'stopped=1; [[ -z $pid ]] || kill "$pid" 2>/dev/null' INT TERM HUP

# shellcheck disable=SC2054 # commas are gst-launch's
encode=("${generate[@]}" ! video/x-raw,format=I420 ! x264enc ! h264parse ! mp4mux faststart=true)
print_launch "${encode[@]}" ! filesink "location=$(quoted "$out")"
exec {shown}> >(show)
show_pid=$!
(
  echo "$BASHPID"
  exec gst-launch-1.0 "${encode[@]}" "faststart-file=$(quoted "$half.moov")" ! filesink "location=$(quoted "$half")"
) >&"$shown" 2>&1 &
pid=$!
[[ -z $stopped ]] || kill "$pid" 2>/dev/null || true
exec {shown}>&-
status=0
wait "$pid" || status=$?
wait "$show_pid" || true
[[ -z $stopped ]] || { echo "${script##*/}: stopped; there is no $out" >&2 && exit 130; }
[[ $status == 0 && -s $half ]] || { echo "${script##*/}: failed; there is no $out" >&2 && exit 1; }
chmod "$(printf %o $((0666 & ~$(umask))))" "$half"
mv -f -- "$half" "$out"
echo "$out"
