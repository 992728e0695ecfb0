#!/bin/bash
# Lays frames of a video out as a PNG, to see a whole video at a glance.
#
#   pipelines/contact-sheet.sh VIDEO OUT.png [COLUMNSxROWS]
#
# The frames, 16 in 4x4 unless said, are spread evenly from the first to the last.
. "$(dirname "$(readlink -f "$0")")/common.sh"

parse_arguments "$@"
((${#words[@]} == 2 || ${#words[@]} == 3)) || die "a VIDEO and a file OUT.png are needed; --help shows how"
video=${words[0]} out=${words[1]} grid=${words[2]:-4x4}
[[ -r $video && -f $video ]] || die "\`$video\` is no file that can be read"
video=file:$video
[[ $out == *.png ]] || die "the file is \`$out\`; it has to end in .png"
[[ $grid =~ ^[1-9][0-9]?x[1-9][0-9]?$ ]] || die "the grid is \`$grid\`; COLUMNSxROWS is needed, such as 4x4"
command -v ffmpeg >/dev/null || setup

frames=$(ffprobe -v error -count_packets -select_streams v:0 -show_entries stream=nb_read_packets -of csv=p=0 "$video") || true
[[ ${frames%%,*} =~ ^[1-9][0-9]*$ ]] || die "\`${words[0]}\` holds no video"
frames=${frames%%,*} wanted=$((${grid%x*} * ${grid#*x}))
((wanted < frames)) || wanted=$frames
# Frame n is taken where the next of the evenly spread ones is reached.
last=$((wanted > 1 ? wanted - 1 : 1))
ffmpeg -v error -y -i "$video" -frames:v 1 -update 1 \
  -vf "select='gte(n,round(selected_n*($frames-1)/$last))',scale=iw*sar:ih,tile=$grid:padding=4:margin=4" "file:$out" \
  || die "\`$out\` could not be made"
echo "$out"
