"""A vLLM server as its clients see it: what is asked over HTTP, and what it means when no answer comes.

The names of requests and answers are those of vLLM's own sources as they were in November 2026: the OpenAI-compatible
part in vllm/entrypoints/openai/completion/protocol.py, and the part that it has with
VLLM_SERVER_DEV_MODE=1 in vllm/entrypoints/serve/dev (rpc, cache).
"""

from __future__ import annotations

import http.client
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from prefloop.errors import InputError, RunError

TRIES = 3
"""So often the same is asked, where no answer comes."""
PAUSE_SECONDS = 0.5
"""Between two looks whether a server is there again."""
IMPOSSIBLE = -9000.0
"""The server writes -9999 for a log-probability of minus infinity, which no sampled token has."""

T = TypeVar("T")


class Lost(Exception):
    """No answer came, or one that is none: the same can be asked again."""


class Failed(Lost):
    """The server says that it failed."""


@dataclass(frozen=True)
class Written:
    """A completion as the server wrote it."""

    ids: list[int]
    logprobs: list[float]


class Server:
    """One server. `Lost` leaves its methods where nothing came back; `patiently` asks again."""

    def __init__(self, url: str, timeout: float) -> None:
        """`timeout`, in seconds, is how long an answer may take, and how long a server may be away.

        Raises InputError for an address that is none.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"vllm: url must be an address such as http://127.0.0.1:8000, got {url!r}")
        secure = parts.scheme == "https"
        self._connection = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            self._headers["authorization"] = f"Bearer {key}"
        self.url, self.timeout = url, timeout
        self.model = ""
        """What requests call the model that is served."""

    def open(self) -> int:
        """Ask what is served; returns how many tokens a text may have, prompt and answer. Raises InputError when
        nobody is there."""
        try:
            answer = self.call("GET", "/v1/models")
        except Lost as error:
            raise InputError(
                f"no vLLM server answers at {self.url} ({error}); start one as docs/sampling.md says, or leave out vllm"
            ) from None
        match answer:
            case {"data": [{"id": str(name), "max_model_len": int(longest)}, *_]}:
                self.model = name
                return longest
        raise InputError(f"what answers at {self.url} is no vLLM server: /v1/models has no model with a max_model_len")

    def complete(self, prompt: Sequence[int], limit: int, sampling: Mapping[str, Any]) -> Written:
        """The completion of a prompt by at most `limit` tokens, with the log-probability of each, in nats, as
        `--logprobs-mode` has it. What `sampling` leaves out the server takes from the model's generation config."""
        choice = self._choice({"prompt": list(prompt), "max_tokens": limit, "logprobs": 0, **sampling})
        if choice.get("finish_reason") not in ("stop", "length"):
            raise Lost(f"a completion ended with {choice.get('finish_reason')!r}")
        ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if not isinstance(ids, list) or not isinstance(logprobs, list):
            raise RunError(f"{self.url} gives no token_ids or no token_logprobs: use a newer vLLM")
        if not 1 <= len(ids) <= limit or len(ids) != len(logprobs):
            raise RunError(
                f"{self.url} was asked for 1 to {limit} tokens and gave {len(ids)}, with {len(logprobs)} "
                "log-probabilities"
            )
        return Written(ids, [self._sound(value) for value in logprobs])

    def scores(self, ids: Sequence[int], prompt_length: int) -> list[float]:
        """log p of each token behind the first `prompt_length`, at temperature 1, in nats."""
        choice = self._choice({"prompt": list(ids), "max_tokens": 1, "prompt_logprobs": 1, "temperature": 0.0})
        found = choice.get("prompt_logprobs") or []
        try:
            rest = list(zip(ids, found, strict=True))[prompt_length:]
            return [self._sound(each[str(token)]["logprob"]) for token, each in rest]
        except (TypeError, KeyError, ValueError):
            raise RunError(f"{self.url} gives no prompt_logprobs: use a newer vLLM") from None

    def load(self, folder: Path) -> None:
        """Have it take the weights in `folder`, and forget what it computed with others.

        The path is named: without it, vLLM was seen to load what it had before
        (https://github.com/vllm-project/vllm/issues/32718).
        """
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        try:
            self.call("POST", "/collective_rpc", body)
        except Failed as error:
            raise RunError(
                f"{self.url} could not load the policy's weights ({error}): it must see {folder} under that path, "
                "serve a model of the policy's shape, and be a vLLM that knows weights_path; its own log says more"
            ) from None
        until = time.monotonic() + self.timeout
        while (self.call("POST", "/reset_prefix_cache") or {}).get("success") is False:  # something is still running
            if time.monotonic() > until:
                raise RunError(f"{self.url} does not empty its prefix cache: does somebody else use it too?")
            time.sleep(PAUSE_SECONDS)

    def wait(self) -> None:
        """Until it is there. Raises RunError when it stays away."""
        until = time.monotonic() + self.timeout
        while True:
            try:
                self.call("GET", "/health")
                return
            except Lost as error:
                if time.monotonic() > until:
                    raise RunError(
                        f"the vLLM server at {self.url} is gone ({error}), and was not back after {self.timeout:g} "
                        "seconds; start it, and go on with --resume"
                    ) from None
            time.sleep(PAUSE_SECONDS)

    def patiently(self, ask: Callable[[], T]) -> T:
        """What `ask` returns, asked again where nothing came back. Raises RunError when TRIES were in vain."""
        for left in reversed(range(TRIES)):
            try:
                return ask()
            except Lost as error:
                if not left:
                    raise RunError(
                        f"the vLLM server at {self.url} gave no answer, {TRIES} times ({error}); see its log, and go "
                        "on with --resume"
                    ) from None
                self.wait()
        raise AssertionError

    def call(self, verb: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of an answer; None where it is empty. Raises InputError where the server refuses what was asked."""
        connection = self._connection(self._host, self._port, timeout=self.timeout)
        try:
            connection.request(verb, self._path + path, None if body is None else json.dumps(body), self._headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Lost(f"{verb} {path}: {type(error).__name__}: {error}") from None
        finally:
            connection.close()
        if status >= 500 or status in (408, 429):
            raise Failed(f"{verb} {path}: status {status}, {_said(text)}")
        if status == 404 and not path.startswith("/v1/"):
            raise InputError(f"{self.url} has no {path}: start vLLM with VLLM_SERVER_DEV_MODE=1")
        if status >= 300:
            raise InputError(f"the vLLM server at {self.url} refuses {path} with status {status}: {_said(text)}")
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise InputError(
                f"what answers at {self.url}{path} is no vLLM server: {_said(text)!r} is no JSON"
            ) from None

    def _choice(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = self.call("POST", "/v1/completions", {"model": self.model, "return_token_ids": True, **body})
        match answer:
            case {"choices": [dict() as choice]}:
                if choice.get("prompt_token_ids") in (None, body["prompt"]):
                    return choice
                raise RunError(f"{self.url} completed another prompt than it was given")
        raise RunError(f"{self.url} was asked for one completion and answered {str(answer)[:80]}")

    def _sound(self, logprob: Any) -> float:
        """Raises RunError for a log-probability that is none."""
        if not isinstance(logprob, int | float) or not math.isfinite(logprob) or not IMPOSSIBLE < logprob < 1e-3:
            raise RunError(f"{self.url} gave {logprob} as the log-probability of a token that it sampled")
        return float(logprob)


def _said(text: bytes) -> str:
    """The message in an error's body, in the ways in which vLLM and FastAPI write them."""
    try:
        told: Any = json.loads(text)
    except ValueError:
        told = text.decode("utf-8", "replace")
    for key in ("error", "detail", "message"):
        if isinstance(told, dict) and key in told:
            told = told[key]
    return str(told)[:300]
