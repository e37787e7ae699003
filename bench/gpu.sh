#!/usr/bin/env bash
# Measures the CUDA backend on this machine's NVIDIA GPU: kernels and whole steps beside their floors, and beside what PyTorch
# has for the same shapes where it is installed, all in one run. Needs no network. Prints a table; JSON lines go to --out.
# usage: bench/gpu.sh [--out DIR] [--bin DIR] [--quick] [--tests]
#   --bin DIR   a build of the preset gpu (default: build/gpu, built first where it is missing)
#   --tests     the kernel and model tests first
set -euo pipefail
cd "$(dirname "$0")/.."

out=gpu-results bin=build/gpu quick=() tests=no
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift ;;
    --bin) bin=$2; shift ;;
    --quick) quick=(--quick) ;;
    --tests) tests=yes ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
  shift
done
mkdir -p "$out"
if [ ! -x "$bin/bench/step_bench" ]; then
  cmake --preset gpu >/dev/null
  cmake --build --preset gpu
  bin=build/gpu
fi
say() { printf '\n== %s\n' "$*"; }

say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo 'no nvidia-smi')"
if [ $tests = yes ]; then
  say "kernel tests"
  shards=$(($(nproc) < 12 ? $(nproc) : 12))
  for i in $(seq 0 $((shards - 1))); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i "$bin/tests/kernels/kernels_test" --gtest_brief=1 >"$out/kernels.$i.log" 2>&1 &
  done
  failed=0
  for job in $(jobs -p); do wait "$job" || failed=1; done
  grep -h 'FAILED  ]\|PASSED  ]' "$out"/kernels.*.log | sort | uniq -c
  [ $failed = 0 ]
  say "model tests"
  "$bin/tests/model/model_test" --gtest_brief=1 --gtest_filter='*DeviceModel*'
fi
say "prefill attention, one layer (32 query, 8 KV heads)"
"$bin/bench/prefill_bench" --speed "${quick[@]}" --json "$out/prefill.json"
python=$(command -v python3 || true)
if [ -n "$python" ] && "$python" -c 'import torch' 2>/dev/null; then
  say "the same shapes in PyTorch"
  "$python" bench/cuda/peers.py "${quick[@]}" --json "$out/peers.json"
fi
say "decode attention and selection, one layer"
"$bin/bench/decode_bench" "${quick[@]}" --json "$out/decode.json"
say "whole model, llama-3-8b shape, random weights"
for kv in kv16 kv8 kv4; do
  "$bin/bench/step_bench" --random-weights llama-3-8b --kv $kv --modes lserve,dense --batch 1,8 --depth 8192,131072 --json "$out/steps.json"
done
"$bin/src/cli/lserve" bench --random-weights llama-3-8b --backend cuda --kv kv8 --max-context 132000 -p 16384,32768,65536,131072 -n 0 -r 1 \
  --modes lserve,dense --json | tee "$out/prefill-whole.json"
