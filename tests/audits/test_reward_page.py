"""The page about a reward model: features, mistakes, decay, what to ask next, and which tokens earned the score."""

import re

from prefloop.audits.report import render
from tests.audits.test_report import PAYLOAD, Page, poisoned


def share(value, low=None, high=None, n=40):
    return {"value": value, "low": low, "high": high, "n": n}


def found():
    return {
        "title": "Reward model rm",
        "version": "0.1.0",
        "seed": 0,
        "reward_model": {
            "accuracy": 0.7,
            "low": 0.6,
            "high": 0.8,
            "n": 90,
            "features": {"length": {"people": share(0.31, 0.1, 0.52, 90), "model": share(0.9, 0.7, 1.1, 90)}},
            "mistakes": [
                {"prompt": "Say hello.", "better": "Hello.", "worse": "No.", "confidence": 0.93, "label": 1.0},
            ],
            "decay": {
                "here": share(0.7, 0.6, 0.8, 90),
                "own": share(0.55, 0.45, 0.65, 80),
                "difference": {"value": -0.15, "low": -0.28, "high": -0.02},
            },
            "ask_next": [
                {
                    "prompt": [{"role": "user", "content": "Which one?"}],
                    "a": "this",
                    "b": "that",
                    "probability": 0.52,
                    "information": 0.31,
                    "members": 5,
                }
            ],
            "credit": [
                {
                    "prompt": "Say hello.",
                    "right": False,
                    "texts": [
                        {"preferred": True, "score": 0.5, "tokens": [["Hel", 0.4], ["lo", 0.2], ["", -0.1]], "more": 0},
                        {"preferred": False, "score": 0.8, "tokens": [["<b>No</b>", 0.8]], "more": 3},
                    ],
                }
            ],
        },
    }


def test_people_read_all_of_it():
    page = Page(render(found()))
    for words in (
        "What preferences follow",
        "length +0.31",
        "Its worst mistakes",
        "Right on 55% (45–65%) of comparisons of what the current policy writes (n = 80), against 70%",
        "-15 points (-28 to -2)",
        "0.31 nats; 52% for the left text.",
        "Which tokens earned the score",
        "The model disagrees with people.",
        "… and 3 more tokens",
    ):
        assert words in page.text, words


def test_every_token_has_its_number_and_a_colour_by_its_size():
    """0.8 is the largest: 0.4 is half of its colour (round(4.5) = 4), -0.1 an eighth of it, on the other side."""
    page = render(found())
    tokens = re.findall(r'<span class="token (\w+)">(.*?)<sub>(.*?)</sub></span>', page)
    assert tokens == [
        ("plus4", "Hel", "+0.40"),
        ("plus2", "lo", "+0.20"),
        ("minus1", "⏹", "-0.10"),
        ("plus9", "&lt;b&gt;No&lt;/b&gt;", "+0.80"),
    ]


def test_what_a_model_wrote_stays_text():
    page = Page(render(poisoned(found())))
    assert not {"script", "img"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "".join(page.words).count(PAYLOAD) >= 8
    assert "1337" not in page.text


def test_what_is_no_token_is_left_out():
    data = found()
    data["reward_model"]["credit"] = [{"prompt": 3, "texts": [{"tokens": [["a"], "b", ["c", "d"], ["e", 1.0]]}, 7]}, 5]
    data["reward_model"]["decay"] = {"here": 0.5}
    page = render(data)
    assert re.findall(r'<span class="token (\w+)">(.*?)<sub>', page) == [("plus0", "c"), ("plus9", "e")]
    assert "On the policy" not in page
