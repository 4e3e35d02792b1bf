"""Prune a model and check the outcome; the table on the terminal, a report beside it.

python examples/test_moe_pruning.py --model small --pruning_ratio 0.5
python examples/test_moe_pruning.py --model Qwen/Qwen1.5-MoE-A2.7B --pruning_ratio 0.5 --cache_dir /data/hub
"""

import argparse
import os
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description="Prune a Mixture-of-Experts model and check the outcome.")
    parser.add_argument("--model", required=True, help="checkpoint folder, hub name, small or zoo:TYPE")
    parser.add_argument("--pruning_ratio", type=float, default=0.5, help="share of the channels to remove")
    parser.add_argument("--cache_dir", help="where hub models are kept")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16, float16 or float64")
    parser.add_argument("--report", default="reports/test_moe_pruning", help="folder of the report")
    args = parser.parse_args()
    if args.cache_dir:
        os.environ["HF_HUB_CACHE"] = args.cache_dir  # read when the hub's client is imported

    import moeverify as mv

    try:
        result = mv.verify(
            args.model,
            pruning_ratio=args.pruning_ratio,
            device=args.device,
            dtype=args.dtype,
            timeout=3600,
            memory=1000,
            report=args.report,
        )
    except mv.MoEVerifyError as error:
        print(error, file=sys.stderr)
        return 2
    for verdict in result.verdicts:
        print(f"{verdict.check:22} {verdict.status:8} {verdict.message}")
    print(f"{'PASSED' if result.ok else 'FAILED'}: {result.summary}; report: {args.report}/report.html")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
