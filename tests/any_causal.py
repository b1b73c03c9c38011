"""Causal models that slots of different lengths cannot serve, small enough for a test, in Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.shapes import SMALL, SPECIAL

TOGETHER = ["bloom", "mpt", "falcon", "gpt_neo", "llama4", "mamba", "mamba2", "jamba", "lfm2"]
"""Sequences of one length go through these together, in the model's own cache."""
ALONE = ["rwkv", "xlstm"]
"""The state of these is of one sequence: RWKV mixes up the rows of a batch in it, xLSTM's cache cannot be divided."""
AGAIN = ["recurrent_gemma", "openai-gpt"]
"""These keep their state in the model itself, or keep none."""


def model_of(kind: str, vocabulary: int, seed: int = 0) -> Any:
    """Two to four layers, weights large enough that the next token is not a coin toss; no dropout."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    ids = {**SPECIAL, "vocab_size": vocabulary}
    llama = {**SMALL, "max_position_embeddings": 64}
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    recurrent = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    shapes: dict[str, dict[str, Any]] = {
        # With its embeddings for a head it would say one token over and over.
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2, "tie_word_embeddings": False},
        "mpt": {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 64},
        "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "alibi": True},
        "gpt_neo": {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
        },
        "llama4": {
            **llama,
            "intermediate_size_mlp": 48,
            "head_dim": 16,
            "num_local_experts": 2,
            "attention_chunk_size": 4,
            "no_rope_layer_interval": 2,
        },
        "mamba": recurrent,
        "mamba2": {**recurrent, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
        "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "rescale_every": 1},
        "jamba": {**llama, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4},
        "lfm2": {**llama, "layer_types": ["conv", "full_attention"]},
        "recurrent_gemma": {**llama, "attention_window_size": 16, "block_types": ["recurrent", "attention"]},
        "xlstm": {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 2, "autocast_kernel_dtype": "float32"},
        "openai-gpt": {**gpt, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    }
    name = "llama4_text" if kind == "llama4" else kind
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **ids, **shapes[kind]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0 if "mamba" in kind else 4.0)
    return model.eval()


def write_causal(folder: Path, tokenizer_of: Path, kind: str) -> Path:
    """A policy of this kind in `folder`; the tokenizer is that of another model."""
    from prefloop.models.load import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_of)
    model_of(kind, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
