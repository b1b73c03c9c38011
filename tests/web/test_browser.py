"""The pages in a real browser: every kind by keyboard, by touch on a phone, for everybody (axe), and under attack."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI

from prefloop.errors import InputError
from prefloop.quality.report import make_report
from prefloop.store.consents import record_quiz
from prefloop.store.database import Store
from prefloop.store.feedback import add_guideline, answers
from prefloop.store.outbox import add_webhook
from prefloop.store.queue import lease
from prefloop.store.sessions import set_password, start_session
from prefloop.store.submissions import Submission, submit
from prefloop.store.tokens import create_token
from prefloop.web.asking import Item, ask
from prefloop.web.reading import held_lease
from tests.web.crew import person, questions_of
from tests.web.payloads import PAYLOADS
from tests.web.served import ARGUMENTS, Site, found_browser, served

pytest.importorskip("playwright", reason="playwright is not installed: pip install 'prefloop[dev]'")
from playwright.sync_api import Browser, Page, sync_playwright

DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
GUIDELINE = "## Be fair\n\nPrefer the answer that **does what was asked**."


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = found_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def site(app: FastAPI) -> Iterator[Site]:
    with served(app) as running:
        yield running


class Problems(list[str]):
    """What a page complained about, and where it wanted to go."""


def opened(
    chromium: Browser, site: Site, secret: str | None, size: dict[str, int], **more: object
) -> tuple[Page, Problems]:
    context = chromium.new_context(viewport=size, **more)
    if secret:
        context.add_cookies([{"name": "prefloop", "value": secret, "url": site.url}])
    page, problems = context.new_page(), Problems()
    page.set_default_timeout(60_000)  # two busy cores can be slow
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("console", lambda said: problems.append(f"console: {said.text}") if said.type == "error" else None)
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((site.url, "about:")) else problems.append(f"away: {request.url}")
        ),
    )
    return page, problems


def by_keyboard(page: Page, kind: str) -> None:
    """What an annotator types for each kind, without the mouse."""
    if kind == "comparison":
        page.keyboard.press("2")
    elif kind == "ranking":
        for key in ("j", "j", "ArrowUp", "j", "="):
            page.keyboard.press(key)
    elif kind == "rating":
        page.keyboard.type("4355")
    elif kind == "approval":
        page.keyboard.press("n")
    elif kind == "flags":
        page.keyboard.type("cl")
    elif kind == "edit":
        page.focus("#edited")
        page.keyboard.press("Control+a")
        page.keyboard.type("Oslo is the capital of Norway.")
        page.keyboard.press("Control+Enter")
        return
    elif kind == "demonstration":
        page.focus("#written")
        page.keyboard.type("Rain on the roof")
        page.keyboard.press("Control+Enter")
        return
    page.keyboard.press("Enter")


def test_every_kind_by_keyboard_alone(chromium: Browser, site: Site, desk_store: Store) -> None:
    add_guideline(desk_store, GUIDELINE)
    questions_of(desk_store)
    who = person(desk_store, "ada", "annotator")
    page, problems = opened(chromium, site, start_session(desk_store, who), DESKTOP)
    page.goto(f"{site.url}/work")
    for n in range(7):
        kind = page.get_attribute("#task", "data-kind") or ""
        question = page.get_attribute("#task", "data-question")
        by_keyboard(page, kind)
        page.wait_for_function("before => document.querySelector('#task').dataset.question !== before", arg=question)
        assert page.inner_text("#status").startswith("Saved at "), f"{n}: {kind}"
    assert page.inner_text("h1") == "Nothing to do right now"
    said = {row.kind: row.raw for row in answers(desk_store)}
    shown = {row.kind: row.presented_order for row in answers(desk_store)}
    assert said["comparison"] == {"choice": "a", "strength": 2}
    first, second, third = shown["ranking"]
    assert said["ranking"] == {"order": [[second, first], [third]]}
    assert said["rating"] == {"scores": {"helpful": 4, "honest": 3, "harmless": 5, "overall": 5}}
    assert said["approval"] == {"approved": False}
    assert said["edit"] == {"text": "Oslo is the capital of Norway."}
    assert said["flags"] == {"flags": ["hallucination", "harmful_advice"]}
    assert said["demonstration"] == {"text": "Rain on the roof"}
    assert all(row.seconds is not None for row in answers(desk_store))
    assert problems == []


def test_every_kind_on_a_phone_by_touch(chromium: Browser, site: Site, desk_store: Store) -> None:
    questions_of(desk_store)
    who = person(desk_store, "ada", "annotator")
    page, problems = opened(chromium, site, start_session(desk_store, who), PHONE, has_touch=True, is_mobile=True)
    page.goto(f"{site.url}/work")
    touch = {
        "comparison": ["input[name=choice][value='b:3']"],
        "ranking": ["#ranking > li:nth-child(2) [data-move=up]"],
        "rating": [
            f"[data-criterion={name}] input[value='4']" for name in ("helpful", "honest", "harmless", "overall")
        ],
        "approval": ["input[name=approved][value=yes]"],
        "flags": ["input[name=none]"],
    }
    for _ in range(7):
        kind = page.get_attribute("#task", "data-kind") or ""
        question = page.get_attribute("#task", "data-question")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], f"{kind} scrolls sideways"
        for place in touch.get(kind, []):
            page.locator(place).tap()
        if kind in ("edit", "demonstration"):
            page.locator("textarea[name=text]").fill("In my own words.")
        save = page.locator("[data-action=save]")
        box = save.bounding_box()
        assert box is not None
        assert box["height"] >= 44, "too small for a thumb"
        assert box["y"] + box["height"] <= PHONE["height"], "out of a thumb's reach"
        save.tap()
        page.wait_for_function("before => document.querySelector('#task').dataset.question !== before", arg=question)
    said = {row.kind: row.raw for row in answers(desk_store)}
    assert said["comparison"] == {"choice": "b", "strength": 3}
    assert said["flags"] == {"flags": []}
    assert len(said) == 7
    assert problems == []


def test_a_passage_is_marked_on_the_rendered_text(chromium: Browser, site: Site, desk_store: Store) -> None:
    text = "🙂 Oslo is *not* the capital of Sweden. Oslo is the **capital** of Norway."
    ask(desk_store, [Item(kind="edit", prompt="Where is Oslo?", candidates=[text])])
    who = person(desk_store, "ada", "annotator")
    page, problems = opened(chromium, site, start_session(desk_store, who), DESKTOP)
    page.goto(f"{site.url}/work")
    page.locator("#rendered strong").dblclick()
    page.keyboard.press("m")
    page.fill("#marks input", "of Norway only")
    page.keyboard.press("Escape")  # out of the field, so that keys are keys again
    page.evaluate(
        "() => { const [p] = document.querySelectorAll('#rendered p');"
        " getSelection().setBaseAndExtent(p.firstChild, 3, p.childNodes[2], 4); }"
    )
    page.keyboard.press("m")
    page.click("[data-action=save]")
    page.wait_for_selector("#task[data-kind=none]")
    (row,) = answers(desk_store)
    span, over = row.raw["spans"]
    assert text[over["start"] : over["end"]] == over["quote"] == "Oslo is *not* the"
    assert text[span["start"] : span["end"]] == "capital"
    assert span["start"] == text.rindex("capital")
    assert span["comment"] == "of Norway only"
    assert problems == []


def test_drafts_stay_undo_goes_back_and_skips_have_a_reason(chromium: Browser, site: Site, desk_store: Store) -> None:
    questions_of(desk_store, "comparison", n=3)
    who = person(desk_store, "ada", "annotator")
    page, problems = opened(chromium, site, start_session(desk_store, who), DESKTOP)
    page.goto(f"{site.url}/work")
    first = page.get_attribute("#task", "data-question")
    page.keyboard.press("6")
    page.reload()
    assert page.get_attribute("#task", "data-question") == first, "a page loaded again shows the same question"
    assert page.is_checked("input[value='b:2']"), "the draft is back"
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelector('#task').dataset.question !== before", arg=first)
    assert page.locator("input[name=choice]:checked").count() == 0, "the previous answer is not shown"
    page.keyboard.press("u")
    page.wait_for_url("**/work/history/*")
    assert page.is_checked("input[value='b:2']")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_url("**/work")
    assert page.inner_text("#status").startswith("Saved at ")
    second = page.get_attribute("#task", "data-question")
    page.keyboard.press("s")
    page.keyboard.press("2")
    page.wait_for_function("before => document.querySelector('#task').dataset.question !== before", arg=second)
    every = list(answers(desk_store, corrected=True))
    assert [row.raw for row in every] == [
        {"choice": "b", "strength": 2},
        {"choice": "a", "strength": 3},
        {"skip": "I know too little about this"},
    ]
    assert every[1].replaces == every[0].id
    assert problems == []


def test_a_lost_connection_loses_and_doubles_nothing(chromium: Browser, site: Site, desk_store: Store) -> None:
    questions_of(desk_store, "approval", n=2)
    who = person(desk_store, "ada", "annotator")
    page, _ = opened(chromium, site, start_session(desk_store, who), DESKTOP)
    page.goto(f"{site.url}/work")
    first = page.get_attribute("#task", "data-question")
    times = []

    def lose(route):  # the server has stored it, and the page never hears so
        times.append(route.request.post_data)
        if len(times) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/work/answers", lose)
    # Kept, as it stands there for a second only: less than a busy machine may take to look.
    page.evaluate("""() => {
        window.told = [];
        const look = () => window.told.push(document.querySelector("#status").textContent);
        new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
    }""")
    page.keyboard.press("y")
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelector('#task').dataset.question !== before", arg=first)
    assert any(told.startswith("Not saved yet") for told in page.evaluate("window.told"))
    assert len(times) == 2
    assert times[0] == times[1]
    assert len(list(answers(desk_store))) == 1


def test_a_content_warning_covers_until_asked(chromium: Browser, site: Site, desk_store: Store) -> None:
    ask(desk_store, [Item(kind="approval", prompt="Say it.", candidates=["Something grim."], sensitive="violence")])
    who = person(desk_store, "ada", "annotator")
    page, problems = opened(chromium, site, start_session(desk_store, who), DESKTOP)
    page.goto(f"{site.url}/work")
    assert "violence" in page.inner_text("[data-cover]")
    assert not page.is_visible("text=Something grim.")
    page.keyboard.press("v")
    assert page.is_visible("text=Something grim.")
    page.goto(f"{site.url}/me")
    page.check("input[value=violence]")
    page.click("form[action='/me/refusals'] button")
    assert page.inner_text(".notice") == "Saved."
    assert problems == []


def test_the_way_of_a_lead(chromium: Browser, site: Site, desk_store: Store) -> None:
    lead = person(desk_store, "lena", "lead")
    page, problems = opened(chromium, site, start_session(desk_store, lead), DESKTOP)
    page.goto(f"{site.url}/lead/import")
    page.fill(
        "#pasted",
        'prompt,completion_a,completion_b\n"Name a colour.","Blue.","Seven."\n"Name a day.","Monday.","Cat."\n',
    )
    page.click("text=Import >> nth=-1")
    assert "2 of 2 rows are questions now" in page.inner_text(".notice")
    page.goto(f"{site.url}/lead/guidelines")
    page.fill("#text", GUIDELINE)
    page.fill("#quiz", "Which one?\n- the longer\n+ the better")
    page.click("text=Save as a new version")
    page.goto(f"{site.url}/lead/people")
    page.click("text=Make a link")
    link = page.inner_text(".secret")
    other, wrong = opened(chromium, site, None, PHONE, has_touch=True, is_mobile=True)
    other.goto(link)
    other.fill("#name", "mina")
    other.fill("#password", "a few plain words")
    other.fill("#again", "a few plain words")
    other.click("text=Begin")
    for name in ("training", "publication"):
        other.check(f"input[name={name}][value=yes]", force=True)
    other.click("text=Save my choices")
    other.check("input[name=q0][value='1']")
    other.click("text=Check")
    other.locator("input[name=choice][value='a:2']").tap()
    other.locator("[data-action=save]").tap()
    other.wait_for_function("() => document.querySelector('#status').textContent.startsWith('Saved at')")
    page.goto(f"{site.url}/lead?rate=15")
    assert "1 / 4" in page.inner_text("main")
    page.goto(f"{site.url}/lead/export")
    with page.expect_download() as download:
        page.click("text=Download")
    content = Path(download.value.path()).read_text(encoding="utf-8")
    assert content.count("\n") == 2
    assert "mina" not in content
    assert problems == wrong == []


def test_two_who_differ_are_settled_side_by_side(chromium: Browser, site: Site, desk_store: Store) -> None:
    questions_of(desk_store, "comparison", overlap=2)
    for name, which in (("ada", 0), ("bo", 1)):
        who = person(desk_store, name, "annotator")
        (held,) = lease(desk_store, who)
        best = sorted(one["id"] for one in held.candidates)[which]
        choice = "ab"[[one["id"] for one in held.candidates].index(best)]
        submit(desk_store, [Submission(lease_token=held.token, value={"choice": choice}, idempotency_key="k")])
    judge = person(desk_store, "judge", "adjudicator")
    page, problems = opened(chromium, site, start_session(desk_store, judge), DESKTOP)
    page.goto(f"{site.url}/lead/review")
    page.click(".list a")
    assert page.locator(".opinions li").count() == 2
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_url("**/lead/review?done=adjudicated")
    assert "settled" in page.inner_text(".list")
    (settled,) = [row for row in answers(desk_store) if row.adjudication]
    assert settled.value == {"choice": "a", "strength": 3}
    assert problems == []


@pytest.fixture(scope="module")
def axe() -> str:
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core is not installed: pip install 'prefloop[dev]' (axe-playwright-python carries it)")
    return Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")


AXE = "() => axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']})"


@pytest.mark.parametrize("look", ["light", "dark"])
def test_axe_finds_nothing(chromium: Browser, site: Site, desk_store: Store, axe: str, look: str) -> None:
    add_guideline(desk_store, GUIDELINE)
    questions_of(desk_store)
    secret = start_session(desk_store, person(desk_store, "ada", "admin"))
    page, _ = opened(chromium, site, secret, DESKTOP, color_scheme=look, bypass_csp=True)  # to bring axe in

    def check(where: str) -> None:
        page.wait_for_timeout(200)  # colours fade for 120 ms
        page.evaluate(axe)
        found = page.evaluate(AXE)["violations"]
        said = [f"{one['id']}: {one['help']}: {[n['html'][:160] for n in one['nodes']][:3]}" for one in found]
        assert not said, f"{where} ({look}): {said}"

    for path in ("/login", "/lead", "/lead/import", "/lead/review", "/lead/agreement", "/lead/guidelines",
                 "/lead/people", "/lead/export", "/me", "/consent", "/guideline", "/api", "/nowhere"):  # fmt: skip
        page.goto(site.url + path)
        check(path)
    page.goto(f"{site.url}/work")
    for _ in range(7):
        kind = page.get_attribute("#task", "data-kind") or ""
        question = page.get_attribute("#task", "data-question")
        check(f"{kind}, empty")
        page.keyboard.press("?")
        by_keyboard(page, kind)
        page.wait_for_function("before => document.querySelector('#task').dataset.question !== before", arg=question)
    check("nothing to do")
    page.goto(f"{site.url}/work/history")
    check("history")
    page.click(".list a")
    check("correction")


def attacked(page: Page, problems: Problems, where: str) -> None:
    assert page.evaluate("window.pwned") is None, f"a script ran in {where}"
    assert [one for one in problems if one.startswith("away")] == [], where


def test_a_hundred_payloads_run_nothing_and_call_nobody(chromium: Browser, site: Site, desk_store: Store) -> None:
    assert len(set(PAYLOADS)) >= 100
    text = "\n\n".join(PAYLOADS)
    add_guideline(desk_store, text)
    ask(desk_store, [
        Item(kind="comparison", prompt=[{"role": "system", "content": text}, {"role": "user", "content": text}],
             candidates=[text, f"{text}."], sensitive=PAYLOADS[0][:60]),
        Item(kind="ranking", prompt=text, candidates=[text, f"{text}.", f"{text}.."]),
        Item(kind="edit", prompt=text, candidates=[text]),
        Item(kind="rating", prompt=text, candidates=[text], columns={"criteria": PAYLOADS[20:24]}),
        *(Item(kind="flags", prompt=one, candidates=[f"{one} again"]) for one in PAYLOADS[:6]),
    ])  # fmt: skip
    who = person(desk_store, PAYLOADS[0], "admin", "annotator")
    page, problems = opened(chromium, site, start_session(desk_store, who), DESKTOP)
    for _ in range(4):
        page.goto(f"{site.url}/work")
        kind = page.get_attribute("#task", "data-kind") or ""
        attacked(page, problems, kind)
        if page.locator("[data-cover]").count():
            page.keyboard.press("v")
        page.click("[data-action=skip] >> visible=true >> nth=0")
        page.fill("#own-reason", PAYLOADS[1])
        question = page.get_attribute("#task", "data-question")
        page.click("[data-action=own-skip]")
        page.wait_for_function("before => document.querySelector('#task').dataset.question !== before", arg=question)
        attacked(page, problems, f"{kind}, skipped")
    for path in ("/work/history", "/me", "/guideline", "/lead", "/lead/review?all=true", "/lead/guidelines",
                 "/lead/people", "/lead/import"):  # fmt: skip
        page.goto(site.url + path)
        attacked(page, problems, path)
    page.fill("#pasted", text)
    page.click("text=Import >> nth=-1")
    attacked(page, problems, "a refused import")


@pytest.mark.prove
def test_each_payload_alone_in_each_rendered_field(chromium: Browser, site: Site, desk_store: Store) -> None:
    """One page per payload: what one of them breaks must not hide what another would do."""
    who = person(desk_store, "ada", "annotator")
    secret = start_session(desk_store, who)
    page, problems = opened(chromium, site, secret, DESKTOP)
    for payload in PAYLOADS:
        one = Item(kind="comparison", prompt=payload, candidates=[payload, f"{payload} x"], sensitive=payload[:60])
        ask(desk_store, [one])
        page.goto(f"{site.url}/work")
        if page.locator("[data-cover]").count():
            page.keyboard.press("v")
        page.click(".note summary")
        page.fill("#note", payload)
        page.keyboard.press("Escape")
        question = page.get_attribute("#task", "data-question")
        page.keyboard.press("4")
        page.keyboard.press("Enter")
        page.wait_for_function("before => document.querySelector('#task').dataset.question !== before", arg=question)
        page.goto(f"{site.url}/work/history")
        page.click(".list a >> nth=0")
        page.wait_for_selector("#answer")
        attacked(page, problems, payload)


def said_about(store: Store, who: str, payload: str) -> str:
    """Answer the one question that waits, with the payload wherever a person can write; the id of the question."""
    held = held_lease(store, who) or lease(store, who)[0]
    value = {
        "comparison": {"choice": "a", "note": payload},
        "edit": {"text": f"{payload}!", "spans": [{"start": 0, "end": 3, "quote": payload[:3], "comment": payload}]},
        "rating": {"scores": {payload[:64]: 3}, "note": payload},
        "flags": {"flags": [payload[:60]]},
        "demonstration": {"text": payload},
        "ranking": {"skip": payload[:300]},
    }[held.kind]
    submit(store, [Submission(lease_token=held.token, value=value, idempotency_key=held.token)])
    return held.question_id


@pytest.mark.prove
@pytest.mark.parametrize("fifth", range(5))
def test_each_payload_in_every_other_field(chromium: Browser, site: Site, desk_store: Store, fifth: int) -> None:
    """Guideline, quiz, criteria, flags, edits, marks, notes, reasons, names, tags, sources, slices, tokens, webhooks.

    What stands alone on a page is looked at payload by payload; what is listed, on one page with all the others.
    """
    who = person(desk_store, "ada", "annotator")
    set_password(desk_store, who, "a few plain words")
    lead = person(desk_store, "lena", "admin")
    page, problems = opened(chromium, site, start_session(desk_store, who), DESKTOP)
    ruling, seen = opened(chromium, site, start_session(desk_store, lead), DESKTOP)
    for number, payload in enumerate(PAYLOADS[fifth::5]):
        other = person(desk_store, f"{payload} {number}"[:180], "annotator")
        quiz = [{"question": payload, "options": [payload, f"{payload} x"], "correct": 0}]
        version = add_guideline(desk_store, payload, quiz=quiz)
        page.goto(f"{site.url}/quiz")
        attacked(page, problems, f"quiz: {payload}")
        for one in (who, other):
            record_quiz(desk_store, one, version, True)
        asked = [
            Item(kind="edit", prompt=payload, candidates=[payload]),
            Item(kind="rating", prompt=payload, candidates=[payload], columns={"criteria": [payload[:64]]}),
            Item(kind="flags", prompt=payload, candidates=[payload]),
            Item(kind="ranking", prompt=payload, candidates=[payload, f"{payload} x", f"{payload} y"]),
            Item(kind="demonstration", prompt=payload),
        ]
        for item in asked:
            ask(desk_store, [replace(item, audience=[who])], source=payload)
            page.goto(f"{site.url}/work")
            assert page.get_attribute("#task", "data-kind") == item.kind
            if item.kind == "edit":
                page.fill("#edited", f"{payload} {payload}")
                page.wait_for_function("() => document.querySelector('#diff ins')")
            if item.kind == "flags":
                page.fill("#own-flag", payload[:60])
                page.click("[data-action=own-flag]")
            attacked(page, problems, f"{item.kind}: {payload}")
            said_about(desk_store, who, payload)
        pair = Item(kind="comparison", prompt=payload, candidates=[payload, f"{payload} x"], overlap=2,
                    sensitive=payload[:64], columns={"subset": payload}, audience=[who, other])  # fmt: skip
        (question,) = ask(desk_store, [pair])
        for one in (who, other):
            said_about(desk_store, one, payload)
        create_token(desk_store, f"{payload[:160]} token {number}", "viewer")
        ruling.goto(f"{site.url}/lead/review/{question}")
        attacked(ruling, seen, f"side by side: {payload}")
    for url in PAYLOADS[fifth::5]:
        with contextlib.suppress(InputError):
            add_webhook(desk_store, f"https://host.invalid/?{url}")
    make_report(desk_store)
    for path in ("/lead", "/lead/review?all=true", "/lead/guidelines", "/lead/people", "/lead/agreement", "/me",
                 "/lead/export", "/lead/import", "/api"):  # fmt: skip
        ruling.goto(site.url + path)
        attacked(ruling, seen, path)
    for path in ("/work/history", "/me", "/consent", "/guideline"):
        page.goto(site.url + path)
        attacked(page, problems, path)
