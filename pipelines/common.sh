# Read by the scripts beside it: options, the plugin's place, and gst-launch's output as people like to see it.
# shellcheck shell=bash
set -euo pipefail

script=$(readlink -f "$0")
root=$(dirname "$(dirname "$script")")

# Ends with one line that says what is wrong.
die() {
  printf '%s: %s\n' "${script##*/}" "$*" >&2
  exit 2
}

# Prints the script's head comment.
help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script"
  exit
}

# Builds what is missing and lets GStreamer find the plugin.
setup() {
  "$root/pipelines/setup.sh" || exit
  export GST_PLUGIN_PATH=$root/build/gstreamer-1.0${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}
}

# Sorts "$@" into `words` and the options that all scripts have; checks each.
words=() seconds='' size='' seed='' steps='' fps='' model=''
parse_arguments() {
  local option value
  while (($#)); do
    option=$1
    shift
    case $option in
      -h | --help) help ;;
      --) words+=("$@") && break ;;
      --*=*) value=${option#*=} option=${option%%=*} ;;
      --*) (($#)) || die "$option needs a value" && value=$1 && shift ;;
      *) words+=("$option") && continue ;;
    esac
    case $option in
      --seconds) seconds=$value ;;
      --size) size=$value ;;
      --seed) seed=$value ;;
      --steps) steps=$value ;;
      --fps) fps=$value ;;
      --model) model=$value ;;
      *) die "$option is no option; there are --seconds, --size, --seed, --steps, --fps, --model and --help" ;;
    esac
  done
}

check_options() {
  local even='^[1-9][0-9]*[02468]$|^[2468]$'
  [[ -z $seconds || $seconds =~ ^[0-9]+(\.[0-9]+)?$ && ! $seconds =~ ^[0.]*$ ]] \
    || die "--seconds is \`$seconds\`; a number over 0 is needed, such as 5 or 2.5"
  [[ -z $size || $size == *x* && ${size%%x*} =~ $even && ${size#*x} =~ $even ]] \
    || die "--size is \`$size\`; WIDTHxHEIGHT in even numbers is needed, such as 256x160"
  [[ -z $seed || $seed =~ ^[0-9]+$ ]] || die "--seed is \`$seed\`; a whole number is needed"
  [[ -z $steps || $steps =~ ^[1-9][0-9]*$ ]] || die "--steps is \`$steps\`; a whole number over 0 is needed"
  [[ -z $fps || $fps =~ ^[1-9][0-9]*(/[1-9][0-9]*)?$ ]] || die "--fps is \`$fps\`; 24 or 30000/1001 would do"
  [[ -z $model || -d $model ]] || die "--model is \`$model\`; that is no folder"
}

# Prints "$1" as a value that gst-launch reads back as it is, but for backslashes at the end, which would escape its quote.
quoted() {
  local value=$1
  while [[ $value == *\\ ]]; do value=${value%\\}; done
  value=${value//\\/\\\\}
  printf '"%s"' "${value//\"/\\\"}"
}

# Sets `generate`: from the prompt "$1" to raw video, in gst-launch's words.
compose() {
  local caps=video/x-raw
  # A queue between two elements lets them work at the same time.
  generate=(textsrc "prompt=$(quoted "$1")")
  [[ -z $model ]] || generate+=("model=$(quoted "$model/")")
  [[ -z $seconds ]] || generate+=("duration=$(awk -v s="$seconds" 'BEGIN { printf "%.0f", s * 1e9 }')")
  generate+=(! latentdiffuse)
  [[ -z $seed ]] || generate+=("seed=$seed")
  [[ -z $steps ]] || generate+=("num-inference-steps=$steps")
  [[ -z $size ]] || caps+=",width=${size%%x*},height=${size#*x}"
  [[ -z $fps ]] || { [[ $fps == */* ]] || fps+=/1; caps+=",framerate=$fps"; }
  generate+=(! queue ! vaedecode ! "$caps" ! queue ! videoconvert)
}

# Prints the launch line as one would type it.
print_launch() {
  local word line=gst-launch-1.0
  for word in "$@"; do
    [[ $word =~ ^[[:alnum:]_./:=,+@%!-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  printf '%s\n' "$line" >&2
}

# Shows what gst-launch prints: progress on one live line of a terminal, errors and warnings without their decoration. The
# first line that it reads is gst-launch's process: an error in the first moment can be lost on gst-launch (1.22), which
# then waits for ever, and so it is ended here.
show() {
  trap '' INT
  local process line text code live='' clear='' skip='' deadline='' kind='^(ERROR|WARNING): from element [^ ]*:([^: ]+): (.*)$'
  [[ -t 2 ]] && clear=$'\r\e[K'
  read -r process
  while :; do
    code=0
    IFS= read -r ${deadline:+-t 1} line || code=$?
    if [[ $deadline && $SECONDS -ge $deadline ]]; then
      kill "$process" 2>/dev/null || true
      deadline=''
    fi
    ((code <= 128)) || continue
    ((code == 0)) || break
    case $line in
      Progress:*)
        text=${line#*) }
        if [[ $clear ]]; then printf '%s%s' "$clear" "${text:0:$((${COLUMNS:-80} - 1))}" && live=1; else printf '%s\n' "$text"; fi
        continue
        ;;
      'Setting pipeline'* | 'Pipeline is'* | 'Prerolled, waiting'* | 'Redistribute latency'* | 'New clock'* | 'Got EOS'* | \
        'EOS received'* | 'EOS on shutdown'* | 'Execution ended'* | 'Freeing pipeline'* | 'Use Windows'* | 'handling interrupt'* | \
        'Interrupt: Stopping'* | 'Waiting for EOS'* | '' | 'ERROR: pipeline doesn'* | ?:??:??.?' / '* | 'Got context'*)
        continue
        ;;
      'Additional debug info:') skip=1 && continue ;;
      ERROR:*) deadline=$((SECONDS + 5)) ;;
    esac
    # The line after "Additional debug info:" says where in the source an error was raised.
    [[ $skip ]] && skip='' && continue
    [[ $live ]] && echo && live=''
    if [[ $line =~ $kind ]]; then printf '%s: %s: %s\n' "${BASH_REMATCH[@]:1}"; else printf '%s\n' "$line"; fi
  done >&2
  [[ $live ]] && echo >&2
  return 0
}
