#!/bin/bash
# Measures what Latentflow adds to the bare ONNX sessions, side by side in one run on the same package.
#
#   pipelines/bench.sh [--json] [--model FOLDER] [--seconds 10] [--rounds 3]
#
#   sessions_s           the ONNX graphs alone, on inputs made beforehand
#   library_s            the library to RGB frames, without GStreamer
#   pipeline_s           textsrc ! latentdiffuse ! vaedecode ! fakesink
#   library_ratio        library_s / sessions_s; pipeline_ratio likewise
#   fps, realtime_factor of the pipeline; 1 is real time
#   encoded_realtime_factor  with videoconvert ! x264enc ! mp4mux before fakesink, and queues as in pipelines/text-to-video.sh
#   first_frame_cold_s   from a process's start to the first frame
#   first_frame_warm_s   the same where the sessions are open already
#   peak_rss_mib_10s     memory at most for 10 s of video; peak_rss_mib_60s for 60 s
#
# The times are of the second chunk to the last; the fastest of the rounds counts. Leave the machine alone meanwhile.
set -euo pipefail
arguments=("$@")
for ((i = 0; i < $#; i++)); do
  # A folder is meant from where this was called.
  case ${arguments[i]} in
    --model=*) arguments[i]=--model=$(realpath -- "${arguments[i]#*=}") ;;
    --model) ((i + 1 == $#)) || arguments[i + 1]=$(realpath -- "${arguments[i + 1]}") ;;
  esac
done
script=$(readlink -f "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/.."
[[ ${1-} != --help ]] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$script" | sed '$d'; exit; }
pipelines/setup.sh >&2
[[ -x $(command -v cargo) ]] || PATH=~/.cargo/bin:$PATH
ORT_DYLIB_PATH=$PWD/build/onnxruntime/libonnxruntime.so exec cargo bench --quiet --locked --bench cost -- "${arguments[@]}"
