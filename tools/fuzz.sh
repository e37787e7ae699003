#!/usr/bin/env bash
# Builds the fuzz targets with clang's libFuzzer, replays each corpus of tests/fuzz/corpus, then fuzzes each target.
# usage: tools/fuzz.sh SECONDS [TARGET...]      SECONDS a target; 0: corpora only
# A finding stays as build/fuzz/findings/TARGET-*; it belongs into the corpus once its bug is mended.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/setup.sh

seconds=${1:?usage: tools/fuzz.sh SECONDS [TARGET...]}
shift

install_packages "${build_packages[@]}"
for version in 16 17 18 19 15 14; do  # 16 is the one CI knows; the others stand in where a distribution lacks it
  if command -v clang++-$version >/dev/null || [ -n "$(first_available clang-$version)" ]; then break; fi
done
runtime=$(first_available libclang-rt-$version-dev)
install_packages clang-$version ${runtime:+"$runtime"}

cmake --preset fuzz -DCMAKE_C_COMPILER=clang-$version -DCMAKE_CXX_COMPILER=clang++-$version >/dev/null
cmake --build --preset fuzz

findings=build/fuzz/findings
mkdir -p $findings
mapfile -t targets < <(find build/fuzz/tests/fuzz -maxdepth 1 -type f -executable -name '*_fuzz' | sort)
[ ${#targets[@]} -gt 0 ] || die "build/fuzz/tests/fuzz has no *_fuzz program"
for target in "${targets[@]}"; do
  name=$(basename "$target" _fuzz)
  if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
  corpus=tests/fuzz/corpus/$name
  [ -d "$corpus" ] || die "$corpus is missing: every fuzz target starts from a corpus"
  say "$name: $(find "$corpus" -type f | wc -l) files of the corpus, then $seconds s"
  options=(-artifact_prefix="$findings/$name-" -rss_limit_mb=2048 -timeout=20 -max_len=262144)
  "$target" "${options[@]}" -runs=0 "$corpus" 2>&1 | tail -n 3
  if [ "$seconds" -gt 0 ]; then
    grown=build/fuzz/grown/$name  # what a run learns is kept here, not in the repository
    mkdir -p "$grown"
    "$target" "${options[@]}" -max_total_time="$seconds" -print_final_stats=1 "$grown" "$corpus" 2>&1 | tail -n 8
  fi
done
