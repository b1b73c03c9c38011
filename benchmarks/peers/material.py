"""What both sides work on: a 12.5 M Llama with random weights, and texts as long as those of Anthropic's HH.

The lengths are quantiles of the 4,637 pairs of helpful-base, harmless-base and helpful-online in the tokens of
prefloop's built-in tokenizer (4,096 entries), times 0.77: so a completion has 61 tokens on average, 141 at the 90th
percentile and 540 at most, as with a vocabulary of 8,192.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

VOCABULARY = 8192
POSITIONS = 1024
SCALE = 0.77
LONGEST_PROMPT, LONGEST_COMPLETION = 480, 540
PERCENTILES = (0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 98, 99, 99.5, 100)
HH_PROMPTS = (
    15,
    24,
    27,
    30,
    34,
    42,
    61,
    83,
    101,
    120,
    140,
    158,
    181,
    205,
    232,
    267,
    304,
    354,
    428,
    571,
    743,
    913,
    1118,
)
HH_COMPLETIONS = (2, 9, 13, 16, 20, 24, 28, 33, 38, 44, 51, 59, 68, 79, 91, 105, 125, 150, 187, 250, 327, 364, 396)

SPECIAL = ("<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<system>")
TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def prompt_lengths(n: int, seed: int = 0) -> list[int]:
    """Tokens of `n` prompts, spread evenly over the quantiles, in random order."""
    return _lengths((*HH_PROMPTS, 2220), LONGEST_PROMPT, n, seed)


def completion_lengths(n: int, seed: int = 1) -> list[int]:
    """Tokens of `n` completions, EOS included, spread evenly over the quantiles, in random order."""
    return _lengths((*HH_COMPLETIONS, 701), LONGEST_COMPLETION, n, seed)


def words(n: int, stream: random.Random) -> str:
    """A text of `n` tokens."""
    return " ".join(f"w{stream.randrange(VOCABULARY - len(SPECIAL))}" for _ in range(n))


def write_prompts(path: Path, n: int, seed: int = 0) -> None:
    """`n` prompts as jsonl, in messages; with the template's three tokens each is as long as `prompt_lengths` says."""
    stream = random.Random(seed)
    rows = [[{"role": "user", "content": words(max(1, size - 3), stream)}] for size in prompt_lengths(n, seed)]
    path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))


def write_model(folder: Path, seed: int = 0, *, kind: str = "policy") -> Path:
    """Write the model (`policy`, or `reward_model` with one label) and its tokenizer; a word is a token."""
    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(SPECIAL)}
    vocabulary |= {f"w{i}": i + len(SPECIAL) for i in range(VOCABULARY - len(SPECIAL))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", chat_template=TEMPLATE
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=8,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        num_labels=1,
    )
    model = (LlamaForCausalLM if kind == "policy" else LlamaForSequenceClassification)(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def _lengths(table: tuple[int, ...], longest: int, n: int, seed: int) -> list[int]:
    result = []
    for i in range(n):
        at = 100 * (i + 0.5) / n
        (p0, q0), (p1, q1) = next(
            pair for pair in itertools.pairwise(zip(PERCENTILES, table, strict=True)) if at <= pair[1][0]
        )
        result.append(max(2, min(longest, round(SCALE * (q0 + (q1 - q0) * (at - p0) / (p1 - p0))))))
    random.Random(seed).shuffle(result)
    return result


def score(text: str) -> float:
    """A reward that both sides can compute: the share of words with an even number."""
    numbers = [int(word[1:]) for word in text.split() if word[:1] == "w" and word[1:].isdigit()]
    return sum(n % 2 == 0 for n in numbers) / max(1, len(numbers))
