#!/usr/bin/env python3
"""Times PyTorch's attention (cuDNN, FlashAttention) on the dense shapes of prefill_bench, on the same card:
    peers.py [--quick] [--json FILE]
One line a shape; JSON lines {"case", "backend", "ms", "tflops"}. Causal, bf16, 32 query and 8 KV heads, batch 1. What a
backend or its PyTorch cannot run is left out, with a line that says so.
"""
import argparse
import json

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def milliseconds(run, repeats):
    run()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    out = open(args.json, "w") if args.json else None
    print(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name()}")
    lengths = [8, 32] if args.quick else [8, 16, 32, 64, 128]
    shapes = [(128, k) for k in lengths] + [(64, k) for k in ([16] if args.quick else [8, 32])]
    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION}
    if not args.quick:
        backends["flash"] = SDPBackend.FLASH_ATTENTION
    for dim, k in shapes:
        tokens = k * 1024
        # [tokens][head][D], seen as [head][tokens][D]: how an engine holds them.
        q, key, value = (torch.randn(1, tokens, heads, dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
                         for heads in (32, 8, 8))
        case = f"dense {'D 64 ' if dim == 64 else ''}{k}K"
        for name, backend in backends.items():
            def run():
                with sdpa_kernel(backend):
                    F.scaled_dot_product_attention(q, key, value, is_causal=True, enable_gqa=True)
            try:
                ms = milliseconds(run, 3 if k >= 64 else 7 if k >= 32 else 15)
            except RuntimeError as error:
                print(f"{case:34s} {name}: {str(error).splitlines()[0]}")
                continue
            tflops = 4 * 32 * dim * tokens * tokens / 2 / ms * 1e-9
            print(f"{case:34s} {ms:9.3f} {tflops:9.1f}  {name}")
            if out:
                print(json.dumps({"case": case, "backend": name, "ms": round(ms, 4), "tflops": round(tflops, 1)}), file=out)


if __name__ == "__main__":
    main()
