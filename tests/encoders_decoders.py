"""Encoder-decoders small enough for a test, with the tiny model's tokenizer, in Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

KINDS = ["t5", "bart"]


def model_of(kind: str, vocabulary: int, seed: int = 0) -> Any:
    """A layer or two on each side, weights large enough that the next token is not a coin toss; no dropout."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
    if kind == "t5":
        shape = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
        model: Any = T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **shape, **ids))
    else:
        sides = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 48))}
        sides |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "forced_eos_token_id": None}
        shape = {"d_model": 32, "max_position_embeddings": 64, "dropout": 0.0, **sides}
        model = BartForConditionalGeneration(BartConfig(vocab_size=vocabulary, **shape, **ids))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0 if kind == "bart" else 1.5)
    return model.eval()


def write_encoder_decoder(folder: Path, tokenizer_of: Path, kind: str = "t5") -> Path:
    """A policy with an encoder in `folder`; the tokenizer is that of another model."""
    from prefloop.models.load import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_of)
    model_of(kind, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
