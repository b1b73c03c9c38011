"""A language small enough to train on in seconds: a dozen words, a GPT-2 of one layer, and random answers in it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

EOS = "<eos>"


def write_policy(folder: Path, words: Sequence[str], *, width: int = 32, seed: int = 0) -> Path:
    """A policy that has learned nothing, with one token for each word, in Hugging Face layout."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([EOS, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    torch.manual_seed(seed)
    shape = {"n_embd": width, "n_layer": 1, "n_head": 2, "n_positions": 32}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(vocabulary), eos_token_id=0, bos_token_id=0, **shape, **dropout))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_answer(words: Sequence[str], rng: random.Random, longest: int) -> str:
    """One to `longest` words, each as likely as the others."""
    return " ".join(rng.choices(words, k=rng.randint(1, longest)))
