"""A server that speaks vLLM's protocol, as far as its sources say what that is, with a small model behind it.

It is not vLLM: it shows that we ask for what is documented and understand what is documented, and nothing more.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

# Of vllm/entrypoints/openai/completion/protocol.py, CompletionRequest; vLLM lets others pass, this server does not.
FIELDS = {
    *("model", "prompt", "max_tokens", "n", "seed", "stop", "temperature", "top_p", "top_k", "min_p", "logprobs"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "stop_token_ids", "ignore_eos"),
    *("prompt_logprobs", "return_token_ids"),
}


class Cut(Exception):
    """The connection ends without an answer."""


class VllmStub:
    """A model that is served, and what a test does to it."""

    def __init__(self, folder: Path, *, mode: str = "processed_logprobs", dev: bool = True) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.mode, self.dev, self.max_model_len = mode, dev, 256
        self.first = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        self.asked: list[tuple[str, Any]] = []
        """(path, body), in the order in which they came."""
        self.before: Callable[[str, Any], tuple[int, Any] | None] = lambda path, body: None
        """Raises Cut, or returns a status and an answer that are given instead."""
        self.after: Callable[[str, Any], None] = lambda path, answer: None
        """Spoils an answer."""
        self.lock, self.life, self.back_at = threading.Lock(), 0, 0.0
        self.url = ""

    def begin(self) -> None:
        """It has the weights that it was started with."""
        self.model.load_state_dict(self.first)

    def restart(self) -> None:
        """It dies, with all that it was asked, is away for a moment, and begins again."""
        self.begin()
        self.life += 1
        self.back_at = time.monotonic() + 0.3

    def paths(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == path]

    def answer(self, verb: str, path: str, body: Any) -> tuple[int, Any]:
        life = self.life
        with self.lock:
            if life != self.life or time.monotonic() < self.back_at:
                raise Cut
            self.asked.append((path, body))
            if (instead := self.before(path, body)) is not None:
                return instead
            status, answer = self._answer(verb, path, body)
            self.after(path, answer)
            return status, answer

    def _answer(self, verb: str, path: str, body: Any) -> tuple[int, Any]:
        match verb, path:
            case "GET", "/health":
                return 200, None
            case "GET", "/v1/models":
                card = {"id": "served", "object": "model", "owned_by": "vllm", "parent": None}
                return 200, {"object": "list", "data": [{**card, "max_model_len": self.max_model_len}]}
            case "POST", "/v1/completions":
                return self.complete(body)
            case "POST", "/collective_rpc" if self.dev:
                assert (body.keys(), body["method"]) == ({"method", "kwargs"}, "reload_weights")
                try:
                    self.reload(**body["kwargs"])
                except (OSError, RuntimeError, TypeError) as error:
                    return 500, {"error": {"message": str(error), "type": "InternalServerError", "code": 500}}
                return 200, {"results": [None]}
            case "POST", "/reset_prefix_cache" if self.dev:
                return 200, {"success": True}
        return 404, {"detail": "Not Found"}

    def reload(self, weights_path: str) -> None:
        weights = {k: v for file in Path(weights_path).glob("*.safetensors") for k, v in load_file(file).items()}
        if not weights:
            raise RuntimeError(f"Cannot find any model weights with `{weights_path}`")
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        assert set(missing) | set(unexpected) <= {"lm_head.weight"}

    @torch.no_grad()
    def complete(self, body: Any) -> tuple[int, Any]:
        if unknown := body.keys() - FIELDS:
            return 400, {"error": {"message": f"unknown fields {unknown}", "type": "BadRequestError", "code": 400}}
        prompt, most = body["prompt"], body["max_tokens"]
        if len(prompt) + most > self.max_model_len:
            words = f"This model's maximum context length is {self.max_model_len} tokens."
            return 400, {"error": {"message": words, "type": "BadRequestError", "code": 400}}
        if body["model"] != "served":
            words = f"The model `{body['model']}` does not exist."
            return 404, {"error": {"message": words, "type": "NotFoundError", "code": 404}}
        generator = torch.Generator().manual_seed(body.get("seed", 0))
        ids, logprobs, reason, stop_reason = [], [], "length", None
        while len(ids) < most and reason == "length":
            raw = self.model(torch.tensor([[*prompt, *ids]])).logits[0, -1].float()
            processed = self.processed(raw, body)
            greedy = body["temperature"] == 0
            drawn = processed.argmax() if greedy else processed.exp().multinomial(1, generator=generator)
            token = int(drawn)
            ids.append(token)
            logprobs.append(float((processed if self.mode == "processed_logprobs" else raw.log_softmax(-1))[token]))
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            found = [words for words in body.get("stop", []) if words in text]
            if token == self.model.config.eos_token_id and not body.get("ignore_eos"):
                reason = "stop"
            elif token in body.get("stop_token_ids", []):
                reason, stop_reason = "stop", token
            elif found:
                reason, stop_reason = "stop", found[0]
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": reason, "stop_reason": stop_reason}
        if body.get("logprobs") is not None:
            choice["logprobs"] = {"token_logprobs": logprobs, "tokens": [], "top_logprobs": [], "text_offset": []}
        if body.get("return_token_ids"):
            choice |= {"token_ids": ids, "prompt_token_ids": prompt}
        if body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = self.scores(prompt)
        return 200, {"id": "cmpl-1", "object": "text_completion", "model": "served", "choices": [choice]}

    def scores(self, ids: list[int]) -> list[Any]:
        raw = self.model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
        best = raw.argmax(-1).tolist()
        rows = zip(ids[1:], best, raw, strict=True)
        return [None, *({str(t): {"logprob": float(row[t]), "rank": 1} for t in (top, own)} for own, top, row in rows)]

    def processed(self, raw: torch.Tensor, body: Any) -> torch.Tensor:
        """Temperature, then top-k, top-p and min-p: what is drawn from. Nothing but the temperature and top-k is sent
        to this server."""
        logits = raw / (body["temperature"] or 1.0)
        if top_k := body.get("top_k"):
            logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
        assert (body.get("top_p", 1), body.get("min_p", 0)) == (1, 0)
        return logits.log_softmax(-1)


@contextmanager
def serving(folder: Path, **how: Any) -> Iterator[VllmStub]:
    """A stub at work on a free port."""
    stub = VllmStub(folder, **how)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply("GET")

        def do_POST(self) -> None:
            self.reply("POST")

        def reply(self, verb: str) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "{}")
            try:
                status, answer = stub.answer(verb, self.path, body)
            except Cut:
                self.close_connection = True
                return
            text = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Listener(ThreadingHTTPServer):
        request_queue_size = 128

    server = Listener(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
