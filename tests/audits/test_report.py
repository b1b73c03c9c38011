"""The report page: complete, self-contained, safe with hostile text, and silent about what was not measured."""

import copy
import math
import re
from html.parser import HTMLParser

import pytest

from prefloop.audits.report import TITLES, render, write_report
from prefloop.audits.sections import cards, pieces
from prefloop.errors import InputError, RunError

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser would make of it: tags, attributes and visible text; every tag must close."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def values(self, name):
        return [value for _, n, value in self.attributes if n == name]


def test_the_whole_loop_is_told(example):
    page = Page(render(example))
    for words in (
        "A language model learns to answer",
        "These people are simulated.",
        "took 4 min 11 s",
        "0.4% → 73%",
        "95% interval 68–78%, n = 300",
        "After demonstrations alone: 41%.",
        "78% of blind comparisons go to the policy against the SFT model",
        "1,200 demonstrations",
        "2,240 comparisons",
        "right on 76% of unseen comparisons",
        "Write an email requesting an interview",
        "5 + 5 = 11",
        "✓ passes the check",
        "✗ does not pass the check",
        "chance alone does not explain it",
        "Ties: 11%. Same verdict in both orders: 84%.",
        "a second panel answered the same questions",
        "Expected calibration error: 0.047, within what chance alone would show.",
        "would show about 0.041 at this n",
        "n = 286 in all",
        "5,580 answers",
        "simulated: 5,580 (100%)",
        "identical: 47, tied: 73",
        "nothing left out",
        "kept, duplicate: 31",
        "Likes long answers.",
        "made from base model , demonstrations",
        "It raised an alarm at step 60",
        "The weights of step 20 were kept",
        "peaks at a KL of 4 nats",
        "What it saw step 0 step 20 (kept) step 60",
        "Tokens of an answer 44 53 71",
        "step 40: reward 1.00",
        "clip_range 0.2",
        "The built-in model has six million parameters",
    ):
        assert words in page.text, words
    assert "ot measured" not in page.text.split("Made by prefloop")[0]


def test_nothing_is_fetched_and_nothing_runs(example):
    text = render(example)
    page = Page(text)
    assert not {"script", "img", "iframe", "link", "object", "embed", "form", "video", "audio", "base"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:|//", text.split("</style>")[0].split("<style>")[1])
    assert all(value.startswith("#") for value in page.values("href"))
    assert page.values("src") == []
    assert "default-src 'none'" in text


def test_links_lead_somewhere_and_ids_are_unique(example):
    page = Page(render(example))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in page.values("href")} <= set(ids)
    for value in page.values("aria-labelledby"):
        assert set(value.split()) <= set(ids)


def test_every_chart_has_a_title_and_a_description(example):
    page = Page(render(example))
    images = page.values("role").count("img")
    assert images == 11  # the loop, reliability, two of the guard, four of PPO (it has no distinct-2), three of loss
    assert page.tags.count("desc") == images


PAYLOAD = "\"'></td></svg></style><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 191 }}{% raw %}&lt;b&gt;"


def poisoned(value):
    if isinstance(value, dict):
        return {k: poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v) for v in value]
    return value + PAYLOAD if isinstance(value, str) else value


def test_hostile_text_stays_text(example):
    evil = poisoned(example)
    for node, clean_node in zip(evil["lineage"], example["lineage"], strict=True):
        node["parents"] = [parent + PAYLOAD for parent in clean_node["parents"]]
    evil["settings"][PAYLOAD] = {PAYLOAD: PAYLOAD}
    evil["people"][0]["profile"] = PAYLOAD
    evil["gold"]["base"]["families"][PAYLOAD] = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    evil["reward_model"]["floors"][PAYLOAD] = {"value": 0.5}
    evil["reward_model"]["slices"][PAYLOAD] = {PAYLOAD: {"value": 0.5}}
    evil["data"][0]["annotators"][PAYLOAD] = 5
    evil["data"][0]["ledger"]["dropped"][PAYLOAD] = 5
    evil["metrics"] = {PAYLOAD: 0.5}
    for row in evil["training"]["ppo"]:
        row["round"] = f"{row['round']}{PAYLOAD}"
    page = Page(render(evil))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert PAYLOAD in "".join(page.words)  # shown as written, not evaluated, not unescaped
    assert "1337" not in page.text


