#!/usr/bin/env bash
# A real model on this machine's GPU, in one call: the same tokens as on the CPU, the golden cases, cached answers bit for bit. Needs
# python3 and nothing else; run it on a machine with an NVIDIA GPU. Tables go to OUT as well. Not run whole yet.
#
#   bench/real_model.sh PROGRAM MODEL [OUT [BACKEND]]            results, cuda
#   bench/real_model.sh build/release/src/cli/lserve ~/.cache/lserve/models/smollm2-135m-longctx results
#
# MODEL is smollm2-135m-longctx as tools/fetch_model.py makes it: prompts and recorded answers are its own. CASES=short asks a few of them.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
cd "$(dirname "$0")/.."
program=$1 model=$2 out=${3:-results} backend=${4:-cuda}
mkdir -p "$out"
port=18099 failed=0

serve() { # FLAGS: waits until the server is healthy
  "$program" serve --model "$model" --port $port --quiet "$@" 2>"$out/server.log" &
  server=$!
  until python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health')" 2>/dev/null; do
    kill -0 $server 2>/dev/null || { cat "$out/server.log"; exit 1; }
    sleep 0.1
  done
}
stop() {
  kill $server
  wait $server || failed=1
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
memory() { nvidia-smi --query-gpu=memory.used --format=csv,noheader 2>/dev/null || true; }

echo "== tokens and probabilities beside the CPU's"
lengths=512,8192,32000 kvs=kv16,kv8,kv4
[ "${CASES:-all}" = all ] || lengths=512 kvs=kv8
serve --backend cpu --weights bf16 --kv kv16
bench/agreement.py record --url http://127.0.0.1:$port --lengths $lengths --out "$out/cpu.json" 2>/dev/null
stop
serve --backend "$backend" --weights bf16 --kv kv16
bench/agreement.py compare --url http://127.0.0.1:$port "$out/cpu.json" --out "$out/agreement.json" | tee "$out/agreement.txt" || failed=1
stop

echo "== golden cases"
serve --backend "$backend" --kv kv16 --max-context 70000
echo "GPU memory before: $(memory)"
if [ "${CASES:-all}" = all ]; then
  bench/golden_cases.py --url http://127.0.0.1:$port --all --concurrency 16 --budget 1024,2048,4096,8192,16384 --out "$out/golden.jsonl" 2>/dev/null |
    tee "$out/golden.txt" || failed=1
else
  bench/golden_cases.py --url http://127.0.0.1:$port --short --concurrency 4 2>/dev/null | tee "$out/golden.txt" || failed=1
fi
echo "GPU memory after: $(memory)"
stop

echo "== answers from the cache, after preemption, after a restart"
bench/cache_answers.py "$program" --model "$model" --backend "$backend" --kv $kvs | tee "$out/cache.txt" || failed=1
exit $failed
