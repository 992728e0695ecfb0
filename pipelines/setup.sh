#!/bin/bash
# Brings what is missing and builds: Debian packages, ONNX Runtime, the plugin. Asks nothing, does nothing twice.
#
#   pipelines/setup.sh [--tests]     --tests also brings what the tests need
#
# Afterwards build/gstreamer-1.0 holds the plugin alone (for GST_PLUGIN_PATH) and build/onnxruntime the library it loads.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/.."

# To build: GStreamer's headers and a C compiler. To run: x264enc is in -ugly, rtmp2sink and hlssink2 in -bad,
# mp4mux and flvmux in -good, decoders for video prompts in -libav, windows for autovideosink in -x.
packages=(
  gcc libc6-dev pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
  gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
  gstreamer1.0-plugins-ugly gstreamer1.0-libav gstreamer1.0-x ffmpeg
)
for argument in "$@"; do
  case $argument in
    --tests) packages+=(nginx libnginx-mod-rtmp) ;;
    --help) sed -n '2,6s/^# \{0,1\}//p' "$script"; exit ;;
    *) echo "setup.sh: \`$argument\` is no option; there are --tests and --help" >&2 && exit 2 ;;
  esac
done

say() { printf '%s\n' "$*" >&2; }

# What is only there for a while, to be removed however this ends.
as_root=() passing=()
trap '((${#passing[@]} == 0)) || "${as_root[@]}" rm -rf "${passing[@]}"' EXIT

install_packages() {
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || { say "setup.sh: neither root nor sudo; install as root: $*"; exit 1; }
    as_root=(sudo)
  fi
  say "Installing $*"
  # A package that is a server must not start one: Debian asks this file, and takes 101 for a no.
  local policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    passing+=("$policy")
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
    "${as_root[@]}" chmod +x $policy
  fi
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends \
    "$@" >&2
  # At once: by the end sudo may ask again, and then nobody is there.
  ((${#passing[@]} == 0)) || "${as_root[@]}" rm -f "${passing[@]}"
  passing=()
}

need_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "setup.sh: this is not Debian; what Debian calls $* must be there already"
    return
  fi
  local missing
  missing=$(comm -23 <(printf '%s\n' "$@" | sort) \
    <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' | sort -u))
  # shellcheck disable=SC2086 # one word a package
  [[ -z $missing ]] || install_packages $missing
}

# Sets `python` to one that has pip; brings one where there is none.
need_pip() {
  for python in python3 python /usr/bin/python3; do
    "$python" -m pip --version >/dev/null 2>&1 && return
  done
  need_packages python3 python3-pip
}

need_onnxruntime() {
  local folder=build/onnxruntime stamp
  stamp="$(sha256sum <pipelines/onnxruntime.txt) $(uname -m)"
  [[ -e $folder/libonnxruntime.so && $(cat $folder/stamp 2>/dev/null) == "$stamp" ]] && return
  case $(uname -m) in
    x86_64 | aarch64) ;;
    *)
      [[ ! -e $folder/libonnxruntime.so ]] || return 0
      say "setup.sh: no ONNX Runtime for $(uname -m) is known here; put its libonnxruntime.so into $folder"
      exit 1
      ;;
  esac
  say "Bringing ONNX Runtime"
  local python wheel
  need_pip
  wheel=$(mktemp -d)
  passing+=("$wheel")
  "$python" -m pip download --quiet --disable-pip-version-check --require-hashes -r pipelines/onnxruntime.txt --no-deps \
    --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 \
    --platform "manylinux_2_27_$(uname -m)" --platform "manylinux_2_28_$(uname -m)" --dest "$wheel" >&2
  "$python" -m zipfile -e "$wheel"/onnxruntime-*.whl "$wheel"
  rm -rf $folder
  mkdir -p $folder
  local libraries=("$wheel"/onnxruntime/capi/libonnxruntime.so.*)
  cp "${libraries[0]}" "$wheel/onnxruntime/LICENSE" "$wheel/onnxruntime/ThirdPartyNotices.txt" $folder
  ln -s "$(basename "${libraries[0]}")" $folder/libonnxruntime.so
  echo "$stamp" >$folder/stamp
}

build_plugin() {
  local cargo
  cargo=$(command -v cargo || echo ~/.cargo/bin/cargo)
  [[ -x $cargo ]] || { say "setup.sh: no cargo; install Rust's toolchain, 1.92 or newer"; exit 1; }
  local target built quiet=--quiet plugin=build/gstreamer-1.0/libgstlatentflow.so
  [[ -e $plugin ]] || { say "Building the plugin; the first time takes some minutes" && quiet=; }
  # shellcheck disable=SC2086 # none or one word
  "$cargo" build $quiet --release --locked --package gst-plugin-latentflow 9>&-
  target=$("$cargo" metadata --no-deps --locked --format-version 1 | grep -o '"target_directory":"[^"]*"' | cut -d'"' -f4)
  built=$target/release/libgstlatentflow.so
  cmp -s "$built" $plugin && return
  mkdir -p build/gstreamer-1.0
  # Moved into place: a pipeline that runs keeps the plugin that it has.
  cp "$built" $plugin.new
  mv $plugin.new $plugin
}

mkdir -p build
exec 9>>build/lock
flock 9
need_packages "${packages[@]}"
need_onnxruntime
build_plugin
