"""Prune a language model and save a checkpoint that plain transformers loads.

python examples/prune_llm.py --model small --pruning_ratio 0.5 --save_model pruned
python examples/prune_llm.py --model Qwen/Qwen3-30B-A3B --pruning_ratio 0.25 --device auto --save_model pruned
"""

import argparse
import sys

import moeverify as mv


def main() -> int:
    parser = argparse.ArgumentParser(description="Prune a Mixture-of-Experts model and save the smaller checkpoint.")
    parser.add_argument("--model", required=True, help="checkpoint folder, hub name, small or zoo:TYPE")
    parser.add_argument("--pruning_ratio", type=float, default=0.5, help="share of the channels to remove")
    parser.add_argument("--save_model", required=True, help="folder for the pruned checkpoint")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that is there")
    args = parser.parse_args()
    try:
        done = mv.prune_checkpoint(
            args.model,
            args.save_model,
            pruning_ratio=args.pruning_ratio,
            round_to=4,
            device=args.device,
            overwrite=args.overwrite,
        )
    except mv.MoEVerifyError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{done.parameters_before:,} -> {done.parameters_after:,} parameters, saved in {done.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