def test_text_that_cannot_be_written_is_shown_as_a_mark(example, tmp_path):
    example["shows"][0]["answers"]["base"] = "a\x00b\ud83dc\u202ed"
    text = write_report(example, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "a\ufffdb\ufffdc\ufffdd" in text


def test_nothing_stored_nothing_shown():
    page = Page(render({}))
    assert "Not measured, or not stored with this result: " + ", ".join(TITLES.values()) in page.text
    assert not re.search(r"\d", page.text)
    assert "svg" not in page.tags
    assert "simulated" not in page.text


@pytest.mark.parametrize("key", ["shows", "gold", "reward_model", "guard", "training", "data", "people", "lineage"])
def test_a_missing_section_is_said_and_its_figures_are_gone(example, key):
    del example[key]
    page = Page(render(example))
    assert TITLES[key] in page.text.split("Not measured, or not stored with this result:")[1]
    assert f"#{key}" not in page.values("href")


def test_missing_parts_of_a_section_are_said(example):
    for part in ("ece", "expected_ece", "reliability"):
        del example["reward_model"][part]
    del example["win_rate"]["ties"]
    del example["gold"]["base"]
    example["gold"]["policy"].pop("low")
    del example["data"][0]["ledger"]
    text = Page(render(example)).text
    assert "Expected calibration error: not measured." in text
    assert "would show about (not measured) at this n" in text
    assert "Reliability: not measured." in text
    assert "Ties: not measured." in text
    assert "→ 73%" not in text
    assert "no interval stored, n = 300" in text


def leaves(value, path=()):
    """Every place in the data, lists by their first element."""
    yield path
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, item in inner:
        yield from leaves(item, (*path, key))


def test_any_value_may_be_broken(example):
    example["training"] = {stage: rows[:3] for stage, rows in example["training"].items()}
    example["shows"], example["lineage"] = example["shows"][:1], example["lineage"][:3]
    places = {key: list(leaves(value, (key,))) for key, value in example.items()}
    for i in range(max(map(len, places.values()))):
        for rubbish in (None, "rubbish", -7, math.nan, [3], {"x": []}):
            data = copy.deepcopy(example)
            broken = [paths[i] for paths in places.values() if i < len(paths)]  # one place in each section at a time
            for *above, last in broken:
                place = data
                for key in above:
                    place = place[key]
                place[last] = rubbish
            text = render(data)
            assert "nan%" not in text.lower()
            assert "nan" not in re.findall(r"\w+", text.lower()), broken


def test_verdicts_follow_the_interval(example):
    for low, high, words in (
        (0.45, 0.6, "No clear difference: the interval includes 50%."),
        (0.3, 0.45, "preferred less often"),
        (None, None, "chance cannot be ruled out"),
    ):
        example["win_rate"] |= {"low": low, "high": high}
        del example["dpo_win_rate"]["value"]
        text = Page(render(example)).text
        example["dpo_win_rate"]["value"] = 0.7
        assert words in text
        assert "chance alone does not explain it" not in text


def test_simulated_people_are_never_hidden(example):
    example["simulated"] = False  # whatever is declared, the data sets say who answered
    assert "These people are simulated." in Page(render(example)).text
    example["data"][0]["annotators"]["person"] = 30
    text = Page(render(example)).text
    assert "Some of these people are simulated." in text
    assert "person: 30 (1%)" in text
    real = {"data": [{"kind": "comparisons", "rows": 5, "annotators": {"person": 5}}]}
    assert "simulated" not in Page(render(real)).text


def test_one_artifact_alone(example, tmp_path):
    text = render(
        {
            "title": "Reward model hh",
            "reward_model": example["reward_model"],
            "metrics": {
                "eval_loss": 0.651,
                "margin": {"value": 1.2, "low": 1.1, "high": 1.3, "n": 40},
                "broken": math.nan,
            },
            "settings": {"lr": 1e-5, "lora": {"rank": 8}},
        }
    )
    page = Page(text)
    assert "Reward model hh" in page.text
    assert "76% of comparisons it has never seen" in page.text
    assert "eval_loss 0.651 – –" in page.text
    assert "margin 1.2 1.1 to 1.3 40" in page.text
    assert "broken" not in page.text
    assert "lora.rank 8" in page.text or "rank 8" in page.text
    assert "1e-05" in page.text  # a setting is shown as it is, not rounded
    assert "How it works" not in page.text
    assert "Blind comparisons" in page.text.split("Not measured")[1]


def test_rounds_stand_one_after_another(example):
    example["training"] = {
        "ppo": [
            {"step": s, "round": r, "objective/kl": k}
            for r, s, k in [(1, 1, 0.0), (1, 2, 4.0), (2, 1, 1.0), (2, 2, 2.0)]
        ]
    }
    text = render(example)
    assert "round 2" in text
    # steps 1, 2, then 1 and 2 moved behind them to 3 and 4: a third of the way apart each (46..406)
    assert 'points="46.0,202.0 166.0,12.0"' in text
    assert 'points="286.0,154.5 406.0,107.0"' in text


def test_a_guard_without_an_alarm_says_so(example):
    for look in example["guard"]["looks"]:
        look |= {"warning": False, "alarm": False}
    example["guard"] |= {"best_step": 60, "curves": {}}
    text = Page(render(example)).text
    assert "It raised no alarm. The weights of step 60 were kept" in text
    assert "What it saw step 0 step 60 (kept) Reward 0 1.5" in text
    assert "peaks at" not in text
    assert "In its words" not in text
    alone = {"guard": {**example["guard"], "looks": example["guard"]["looks"][:1], "best_step": 0}}
    assert "What it saw step 0 (kept) Reward 0" in Page(render(alone)).text


def test_every_floor_stands_once_by_its_name(example):
    from prefloop.audits.reward_model import reward_model

    floors = {"length": {"value": 0.58, "low": 0.5, "high": 0.6, "n": 9}, "tfidf": {"value": 0.6, "n": 9}}
    example["reward_model"]["floors"] = floors
    names = [row["name"] for row in reward_model(example)["rows"]]
    assert names == ["Reward model", "Two people agree", "Always the longer one", "Words and length (TF-IDF)"]
    del floors["length"]
    assert [row["name"] for row in reward_model(example)["rows"]][2:] == names[2:]


def test_one_point_is_no_curve(example):
    example["training"] = {"ppo": [{"step": 1, "objective/kl": 1.0}], "sft": []}
    assert "What happened during training" in Page(render(example)).text.split("Not measured")[1]


def test_lineage_names_parents_first_and_survives_a_circle():
    nodes = [
        {"kind": "policy", "name": "child", "hash": "c" * 64, "parents": ["a" * 64, "f" * 64]},
        {"kind": "snapshot", "name": "answers", "hash": "a" * 64, "parents": []},
    ]
    text = Page(render({"lineage": nodes})).text
    assert text.index("snapshot answers") < text.index("policy child")
    assert "made from answers , ffffffffffff" in text
    circle = [{"kind": "x", "name": n, "hash": n, "parents": [p]} for n, p in (("one", "two"), ("two", "one"))]
    assert "made from two" in Page(render({"lineage": circle})).text


def test_code_between_fences_is_code():
    assert pieces("Here:\n```java\nint a;\n```\nDone.") == [("text", "Here:"), ("code", "int a;"), ("text", "Done.")]
    assert pieces("```\nopen for ever") == [("code", "open for ever")]
    assert pieces(" \n ") == []
    assert "(it wrote nothing)" in Page(render({"shows": [{"prompt": "p", "answers": {"base": ""}}]})).text


def test_it_is_written_whole_or_not_at_all(example, tmp_path, monkeypatch):
    path = write_report(example, tmp_path / "deep" / "report.html")
    assert path == tmp_path / "deep" / "report.html"
    assert write_report(example, tmp_path) == tmp_path / "report.html"
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prefloop.audits.report.os.fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_report({"title": "new"}, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="got list"):
        write_report([], tmp_path / "r.html")


def test_it_is_light(example):
    assert len(render(example).encode()) < 150_000


def test_the_cards_are_of_the_policy_that_was_chosen(example):
    assert [card["figure"] for card in cards(example)[:2]] == ["73%", "78%"]
    example["chosen"] = "dpo"
    assert [card["figure"] for card in cards(example)[:2]] == ["66%", "71%"]
