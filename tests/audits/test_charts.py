"""Charts draw what they are given: places worked by hand, letters escaped, a title and a description each."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from prefloop.audits.charts import (
    Line,
    Spot,
    apart,
    beside,
    frontier_chart,
    line_chart,
    loop_picture,
    moving_mean,
    reliability_chart,
    share_bar,
    thinned,
    ticks,
    track,
)
from prefloop.audits.wording import Figure


def parsed(markup):
    return ElementTree.fromstring(str(markup))  # noqa: S314 - our own markup


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.5, 1.0]),
        (-0.4, 2.2, [-1, 0, 1, 2, 3]),
        (0, 57, [0, 20, 40, 60]),
        (3, 3, [2.6, 2.8, 3.0, 3.2, 3.4]),
        (0.0012, 0.0048, [0.001, 0.002, 0.003, 0.004, 0.005]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)


def test_a_line_is_where_its_numbers_are():
    svg = parsed(line_chart("k", "Loss", "falls", [Line("loss", "policy", [[(0, 0), (10, 4)]])]))
    # plot area: x 46..406, y 202 (value 0) .. 12 (value 4)
    assert svg.find("polyline").get("points") == "46.0,202.0 406.0,12.0"
    assert svg.get("role") == "img"
    assert [svg.find("title").text, svg.find("desc").text] == ["Loss", "falls"]
    assert svg.get("aria-labelledby") == "k-title k-desc"


def test_names_behind_lines_that_end_close_to_each_other_by_hand():
    """Plot area: y 202 (value 0) to 12 (value 4); 4 units below its end, so that the letters' middle is there."""
    lines = [Line(name, name, [[(0, 0), (10, end)]]) for name, end in (("first", 4), ("a", 0.1), ("bee", 0.0))]
    svg = parsed(line_chart("k", "t", "d", lines, named=True))
    names = {e.text: (float(e.get("x")), float(e.get("y"))) for e in svg.findall("text") if e.get("class") != "axis"}
    # 406 less five letters of 6 is where lines end; "bee" cannot go below the axis, so "a" stands a line above it.
    assert names == {"first": (383.0, 16.0), "a": (383.0, 194.0), "bee": (383.0, 206.0), "step": (406.0, 241.0)}


def test_apart_by_hand():
    assert apart([10, 50, 12], 5, 100) == [10, 50, 15]
    assert apart([98, 99, 97], 5, 100) == [95, 100, 90]


def test_a_name_stands_where_nothing_else_does():
    """Right and above where there is room; else at the next free place, and far away with a line that leads there."""
    frame = (0, 0, 400, 200)
    assert texts(beside([("one", (50, 100))], frame)) == [("one", "59.0", "97.0", "start")]
    two = texts(beside([("one", (50, 100)), ("two", (52, 101))], frame))
    assert two == [("one", "59.0", "97.0", "start"), ("two", "43.0", "98.0", "end")]
    crowd = beside([(f"n{i}", (50, 100)) for i in range(9)], frame)
    places = [(x, y) for _, x, y, _ in texts(crowd)]
    assert len(set(places)) == 9
    assert sum("whisker" in str(part) for part in crowd) == 5
    # at the right edge it stands on the left
    assert texts(beside([("one", (390, 100))], frame)) == [("one", "381.0", "97.0", "end")]


def texts(parts):
    found = [parsed(part) for part in parts if str(part).startswith("<text")]
    return [(e.text, e.get("x"), e.get("y"), e.get("text-anchor")) for e in found]


def test_parts_are_not_joined_and_breaks_are_drawn():
    line = Line("reward", "policy", [[(0, 1), (1, 2)], [(2, 5), (3, 6)]])
    svg = parsed(line_chart("k", "t", "d", [line], breaks={2: "round 2"}))
    assert len(svg.findall("polyline")) == 2
    assert len([e for e in svg.findall("line") if e.get("class") == "break"]) == 1
    assert "round 2" in [e.text for e in svg.findall("text")]


def test_long_lines_are_smoothed_over_their_raw_values():
    svg = parsed(line_chart("k", "t", "d", [Line("x", "policy", [[(i, i % 2) for i in range(60)]])]))
    assert [e.get("class") for e in svg.findall("polyline")] == ["line raw policy", "line policy"]


def test_moving_mean_by_hand():
    short = [(0, 0.0), (1, 1.0)]
    assert moving_mean(short) is short
    # 60 points reach 3 to either side: the first is the mean of 0..3, the tenth of 7..13
    smooth = moving_mean([(i, float(i)) for i in range(60)])
    assert smooth[0] == (0, 1.5)
    assert smooth[10] == (10, 10.0)


def test_thinned_by_hand():
    assert thinned([(0, 0.0), (1, 2.0), (2, 4.0), (3, 6.0), (4, 9.0)], most=3) == [(0.5, 1.0), (2.5, 5.0), (4, 9.0)]
    few = [(0, 1.0)]
    assert thinned(few) is few


