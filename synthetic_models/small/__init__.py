"""A small trained Mixture-of-Experts model: text, tokenizer, training script and the weights themselves.

`model/` holds what ``save_pretrained`` wrote (bfloat16 safetensors and a tokenizer), `README.md` is its model card,
``python -m synthetic_models.small.train`` makes it again.
"""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
