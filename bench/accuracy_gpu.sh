#!/bin/sh
# Runs a suite of bench/accuracy/ unattended and writes OUT/SUITE.jsonl, .summary.json and .html. The same command goes on where it was cut off.
#
#   bench/accuracy_gpu.sh PROGRAM MODEL OUT [SUITE [SECONDS [CONCURRENCY]]]       quick, 1500, 8
#   bench/accuracy_gpu.sh build/release/src/cli/lserve ~/.cache/lserve/models/smollm2-135m-longctx-q8_0.gguf results grid 21600 16
#
# Needs python3 and nothing else. SECONDS is when no new sample begins; the last ones are finished and the report is written.
# The text: OUT/text.gz if it is there (write it where bible-kjv-text is: lserve eval corpus --out OUT/text.gz), else what the machine has.
set -eu
[ $# -ge 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
program=$1 model=$2 out=$3 suite=${4:-quick} seconds=${5:-1500} concurrency=${6:-8}
mkdir -p "$out"
[ -f "$out/text.gz" ] && export LSERVE_EVAL_TEXT="$out/text.gz"
exec python3 "$here/../tools/eval" suite "$here/accuracy/$suite.json" --lserve "$program" --model "$model" --out "$out/$suite.jsonl" \
  --time-limit "$seconds" --concurrency "$concurrency"
