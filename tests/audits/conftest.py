"""A whole loop's worth of invented results, as the demo stores them."""

import hashlib
import math
import random

import pytest


def share(value, low, high, n, **more):
    return {"value": value, "low": low, "high": high, "n": n, **more}


def digest(name):
    return hashlib.sha256(name.encode()).hexdigest()


@pytest.fixture
def example():
    return build()


def build():
    rng = random.Random(0)
    prompts = [
        "Write an email requesting an interview",
        "What is 5 + 5?",
        "Write a simple Java code that adds two integers",
    ]
    email = (
        "Subject: Request for an interview\n\nDear Ms. Grant,\n\nI am writing to ask for an interview for the post of "
        "librarian. I have worked in libraries for four years and would be glad to tell you more.\n\n"
        "Would Tuesday or Wednesday suit you?\n\nKind regards,\nAnna Reed"
    )
    java = (
        "Here is a small class with a method that adds two integers.\n```java\npublic class Adder {\n"
        "    static int add(int a, int b) {\n        return a + b;\n    }\n\n"
        "    public static void main(String[] args) {\n"
        "        System.out.println(add(2, 3));\n    }\n}\n```\nIt prints 5."
    )
    base = [
        "from the old man, and he said to her, I have not been here since the morning.",
        " and 5 + 6 and what is 7 + 5 and the rest of the page was torn",
        ", and the code was a kind of book that no one had ever read before in that house",
    ]
    sft = [
        "Subject: Interview\n\nDear Sir,\n\nI would like to have an interview.\n\nThank you",
        "5 + 5 = 11",
        java[:140],
    ]
    answers = [
        {"base": b, "sft": s, "policy": p, "dpo": q, "round2": r}
        for b, s, p, q, r in zip(
            base, sft, [email, "5 + 5 = 10.", java], [email, "10", java], [email, "5 + 5 = 10.", java], strict=True
        )
    ]
    checked = [{"base": False, "sft": ok, "policy": True, "dpo": True, "round2": True} for ok in (True, False, False)]

    def gold(all_, email_, sums, code, n=300):
        def spread(p, k):
            half = 1.96 * math.sqrt(max(p * (1 - p), 0.001) / k)
            return share(p, max(0, p - half), min(1, p + half), k)

        families = {"email": email_, "arithmetic": sums, "code": code}
        return {**spread(all_, n), "families": {name: spread(p, n // 3) for name, p in families.items()}}

    def noisy(start, end, i, n, noise):
        return start + (end - start) * (1 - math.exp(-3 * i / n)) + rng.gauss(0, noise)

    ppo = []
    for turn, (r0, r1) in enumerate([(-0.4, 1.5), (1.1, 2.1)], start=1):
        ppo += [
            {
                "step": i + 1,
                "round": turn,
                "objective/scores": noisy(r0, r1, i, 60, 0.12),
                "objective/kl": abs(noisy(0.1, 6.5, i, 60, 0.35)),
                "objective/entropy": noisy(48, 27, i, 60, 1.5),
                "length": noisy(44, 58, i, 60, 2.0),
            }
            for i in range(60)
        ]

    def losses(start, end, n):
        return [
            {
                "step": 5 * (i + 1),
                "loss": noisy(start, end, i, n, 0.03),
                "eval_loss": noisy(start, end + 0.05, i, n, 0.004),
            }
            for i in range(n)
        ]

    names = [
        "base model",
        "demonstrations",
        "sft",
        "comparisons-1",
        "reward model",
        "policy",
        "comparisons-2",
        "policy-2",
    ]
    parents = [[], [], [0, 1], [2], [2, 3], [2, 4], [5], [5, 6]]
    kinds = ["policy", "snapshot", "policy", "snapshot", "reward_model", "policy", "snapshot", "policy"]
    return {
        "title": "A language model learns to answer",
        "created": "2026-11-21 02:10 UTC",
        "seconds": 251.4,
        "version": "0.1.0",
        "seed": 0,
        "simulated": True,
        "machine": {"processor cores": 2, "precision": "bfloat16"},
        "shows": [{"prompt": p, "answers": a, "passed": c} for p, a, c in zip(prompts, answers, checked, strict=True)],
        "gold": {
            "base": gold(0.004, 0.0, 0.01, 0.0),
            "sft": gold(0.41, 0.46, 0.33, 0.44),
            "policy": gold(0.73, 0.85, 0.62, 0.71),
            "dpo": gold(0.66, 0.74, 0.55, 0.69),
            "round2": gold(0.79, 0.9, 0.66, 0.8),
        },
        "win_rate": share(0.78, 0.73, 0.83, 240, ties=0.11, consistency=0.84, against="sft"),
        "dpo_win_rate": share(0.71, 0.65, 0.77, 240, ties=0.14, consistency=0.81, against="sft"),
        "reward_model": {
            "accuracy": 0.762,
            "low": 0.71,
            "high": 0.81,
            "n": 286,
            "ece": 0.047,
            "expected_ece": 0.041,
            "expected_ece_high": 0.066,
            "temperature": 1.21,
            "reliability": [
                {"confidence": 0.53, "accuracy": 0.5, "n": 38},
                {"confidence": 0.58, "accuracy": 0.61, "n": 41},
                {"confidence": 0.63, "accuracy": 0.55, "n": 33},
                {"confidence": 0.68, "accuracy": 0.72, "n": 36},
                {"confidence": 0.73, "accuracy": 0.69, "n": 29},
                {"confidence": 0.78, "accuracy": 0.81, "n": 26},
                {"confidence": 0.83, "accuracy": 0.79, "n": 28},
                {"confidence": 0.88, "accuracy": 0.9, "n": 21},
                {"confidence": 0.93, "accuracy": 0.88, "n": 18},
                {"confidence": 0.98, "accuracy": 0.97, "n": 16},
            ],
            "human_ceiling": share(0.83, 0.79, 0.87, 310, source="a second panel answered the same questions"),
            "floors": {"Word counts": share(0.66, 0.6, 0.71, 286)},
            "length": {"longer_wins": share(0.58, 0.52, 0.64, 286), "model_prefers_longer": 0.64},
            "slices": {
                "family": {
                    "email": share(0.8, 0.72, 0.87, 95),
                    "arithmetic": share(0.77, 0.68, 0.85, 96),
                    "code": share(0.72, 0.62, 0.81, 95),
                }
            },
        },
        "guard": {
            "looks": [
                {
                    "step": 20 * i,
                    "proxy": 0.5 * i,
                    "held_out": held,
                    "held_out_low": held - 0.1,
                    "spread": 0.2,
                    "kl": 1.5 * i,
                    "length": 44 + 9 * i,
                    "eos": 0.98,
                    "entropy": 1.3,
                    "repetition": 0.02 * i,
                    "distinct_1": 0.6,
                    "distinct_2": 0.9,
                    "outliers": 0.01,
                    "length_share": 0.1 * i,
                    "warning": i > 1,
                    "alarm": i == 3,
                    "words": f"step {20 * i}: reward {0.5 * i:.2f}",
                }
                for i, held in enumerate([0.0, 0.4, 0.3, 0.1])
            ],
            "curves": {"proxy": None, "held_out": {"alpha": 1.0, "beta": 0.9, "peak": [2.0, 0.4]}},
            "best_step": 20,
            "alarm": True,
        },
        "training": {
            "sft": losses(2.6, 0.9, 50),
            "reward_model": losses(0.69, 0.5, 30),
            "dpo": losses(0.69, 0.42, 30),
            "ppo": ppo,
        },
        "data": [
            {
                "round": 1,
                "kind": "demonstrations",
                "rows": 1200,
                "annotators": {"simulated": 1200},
                "source": "the built-in panel",
                "licence": "Apache-2.0",
                "hash": digest("demonstrations"),
                "ledger": {"rows": 1212, "used": 1200, "dropped": {"empty": 12}, "notes": {"duplicate": 31}},
            },
            {
                "round": 1,
                "kind": "comparisons",
                "rows": 1480,
                "annotators": {"simulated": 2960},
                "source": "the built-in panel",
                "licence": "Apache-2.0",
                "hash": digest("comparisons-1"),
                "ledger": {"rows": 1600, "used": 1480, "dropped": {"identical": 47, "tied": 73}, "notes": {}},
            },
            {
                "round": 2,
                "kind": "comparisons",
                "rows": 760,
                "annotators": {"simulated": 1420},
                "source": "the built-in panel",
                "licence": "Apache-2.0",
                "hash": digest("comparisons-2"),
                "ledger": {"rows": 760, "used": 760, "dropped": {}, "notes": {}},
            },
        ],
        "people": [
            {
                "profile": "careful",
                "description": "Reads both answers, rarely errs.",
                "position_bias": 0.02,
                "length_bias": 0.05,
                "tie": 0.1,
                "skip": 0.02,
                "mistake": 0.03,
                "answers": 2210,
            },
            {
                "profile": "hurried",
                "description": "Likes what stands first, and errs.",
                "position_bias": 0.2,
                "length_bias": 0.1,
                "tie": 0.05,
                "skip": 0.05,
                "mistake": 0.15,
                "answers": 1804,
            },
            {
                "profile": "wordy",
                "description": "Likes long answers.",
                "position_bias": 0.05,
                "length_bias": 0.6,
                "tie": 0.08,
                "skip": 0.02,
                "mistake": 0.08,
                "answers": 1566,
            },
        ],
        "lineage": [
            {"kind": k, "name": n, "hash": digest(n), "parents": [digest(names[p]) for p in above]}
            for k, n, above in zip(kinds, names, parents, strict=True)
        ],
        "settings": {
            "sft": {"lr": 5e-4, "epochs": 3, "batch_tokens": 4096},
            "ppo": {"clip_range": 0.2, "kl_coef": 0.05, "adaptive": True, "kl_target": 6.0, "epochs": 2},
            "prompts": 400,
        },
        "seeds": {"demo": 0, "evaluation": 12345},
        "versions": {"prefloop": "0.1.0", "torch": "2.13.0"},
        "timings": {"demonstrations and SFT": 61.2, "sampling": 38.0, "reward model": 20.5, "PPO": 92.3},
        "notes": ["The built-in model has six million parameters; larger ones behave differently."],
    }
