"""The one tokenise path: messages and a completion become token ids here and nowhere else.

Supervised training, reward training, evaluation, rollouts and chat all call `Template.encode` or
`Template.prompt`, so the text that is scored is the text that was trained on, EOS and BOS included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from prefloop.errors import InputError
from prefloop.records import Message

ROLES = ("system", "user", "assistant")

PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}"
    "{% elif m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\n' }}"
    "{% else %}{{ 'Assistant: ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Stands in for tokenizers that have no chat template (base models such as GPT-2)."""


@dataclass(frozen=True)
class Encoded:
    """One prompt and completion as token ids.

    `ids[:prompt_length]` is the prompt, the rest the completion; its last id is EOS unless `truncated`.
    """

    ids: list[int]
    prompt_length: int
    truncated: bool = False
    prompt_truncated: bool = False

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def completion_length(self) -> int:
        return len(self.ids) - self.prompt_length


class Template:
    """A tokenizer with its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.chat_template is None:
            tokenizer.chat_template = PLAIN
        self.tokenizer = tokenizer
        self.eos_id = int(tokenizer.eos_token_id)
        # Padding is told from text by lengths, never by id, so a tokenizer whose pad is its eos does no harm here.
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
        # Turn markers such as Llama 3's are control tokens too, but stand in no attribute of the tokenizer.
        control = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        self._special = sorted({*control, *map(str, tokenizer.all_special_tokens)}, key=len, reverse=True)
        # Whether BOS comes first is the tokenizer's own habit: with it the model was trained.
        own = list(tokenizer("a")["input_ids"])
        self._bos = own[:1] if tokenizer.bos_token_id is not None and own[:1] == [tokenizer.bos_token_id] else []

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation so far, ending where the assistant begins to answer.

        BOS comes once, from the template or else from the tokenizer's own habit. Raises InputError for a role that
        the template does not take.
        """
        roles = [m["role"] for m in messages]
        if strange := sorted({*roles} - {*ROLES}):
            # A template writes the role into its markers, so any other word could forge one.
            raise InputError(f"unknown role {strange[0]!r}; a message's role is one of {', '.join(ROLES)}")
        try:
            text = self.tokenizer.apply_chat_template(
                [{"role": m["role"], "content": self._disarm(m["content"])} for m in messages],
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:  # jinja raises whatever the template's author chose
            raise InputError(f"the chat template does not take messages with roles {roles}: {error}") from None
        ids = list(self.tokenizer(str(text), add_special_tokens=False)["input_ids"])
        return ids if ids[:1] == self._bos else [*self._bos, *ids]

    def fit(self, prompt: list[int], room: int) -> list[int]:
        """A prompt longer than `room` ids keeps its end (the question) and its first id (BOS)."""
        return prompt if len(prompt) <= room else [prompt[0], *prompt[len(prompt) - room + 1 :]]

    def completion(self, text: str, terminated: bool = True) -> list[int]:
        """Ids of an answer; with EOS when it is whole."""
        ids = list(self.tokenizer(self._disarm(text), add_special_tokens=False)["input_ids"])
        return [*ids, self.eos_id] if terminated else ids

    def encode(
        self, messages: Sequence[Message], completion: str, max_length: int, *, terminated: bool = True
    ) -> Encoded:
        """Prompt and completion within `max_length` ids.

        A prompt that is too long keeps its end (the question) and its first id (BOS); at least half of
        `max_length` is left to it. A completion that is still too long loses its end and its EOS.
        """
        prompt, answer = self.prompt(messages), self.completion(completion, terminated)
        fitted = self.fit(prompt, max(max_length // 2, max_length - len(answer)))
        kept = answer[: max_length - len(fitted)]
        return Encoded([*fitted, *kept], len(fitted), len(kept) < len(answer), len(fitted) < len(prompt))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion's ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text; together they are `decode(ids)`.

        A token that ends within a character adds nothing, the one that completes it the whole; a word keeps its space.
        """
        result, before, done = [], 0, 0  # ids[done:] are new, and ids[before:done] what they are read after
        for end in range(1, len(ids) + 1):
            known, text = self.decode(ids[before:done]), self.decode(ids[before:end])
            if text.endswith("\ufffd") and end < len(ids):
                result.append("")
                continue
            result.append(text[len(known) :])
            before, done = done, end
        return result

    def _disarm(self, text: str) -> str:
        # Text that spells a control token stays text: people and models must not be able to forge a turn.
        for token in self._special:
            if token in text:
                text = text.replace(token, token[0] + "\u200b" + token[1:])
        return text