def test_one_constant_value_can_be_drawn():
    svg = parsed(line_chart("k", "t", "d", [Line("x", "policy", [[(5, 2.0), (5, 2.0)]])]))
    points = svg.find("polyline").get("points")
    assert "nan" not in points
    assert "inf" not in points


def test_reliability_by_hand():
    bins = [{"confidence": 0.75, "accuracy": 0.6, "n": 100}, {"confidence": 1.0, "accuracy": 1.0, "n": 25}]
    svg = parsed(reliability_chart("r", "t", "d", bins))
    dots = svg.findall("circle")
    # Wilson for 60 of 100: 0.502..0.691, so the axis begins at 0.4; x 46..406, y 282 (40 %) .. 28 (100 %)
    assert float(dots[0].get("cx")) == pytest.approx(226, abs=0.1)  # honest: pixels
    assert float(dots[0].get("cy")) == pytest.approx(282 - (0.6 - 0.4) / 0.6 * 254, abs=0.1)  # honest: pixels
    assert [float(d.get("r")) for d in dots] == [10.0, 6.5]  # the area above the smallest dot grows with n
    assert dots[0].find("title").text == "75% sure, 60% right, n = 100"
    whisker = next(e for e in svg.findall("line") if e.get("class") == "whisker")
    assert float(whisker.get("y1")) == pytest.approx(282 - (0.502 - 0.4) / 0.6 * 254, abs=0.5)  # honest: half a pixel


def test_a_track_by_hand():
    svg = parsed(track(Figure(0.714, 0.64, 0.77, 200), "policy", even=0.5))
    span, dot = svg.find("rect"), svg.find("circle")
    assert (span.get("x"), span.get("width")) == ("64.00%", "13.00%")
    assert dot.get("cx") == "71.40%"
    assert svg.get("aria-hidden") == "true"
    assert parsed(track(Figure(0.5), "base")).find("rect") is None  # no interval stored, none drawn


def test_shares_fill_the_bar():
    widths = [float(e.get("width")[:-1]) for e in parsed(share_bar([("simulated", 3), ("person", 1)])).findall("rect")]
    assert widths == [75.0, 25.0]


def test_the_loop_has_six_steps():
    svg = parsed(loop_picture())
    assert [g.find("text").text for g in svg.findall("g")] == ["1", "2", "3", "4", "5", "6"]
    numbers = [float(x) for x in re.findall(r"translate\(([\d.]+) ", str(loop_picture()))]
    assert min(numbers) > 78  # half a node: nothing sticks out on the left
    assert max(numbers) < 460 - 78 + 1


def test_names_are_escaped():
    evil = "</svg><script>x</script>"
    markup = str(line_chart("k", evil, evil, [Line(evil, "policy", [[(0, 0), (1, 1)]])], breaks={1: evil}))
    assert "<script" not in markup
    assert markup.count("</svg>") == 1


def test_a_frontier_has_a_dot_and_two_intervals_for_each_policy():
    spots = [
        Spot("far", Figure(4.0, 3.0, 4.0), Figure(1.0, 0.5, 1.0)),
        Spot("<near>", Figure(0.0, None, None), Figure(0.0, 0.0, 0.5)),
    ]
    svg = parsed(frontier_chart("k", "t", "d", spots, joined=True, x_name="KL", y_name="reward"))
    # plot area: x 46 (KL 0) .. 406 (KL 4) by square roots, so that 3 is at 46 + 360 * 1.732 / 2; y 282 (reward 0) .. 28
    # (reward 1); the line goes from left to right
    assert [(c.get("cx"), c.get("cy")) for c in svg.findall("circle")] == [("406.0", "28.0"), ("46.0", "282.0")]
    assert svg.find("polyline").get("points") == "46.0,282.0 406.0,28.0"
    whiskers = [e for e in svg.findall("line") if e.get("class") == "whisker"]
    assert [(w.get("x1"), w.get("y1"), w.get("x2"), w.get("y2")) for w in whiskers] == [
        ("357.8", "28.0", "406.0", "28.0"),
        ("406.0", "155.0", "406.0", "28.0"),
        ("46.0", "282.0", "46.0", "155.0"),
    ]
    assert "<near>" in [e.text for e in svg.findall("text")]


def test_an_unjoined_frontier_has_no_line():
    spots = [Spot("a", Figure(1.0), Figure(1.0)), Spot("b", Figure(2.0), Figure(3.0))]
    svg = parsed(frontier_chart("k", "t", "d", spots, joined=False, x_name="KL", y_name="reward"))
    assert svg.find("polyline") is None
    assert [e for e in svg.findall("line") if e.get("class") == "whisker"] == []
