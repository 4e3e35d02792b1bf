"""The small model's tokenizer: one token a word, divided by white space."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from synthetic_models.small.text import END, vocabulary


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Padding is 0, the unknown token 1, and ``.`` ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<pad>", "<unk>", *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token=END,
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )
