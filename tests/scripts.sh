#!/bin/bash
# The scripts in pipelines/, run as users run them, with a package of a few kilobytes. tests/run.sh has set up for them.
#
#   tests/scripts.sh [TEST]
#
# shellcheck disable=SC2016 # backquotes in messages are meant
set -uo pipefail
root=$(dirname "$(dirname "$(readlink -f "$0")")")
model=$root/tests/data/packages/tiny-stream
# "$@" ends with "$status", and its last line is "$line".
ends_with() {
  local status=$1 line=$2 found code=0
  shift 2
  found=$("$@" 2>&1 </dev/null) || code=$?
  [[ $code == "$status" && ${found##*$'\n'} == "$line" ]] || { echo "$* ended with $code: $found" && return 1; }
}

# Prints the fields "$1" of the video in "$2".
video() { ffprobe -v error -of csv=p=0 -count_frames -select_streams v:0 -show_entries "stream=$1" "$2"; }

text_to_video() { "$root/pipelines/text-to-video.sh" "$@" </dev/null; }

a_prompt_becomes_an_mp4() {
  text_to_video "a dog runs in the snow" dog.mp4 --model "$model" --seconds 2.5 --size 256x160 --fps 24 --seed 7 --steps 3
  [[ $(ls -A) == dog.mp4 ]]
  [[ $(video codec_name,width,height,pix_fmt,r_frame_rate,nb_read_frames dog.mp4) == h264,256,160,yuv420p,24/1,60 ]]
  # Faststart: the index comes before the pictures, so that a player on the web need not wait for the end.
  [[ $(grep -aob -m1 moov dog.mp4 | head -n1 | cut -d: -f1) -lt $(grep -aob mdat dog.mp4 | head -n1 | cut -d: -f1) ]]
  [[ $(stat -c %a dog.mp4) == "$(printf %o $((0666 & ~$(umask))))" ]]
}

a_length_alone_takes_the_models_size() {
  text_to_video 一只红色的猫 "猫 1.mp4" 1 --model "$model"
  [[ $(video width,height,nb_read_frames "猫 1.mp4") == 64,48,24 ]]
}

the_launch_line_that_is_shown_works() {
  text_to_video "a red cat" cat.mp4 1 --model "$model" --seed 3 2>log
  mv cat.mp4 first.mp4
  sed -n 's/^gst-launch-1.0/& -q/p' log >line
  GST_PLUGIN_PATH=$root/build/gstreamer-1.0 sh line
  cmp <(ffmpeg -v error -i first.mp4 -f rawvideo -) <(ffmpeg -v error -i cat.mp4 -f rawvideo -)
}

odd_characters_in_a_prompt_are_text() {
  text_to_video 'a "red" cat ! (50%) \ '"it's"' $HOME; `id` \' 'a "b" \ '"c's.mp4" 0.5 --model "$model" --seed 1
  [[ -s 'a "b" \ '"c's.mp4" ]]
}

progress_is_plain_lines_when_nobody_watches() {
  text_to_video red red.mp4 2 --model "$model" >out 2>log
  [[ $(cat out) == red.mp4 ]]
  [[ $(grep -c $'\r' log) == 0 ]]
  grep -q 'chunk' log && grep -q '%' log
  [[ $(grep -cE 'Setting pipeline|Progress:|debug info' log) == 0 ]]
}

progress_is_one_live_line_on_a_terminal() {
  script -qec "'$root/pipelines/text-to-video.sh' red red.mp4 2 --model '$model'" /dev/null </dev/null >log
  grep -q $'\r\e\\[K.*%' log
  [[ -s red.mp4 ]]
}

bad_arguments_are_told_in_one_line() {
  local name=text-to-video.sh
  for case in \
    'a PROMPT and a file OUT.mp4 are needed; --help shows how|red' \
    'the file is `red.avi`; it has to end in .mp4|red|red.avi' \
    '`/nowhere` is no folder that can be written to|red|/nowhere/red.mp4' \
    '--size is `63x48`; WIDTHxHEIGHT in even numbers is needed, such as 256x160|red|red.mp4|--size|63x48' \
    '--seconds is `0`; a number over 0 is needed, such as 5 or 2.5|red|red.mp4|0' \
    '--seconds is `-1`; a number over 0 is needed, such as 5 or 2.5|red|red.mp4|--seconds=-1' \
    '--seed is `x`; a whole number is needed|red|red.mp4|--seed|x' \
    '--steps is `0`; a whole number over 0 is needed|red|red.mp4|--steps|0' \
    '--fps is `fast`; 24 or 30000/1001 would do|red|red.mp4|--fps|fast' \
    '--model is `/nowhere`; that is no folder|red|red.mp4|--model|/nowhere' \
    '--seed needs a value|red|red.mp4|--seed' \
    'the prompt is empty| |red.mp4'; do
    local message=${case%%|*} arguments
    IFS='|' read -ra arguments <<<"${case#*|}"
    ends_with 2 "$name: $message" "$root/pipelines/$name" "${arguments[@]}"
  done
  ends_with 2 'rtmp.sh: `localhost` is not of the form rtmp://SERVER/APP/KEY' "$root/pipelines/rtmp.sh" localhost red
  ends_with 2 'setup.sh: `--all` is no option; there are --tests and --help' "$root/pipelines/setup.sh" --all
  [[ -z $(ls -A) ]]
}

a_failure_leaves_nothing() {
  mkdir empty
  ends_with 1 "text-to-video.sh: failed; there is no red.mp4" \
    "$root/pipelines/text-to-video.sh" red red.mp4 --model empty
  ends_with 1 "text-to-video.sh: failed; there is no red.mp4" \
    "$root/pipelines/text-to-video.sh" red red.mp4 --model "$model" --size 2048x2048
  # What stands for a full disk: no file may be larger than this.
  (ulimit -f 8 && text_to_video "a red cat" red.mp4 20 --model "$model" --size 256x256) && return 1
  [[ $(ls -A) == empty ]]
}

a_failure_says_why() {
  mkdir empty
  text_to_video red red.mp4 --model empty 2>log && return 1
  [[ $(grep -c '^ERROR: ' log) == 1 ]]
  grep -q '^ERROR: textsrc0: .*model.toml' log
}

an_older_video_stays_until_the_new_one_is_whole() {
  echo old >red.mp4
  text_to_video red red.mp4 --model "$model" --size 2048x2048 && return 1
  [[ $(cat red.mp4) == old ]]
  text_to_video red red.mp4 0.5 --model "$model"
  [[ $(video nb_read_frames red.mp4) == 12 ]]
}

stopping_ends_it_and_leaves_nothing() {
  for signal in INT TERM; do
    # A million frames: only the signal ends it.
    set -m
    "$root/pipelines/text-to-video.sh" red red.mp4 40000 --model "$model" --size 512x512 >log 2>&1 </dev/null &
    local pid=$! status=0
    set +m
    for _ in {1..200}; do grep -q '%' log && break; sleep 0.1; done
    kill -$signal -- "-$pid"
    wait $pid || status=$?
    [[ $status == 130 ]]
    grep -q 'stopped; there is no red.mp4' log
    rm log
  done
  [[ -z $(ls -A) ]]
}

setting_up_again_changes_nothing() {
  local before
  before=$(find "$root/build" -type f -printf '%p %T@ %s\n' | sort)
  "$root/pipelines/setup.sh"
  [[ $(find "$root/build" -type f -printf '%p %T@ %s\n' | sort) == "$before" ]]
}

memory_is_a_table_over_size_length_and_keep_loaded() {
  "$root/pipelines/memory.sh" --model "$model" --sizes "64x48 96x64" --frames 5 --fps 24 >table
  [[ $(awk 'NR > 1 && $4 > 20 { print $1, $2, $3 }' table) == $'64x48 5 true\n64x48 5 false\n96x64 5 true\n96x64 5 false' ]]
  ends_with 2 'memory.sh: --frames holds `x`; whole numbers over 0 are needed, such as "9 17"' "$root/pipelines/memory.sh" --frames x
  ends_with 2 'memory.sh: --size is no option; --help lists them' "$root/pipelines/memory.sh" --size 64x48
}

a_contact_sheet_shows_the_whole_video() {
  ffmpeg -v error -f lavfi -i "testsrc=duration=2:size=64x48:rate=24" -c:v libx264 test.mp4
  "$root/pipelines/contact-sheet.sh" test.mp4 sheet.png 3x2
  [[ $(video width,height sheet.png) == 208,108 ]]
  # One frame is a video too.
  ffmpeg -v error -i test.mp4 -frames:v 1 one.mp4
  "$root/pipelines/contact-sheet.sh" one.mp4 one.png 1x1
  cp one.mp4 'a: b.mp4'
  "$root/pipelines/contact-sheet.sh" 'a: b.mp4' 'a: c.png' 1x1
  [[ -s 'a: c.png' ]]
  ends_with 2 'contact-sheet.sh: `nowhere.mp4` is no file that can be read' \
    "$root/pipelines/contact-sheet.sh" nowhere.mp4 sheet.png
}

# Starts nginx on a free port; sets `nginx` (its process) and `url`.
start_nginx() {
  local port
  mkdir -p recorded
  for _ in {1..20}; do
    port=$((20000 + RANDOM % 20000))
    cat >nginx.conf <<CONF
load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
daemon off;
master_process off;
pid $PWD/nginx.pid;
events {}
rtmp {
  server {
    listen 127.0.0.1:$port;
    application live { live on; record all; record_path $PWD/recorded; }
  }
}
CONF
    nginx -p "$PWD" -e "$PWD/nginx.log" -c "$PWD/nginx.conf" &
    nginx=$! url=rtmp://127.0.0.1:$port/live
    for _ in {1..50}; do
      (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && kill -0 $nginx && return
      kill -0 $nginx 2>/dev/null || break
      sleep 0.1
    done
  done
  cat nginx.log
  return 1
}

# The packets of the stream "$2" of "$1": in order, "$3" a second apart on average, none twice as far.
in_step() {
  ffprobe -v error -of csv=p=0 -select_streams "$2" -show_entries packet=dts_time "${@:4}" "$1" | awk -F, -v stream="$2" -v step="$3" '
    $1 == "" { next }
    n > 0 && ($1 <= last || $1 - last > 2 * step) { print stream " goes from " last " to " $1; bad = 1 }
    n == 0 { first = $1 }
    { last = $1; n += 1 }
    END {
      mean = n > 1 ? (last - first) / (n - 1) : 0
      if (n < 24 || mean < 0.98 * step || mean > 1.02 * step) { print stream ": " n " packets, " mean " apart"; bad = 1 }
      exit bad
    }'
}

an_rtmp_server_gets_sound_and_pictures_in_real_time() {
  start_nginx
  trap 'kill $nginx $stream 2>/dev/null || true' EXIT
  local status=0 began
  set -m
  "$root/pipelines/rtmp.sh" "$url/cat" "a red cat" --model "$model" --fps 24 >log 2>&1 </dev/null &
  stream=$!
  set +m
  # A viewer who comes while it runs.
  for _ in {1..100}; do
    ffprobe -v error -rw_timeout 2000000 -read_intervals %+1 -show_entries stream=codec_name -of csv=p=0 "$url/cat" >codecs 2>probe.log && break
    sleep 0.2
  done
  cat log
  [[ $(sort codecs | tr '\n' ' ') == "aac h264 " ]]
  began=$(date +%s%N)
  in_step "$url/cat" v 0.0416667 -read_intervals %+4
  # Four seconds of it take four seconds, give or take what the server keeps for those who join.
  local took=$((($(date +%s%N) - began) / 1000000))
  echo "four seconds came in $took ms"
  ((took > 2000 && took < 9000))
  # Ctrl-C ends it as the last frame would.
  kill -INT -- "-$stream"
  wait $stream || status=$?
  echo "ended with $status" && cat log
  [[ $status == 0 ]]
  sleep 0.5
  in_step recorded/cat.flv v 0.0416667
  in_step recorded/cat.flv a 0.0232200
}

a_stream_of_a_length_ends_by_itself() {
  start_nginx
  trap 'kill $nginx 2>/dev/null || true' EXIT
  timeout 40 "$root/pipelines/rtmp.sh" "$url/cat" "a red cat" --model "$model" --fps 24 --seconds 2 </dev/null
  sleep 0.5
  [[ $(ffprobe -v error -of csv=p=0 -count_packets -select_streams v -show_entries stream=nb_read_packets recorded/cat.flv) == 48 ]]
}

a_server_that_is_not_there_is_an_error() {
  "$root/pipelines/rtmp.sh" rtmp://127.0.0.1:9/live/cat red --model "$model" >log 2>&1 </dev/null && return 1
  cat log
  [[ $(grep -c '^ERROR: ' log) == 1 ]]
}

# One test, in the folder where it is: the first command that fails ends it.
if (($#)); then
  set -e
  "$1"
  exit
fi

work=$(mktemp -d) passed=0 failed=0
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2013 # names are words
for test in $(sed -n 's/^\([a-z0-9]*_[a-z0-9_]*\)() {$/\1/p' "$0"); do
  case $test in ends_with | text_to_video | start_nginx | in_step) continue ;; esac
  mkdir "$work/$test"
  # Nothing here takes so long: it hangs.
  if (cd "$work/$test" && timeout --kill-after=5 120 "$root/tests/scripts.sh" "$test") >"$work/log" 2>&1; then
    echo "test scripts::$test ... ok"
    passed=$((passed + 1))
  else
    echo "test scripts::$test ... FAILED"
    sed 's/^/  /' "$work/log"
    failed=$((failed + 1))
  fi
done
((failed == 0)) && verdict=ok || verdict=FAILED
echo "test result: $verdict. $passed passed; $failed failed"
((failed == 0))
