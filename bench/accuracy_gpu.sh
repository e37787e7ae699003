#!/bin/sh
# Runs the lanes of a suite of bench/accuracy/ at once, unattended: OUT/SUITE-LANE.jsonl, and of all together a table, OUT/SUITE.summary.json and
# OUT/SUITE.html. The same command goes on where it was cut off.
#
#   bench/accuracy_gpu.sh PROGRAM MODEL OUT [SUITE [SECONDS [CONCURRENCY [GPUS]]]]       smollm2, 1500, 16, 1
#   bench/accuracy_gpu.sh build/release/src/cli/lserve ~/.cache/lserve/models/smollm2-135m-longctx results smollm2 21600 16 2
#
# Needs python3 and nothing else. SECONDS is when no new sample begins; the last ones get a minute, then lanes are ended. REPORT=no leaves the
# report out (lserve eval report OUT/SUITE-*.jsonl makes it anywhere). FLAGS: more flags for every server, as in "--server-flag=--backend=cpu".
# The text: OUT/text.gz if it is there (write it where bible-kjv-text is: lserve eval corpus --out OUT/text.gz), else what the machine has.
set -eu
[ $# -ge 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
program=$1 model=$2 out=$3 suite=${4:-smollm2} seconds=${5:-1500} concurrency=${6:-16} gpus=${7:-1}
mkdir -p "$out"
[ -f "$out/text.gz" ] && export LSERVE_EVAL_TEXT="$out/text.gz"
[ "${REPORT:-yes}" = yes ] && report=--report || report=--no-report
# shellcheck disable=SC2086
exec python3 "$here/../tools/eval" suite "$here/accuracy/$suite.json" --parallel --lserve "$program" --model "$model" --out "$out/$suite" \
  --time-limit "$seconds" --grace 60 --concurrency "$concurrency" --gpus "$gpus" $report ${FLAGS:-}
