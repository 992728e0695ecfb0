#!/bin/bash
# Streams a prompt to an RTMP server, in real time, until Ctrl-C: H.264, and silence as AAC, which servers expect.
#
#   pipelines/rtmp.sh [OPTIONS] rtmp://SERVER/APP/KEY PROMPT
#
#   --seconds 60       how long; for ever unless said
#   --size 256x160     width and height; the model's own unless said
#   --fps 24           frames a second; the model's own unless said
#   --seed 7           another seed, another video
#   --steps 2          denoising steps; fewer are faster
#   --model FOLDER     another model than the one built in
#
#   pipelines/rtmp.sh rtmp://localhost/live/cat "a cat on a windowsill at sunset"
. "$(dirname "$(readlink -f "$0")")/common.sh"

parse_arguments "$@"
((${#words[@]} == 2)) || die "a server's URL and a PROMPT are needed; --help shows how"
url=${words[0]} prompt=${words[1]}
[[ $url =~ ^rtmps?://[^/[:space:]]+/[^/[:space:]]+/[^[:space:]]+$ ]] || die "\`$url\` is not of the form rtmp://SERVER/APP/KEY"
[[ $prompt == *[![:space:]]* ]] || die "the prompt is empty"
check_options
setup
compose "$prompt"
rate=${fps:-24/1}
# Sound that goes on would keep the stream open when the pictures have ended. A buffer has 1024 samples.
silence=(audiotestsrc wave=silence)
[[ -z $seconds ]] || silence+=("num-buffers=$(awk -v s="$seconds" 'BEGIN { printf "%d", s * 44100 / 1024 + 1 }')")

# shellcheck disable=SC2054 # commas are gst-launch's
launch=(
  "${generate[@]}" ! video/x-raw,format=I420
  # A key frame every two seconds, at 24 frames a second unless --fps says: that long a viewer who joins waits for a picture.
  ! x264enc tune=zerolatency speed-preset=veryfast bitrate=2000 key-int-max=$((2 * ${rate%/*} / ${rate#*/})) ! h264parse ! queue ! mux.
  "${silence[@]}" ! audio/x-raw,rate=44100,channels=2 ! voaacenc ! aacparse ! queue ! mux.
  # In step with the clock, sound and picture together.
  flvmux name=mux streamable=true ! rtmp2sink "location=$(quoted "$url")" sync=true
)
print_launch -e "${launch[@]}"
# -e: Ctrl-C ends the stream as its last frame would.
exec {shown}> >(show)
echo $$ >&"$shown"
exec gst-launch-1.0 -e "${launch[@]}" >&"$shown" 2>&1
