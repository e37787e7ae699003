#!/usr/bin/env bash
# Formats the C++ files of the repository with the pinned clang-format (another version would format a little differently).
# usage: tools/format.sh [--check]      --check changes nothing, names the files that differ and fails if there are any
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/setup.sh

clang_format=$lserve_cache/venv/bin/clang-format
[ -x "$clang_format" ] || die "$clang_format is missing; ./check installs it"
mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.cc' '*.h')
if [ "${1:-}" != --check ]; then
  "$clang_format" -i "${files[@]}"
  exit
fi
differing=()
for file in "${files[@]}"; do
  [ ! -e "$file" ] || "$clang_format" "$file" | cmp -s - "$file" || differing+=("$file")
done
[ ${#differing[@]} = 0 ] || die "not formatted (tools/format.sh mends it): ${differing[*]}"
echo "${#files[@]} files are formatted"
