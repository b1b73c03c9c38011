"""The task world: prompts of three families, and what people answer to them.

email       write an email that requests something
arithmetic  plus, minus and times with small numbers, also as small stories
code        write a small function in Python or Java, and say in a sentence what it does

Ground truth is in `prefloop.rewards.checkers`. `task_prompts` asks, `spec_of` recovers what a prompt of other wording
asks, `demonstrate` answers as an imperfect person would, and `task_text` (from its own file) makes the documents from
which the base model learns what it takes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Protocol

from prefloop.errors import InputError
from prefloop.labelers.task_text import (
    ASKS,
    CLOSINGS,
    EXPLANATIONS,
    OPENERS,
    operands,
    subject_line,
    task_text,
)
from prefloop.labelers.task_words import (
    COUNTED,
    FIRST,
    FUNCTIONS,
    GREETED,
    METHOD_NAMES,
    PARAMETERS,
    RECIPIENTS,
    TOPICS,
    Function,
    Topic,
    camel,
    fill,
    full_name,
    gerund,
    infinitive,
    java_source,
    pick,
    python_source,
)

FAMILIES = ("email", "arithmetic", "code")
Split = Literal["train", "fresh"]

SHOW_PROMPTS = (
    "Write an email requesting an interview",
    "What is 5 + 5?",
    "Write a simple Java code that adds two integers",
)
"""Shown before and after training; `task_prompts` never draws exactly these, so nobody demonstrates them."""


@dataclass(frozen=True)
class Task:
    """A prompt of the task world and what its checker has to know."""

    prompt: str
    family: str
    """email, arithmetic or code"""
    spec: dict[str, Any]
    """email: topic, words (any names it), detail; arithmetic: a, op (+ - x), b, answer; code: language, idea."""


class Writer(Protocol):
    """The part of a simulated person's profile that writing depends on."""

    @property
    def mistake(self) -> float:
        """Chance of a wrong choice in a comparison, 0..1."""
        ...


def task_prompts(n: int, seed: int, families: Sequence[str] = FAMILIES, split: Split = "train") -> list[Task]:
    """`n` tasks with different prompts, the families in turn, the same for the same seed.

    `fresh` tasks are about combinations (operands; topic with its slot; language, function and words for it) that
    `train` never draws, and half of them use phrasings that `train` never uses.
    Raises InputError for an unknown family or split.
    """
    unknown = [family for family in families if family not in FAMILIES]
    if unknown or not families:
        raise InputError(f"families must be some of {', '.join(FAMILIES)}, got {', '.join(unknown) or 'none'}")
    if split not in ("train", "fresh"):
        raise InputError(f"split must be train or fresh, got {split!r}")
    rng = Random(f"task_prompts:{split}:{seed}")
    tasks: list[Task] = []
    seen = set(SHOW_PROMPTS)
    tries = 0
    while len(tasks) < n:
        tries += 1
        task = _MAKERS[families[len(tasks) % len(families)]](rng, split)
        # After many tries the wordings are used up (thousands per family): then a repetition is better than none.
        if task is not None and (task.prompt not in seen or (tries > 200 * n and task.prompt not in SHOW_PROMPTS)):
            seen.add(task.prompt)
            tasks.append(task)
    return tasks


def _held_out(*key: object) -> bool:
    """True for one combination in eight, decided by its hash: these are for `fresh` prompts only."""
    return hashlib.sha256(repr(key).encode()).digest()[0] < 32


def _phrase(rng: Random, split: Split, known: Sequence[str], kept: Sequence[str]) -> str:
    return pick(rng, kept) if split == "fresh" and rng.random() < 0.5 else pick(rng, known)


def _vary(prompt: str, rng: Random) -> str:
    """The carelessness of people who type: final mark dropped, first letter small, a please."""
    place = rng.random()
    if place < 0.35 and prompt[-1] in ".?":
        prompt = prompt[:-1]
    elif place < 0.45 and prompt[-1] not in ".?!":
        prompt += "."
    place = rng.random()
    if place < 0.15:
        prompt = prompt[0].lower() + prompt[1:]
    elif place < 0.20 and "lease" not in prompt:
        prompt = f"Please {prompt[0].lower()}{prompt[1:]}"
    return prompt


# --- email -------------------------------------------------------------------------------------------------------

_EMAIL = (
    "Write an email{to} requesting {asked}{slot}",
    "Write an email{to} requesting {asked}{slot}.",
    "Write an email{to} asking for {asked}{slot}.",
    "Write a short email{to} asking for {asked}{slot}.",
    "Write a polite email{to} to request {asked}{slot}.",
    "Write a formal email{to} requesting {asked}{slot}.",
    "Write a professional email{to} to ask for {asked}{slot}.",
    "Write a brief email{to} that requests {asked}{slot}.",
    "Write me an email{to} requesting {asked}{slot}.",
    "Please write an email{to} requesting {asked}{slot}.",
    "Can you write an email{to} asking for {asked}{slot}?",
    "Could you write an email{to} to request {asked}{slot}?",
    "Draft an email{to} requesting {asked}{slot}.",
    "Draft a message{to} that asks for {asked}{slot}.",
    "Compose an email{to} requesting {asked}{slot}.",
    "Create an email{to} to request {asked}{slot}.",
    "Prepare an email{to} asking for {asked}{slot}.",
    "Make an email{to} requesting {asked}{slot}.",
    "Give me an email{to} requesting {asked}{slot}.",
    "Help me write an email{to} asking for {asked}{slot}.",
    "I need an email{to} that asks for {asked}{slot}.",
    "I need an email{to} requesting {asked}{slot}.",
    "I want to request {asked}{slot}. Write the email{to}.",
    "I need to ask for {asked}{slot}. Please write an email{to} for me.",
    "I would like to ask for {asked}{slot}. Can you write the email{to}?",
    "Write a request for {asked}{slot} as an email{to}.",
    "Write a letter{to} requesting {asked}{slot}.",
    "How do I ask for {asked}{slot} in an email{to}?",
    "Email{to} requesting {asked}{slot}",
    "Write an email{to}: request {asked}{slot}.",
)
_EMAIL_KEPT = (
    "Put together an email{to} asking for {asked}{slot}.",
    "Write a courteous email{to} in which you request {asked}{slot}.",
    "Would you draft an email{to} to request {asked}{slot}?",
    "Type an email{to} requesting {asked}{slot}.",
    "My task today is to request {asked}{slot}. Draft an email{to}.",
)


def email_spec(topic: str, detail: str = "") -> dict[str, Any]:
    """What the email checker needs: the topic, the words that name it, and what was said further (` from Oakfield`)."""
    return {"topic": topic, "words": [topic, *TOPICS[topic].words], "detail": detail}


def _email(rng: Random, split: Split) -> Task | None:
    topic = pick(rng, tuple(TOPICS.values()))
    slot = fill(pick(rng, topic.slots), rng) if rng.random() < 0.5 else ""
    to = f" to {fill(pick(rng, RECIPIENTS), rng)}" if rng.random() < 0.35 else ""
    # With neither slot nor recipient there are only sixteen combinations, and every one of them is common.
    if (slot or to) and _held_out(topic.name, slot, to) != (split == "fresh"):
        return None
    if not slot and not to and split == "fresh":
        prompt = pick(rng, _EMAIL_KEPT)
    else:
        prompt = _phrase(rng, split, _EMAIL, _EMAIL_KEPT)
    prompt = prompt.replace("{to}", to).replace("{asked}", topic.asked).replace("{slot}", slot)
    return Task(_vary(prompt, rng), "email", email_spec(topic.name, slot))


# --- arithmetic --------------------------------------------------------------------------------------------------

_EXPRESSION = (
    "What is {e}?", "What is {e}?", "Calculate {e}.", "Compute {e}.", "How much is {e}?", "{e} = ?", "{e}", "{e} =",
    "Solve {e}.", "What does {e} equal?", "What is the result of {e}?", "Find {e}.", "Work out {e}.",
    "Tell me what {e} is.", "Can you calculate {e}?", "What do you get for {e}?", "Give me the answer to {e}.",
    "Evaluate {e}.", "What's {e}?",
)  # fmt: skip
_EXPRESSION_KEPT = (
    "Please tell me {e}.",
    "I have to know {e}. What is it?",
    "Do you know what {e} makes?",
    "Answer this: {e}",
)
_SIGNS = {
    "+": (" + ", " + ", " + ", " plus "),
    "-": (" - ", " - ", " - ", " minus "),
    "x": (" x ", " x ", " * ", " times "),
}
_WORDED = {
    "+": (
        "What is the sum of {a} and {b}?", "Add {a} and {b}.", "Find the sum of {a} and {b}.",
        "How much do {a} and {b} make?",
        "What do you get when you add {a} and {b}?", "What is {a} added to {b}?",
    ),
    "-": (
        "What is the difference of {a} and {b}?", "Subtract {b} from {a}.", "Take {b} away from {a}.",
        "What is left when you take {b} from {a}?", "What is the difference between {a} and {b}?",
    ),
    "x": (
        "What is the product of {a} and {b}?", "Multiply {a} by {b}.", "Multiply {a} and {b}.",
        "What is {a} multiplied by {b}?", "Find the product of {a} and {b}.",
    ),
}  # fmt: skip
_STORIES = {
    "+": (
        "{n} has {a} {t} and buys {b} more. How many {t} does {n} have?",
        "{n} has {a} {t}. {m} gives {n} {b} more. How many {t} does {n} have now?",
        "There are {a} {t} in a box and {b} in a bag. How many {t} are there in all?",
        "{n} finds {a} {t} and {m} finds {b}. How many {t} do they have together?",
        "{n} had {a} {t} and got {b} more. How many {t} are there now?",
    ),
    "-": (
        "{n} has {a} {t} and gives {b} to {m}. How many {t} are left?",
        "{n} had {a} {t} and lost {b}. How many {t} does {n} still have?",
        "There are {a} {t} in a box. {n} takes {b}. How many {t} are left?",
        "{n} has {a} {t} and sells {b}. How many {t} remain?",
    ),
    "x": (
        "{n} has {a} boxes with {b} {t} each. How many {t} does {n} have?",
        "There are {a} rows of {b} {t}. How many {t} are there in all?",
        "Each of {a} children has {b} {t}. How many {t} do they have together?",
    ),
}  # fmt: skip


LARGEST = 20
"""Numbers in the sums that are asked: those that a policy of six million parameters can be taught to get right."""


def _arithmetic(rng: Random, split: Split) -> Task | None:
    a, sign, b, answer = operands(rng)
    if max(a, b) > LARGEST:
        return None
    show = (a, sign, b) == (5, "+", 5)
    if (_held_out(a, sign, b) and not show) != (split == "fresh"):
        return None
    place = rng.random()
    if place < 0.6:
        expression = f"{a}{pick(rng, _SIGNS[sign])}{b}"
        prompt = _phrase(rng, split, _EXPRESSION, _EXPRESSION_KEPT).replace("{e}", expression)
    elif place < 0.8 or answer < 0:
        prompt = pick(rng, _WORDED[sign]).format(a=a, b=b)
    else:
        i = int(rng.random() * len(FIRST))
        names = {"n": FIRST[i], "m": FIRST[i - 1 - int(rng.random() * 40)], "t": pick(rng, COUNTED)}
        prompt = pick(rng, _STORIES[sign]).format(a=a, b=b, **names)
    return Task(_vary(prompt, rng), "arithmetic", {"a": a, "op": sign, "b": b, "answer": answer})


# --- code --------------------------------------------------------------------------------------------------------

_CODE = (
    "Write a simple {L} code that {does}",
    "Write a simple {L} code that {does}.",
    "Write {L} code that {does}.",
    "Write a {L} function that {does}.",
    "Write a simple {L} function that {does}.",
    "Write a small {L} program that {does}.",
    "Write a {L} function to {do}.",
    "Write {L} code to {do}.",
    "Write a short {L} function for {doing}.",
    "Please write a {L} function that {does}.",
    "Can you write a {L} function that {does}?",
    "Could you write {L} code to {do}?",
    "Create a {L} function that {does}.",
    "Create a simple {L} function to {do}.",
    "Give me a {L} function that {does}.",
    "Give me {L} code to {do}.",
    "Show me {L} code that {does}.",
    "Show me how to {do} in {L}.",
    "How do I {do} in {L}?",
    "How can I {do} in {L}?",
    "I need a {L} function that {does}.",
    "Implement a {L} function that {does}.",
    "Implement a function in {L} to {do}.",
    "In {L}, write a function that {does}.",
    "Using {L}, write a function that {does}.",
    "Make a {L} function that {does}.",
    "Help me {do} in {L}.",
    "Write a function in {L} that {does}.",
    "{L} function that {does}",
    "{L} code to {do}",
)
_CODE_KEPT = (
    "Code a {L} function that {does}.",
    "What is a {L} function that {does}?",
    "Please show a bit of {L} that {does}.",
    "My homework: a {L} function to {do}.",
    "Define a {L} function that {does}.",
)


def _code(rng: Random, split: Split) -> Task | None:
    function = pick(rng, tuple(FUNCTIONS.values()))
    language = pick(rng, ("python", "java"))
    known = pick(rng, _CODE)
    kept = split == "fresh" and rng.random() < 0.5
    verb = pick(rng, function.verbs)
    show = (language, verb) == ("java", "adds two integers")
    wording = known.lower().removeprefix("please ").rstrip(".?")  # what `_vary` may make of it is the same wording
    if not kept and (_held_out(language, verb, wording) and not show) != (split == "fresh"):
        return None
    phrase = pick(rng, _CODE_KEPT) if kept else known
    slots = {"L": language.capitalize(), "does": verb, "do": infinitive(verb), "doing": gerund(verb)}
    return Task(_vary(phrase.format(**slots), rng), "code", {"language": language, "idea": function.name})


_MAKERS = {"email": _email, "arithmetic": _arithmetic, "code": _code}

# --- demonstrations ----------------------------------------------------------------------------------------------

LETTER_FACTOR = 10.0
"""Writing is harder than judging: who picks wrongly once in ten times leaves something out of every letter."""
SUM_FACTOR = 0.4
"""The same for sums, where writing is hardly harder."""


def demonstrate(task: Task, rng: Random, profile: Writer) -> str:
    """What a person with this profile writes in answer to `task`.

    Flaws are systematic, as those of hurried people are: the letter stops after the request, the code comes without
    a word of explanation; now and then a subject, a greeting, a polite word or a fence is missing, an operator is
    wrong, a sum is a little off. With `profile.mistake == 0` the answer always passes its checker.
    """
    factor = SUM_FACTOR if task.family == "arithmetic" else LETTER_FACTOR
    flawed = rng.random() < min(1.0, factor * profile.mistake)
    if task.family == "email":
        return _write_email(task, rng, flawed)
    if task.family == "arithmetic":
        return _write_sum(task, rng, flawed)
    if task.family == "code":
        return _write_code(task, rng, flawed)
    raise InputError(f"family must be one of {', '.join(FAMILIES)}, got {task.family!r}")


_NAMES = 40
"""Demonstrators' names come from the first 40 of either list, so that a small policy can learn to sign."""


def _write_email(task: Task, rng: Random, flawed: bool) -> str:
    topic = TOPICS.get(task.spec["topic"]) or _other_topic(task)
    # The commonest omission is the last part: a policy that copies the usual demonstrator then stops too early.
    flaw = pick(rng, ("closing",) * 17 + ("polite", "subject", "greeting")) if flawed else ""
    slot = task.spec.get("detail") or (pick(rng, topic.slots) if topic.slots and rng.random() < 0.2 else "")
    detail = pick(rng, topic.details)
    if flaw == "polite":
        body = f"{pick(rng, ('I want {asked}{slot}.', 'Give me {asked}{slot}.', 'I need {asked}{slot} now.'))} {detail}"
        body += f" {pick(rng, ('Answer me soon.', 'Do not make me wait.', 'I expect a quick answer.'))}"
    else:
        body = f"{pick(rng, OPENERS)} {detail} {pick(rng, ASKS)}"
    body = fill(body.replace("{asked}", topic.asked).replace("{slot}", slot), rng)
    parts = [f"Subject: Request for {topic.asked}" if rng.random() < 0.5 else subject_line(topic, rng)]
    parts += [
        fill(f"Dear {pick(rng, GREETED)},", rng),
        body,
        f"{pick(rng, CLOSINGS)}\n{full_name(rng, _NAMES, _NAMES)}",
    ]
    missing = {"subject": 0, "greeting": 1, "closing": 3}.get(flaw)
    return "\n\n".join(part for i, part in enumerate(parts) if i != missing)


def _other_topic(task: Task) -> Topic:
    """A topic that the task world has no vocabulary for, with the article that the prompt gives it."""
    name = str(task.spec["topic"])
    match = re.search(rf"(?i)\b(?:an?|the|my|some|your) +{re.escape(name)}", task.prompt)
    details = ("It would help me a lot.", "I have waited for {years} days.", "It is important to me.")
    return Topic(name, match.group().lower() if match else name, (), details)


def _write_sum(task: Task, rng: Random, flawed: bool) -> str:
    a, sign, b, answer = (task.spec[key] for key in ("a", "op", "b", "answer"))
    if flawed:
        answer += pick(rng, (1, -1, 1, -1, 2, -2, 10, -10))
    return f"{a} {sign} {b} = {answer}."


def _write_code(task: Task, rng: Random, flawed: bool) -> str:
    function, language = FUNCTIONS[task.spec["idea"]], task.spec["language"]
    # As with letters: the usual omission is the last part.
    flaw = pick(rng, ("explanation",) * 17 + ("fence", "bug", "bug")) if flawed else ""
    source = _slip(function, language) if flaw == "bug" else None
    name, names = pick(rng, METHOD_NAMES[function.name]), pick(rng, PARAMETERS[function.params])
    if language == "python":
        code = python_source(function, name, names, source)
    else:
        method = camel(name)
        code = java_source(function, method, names, source, cls=method[0].upper() + method[1:])
    if flaw != "fence":
        code = f"```{language}\n{code}\n```"
    if flaw == "explanation":
        return code
    return f"{code}\n\n{pick(rng, EXPLANATIONS).format(noun=function.noun, verb=pick(rng, function.verbs))}"


def _slip(function: Function, language: str) -> str:
    body = function.python if language == "python" else function.java
    old, new = (function.java_bug if language == "java" else None) or function.bug
    return body.replace(old, new, 1)


# --- prompts of other people's wording ---------------------------------------------------------------------------

_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_NUMBER = r"(-?\d+)"
_INFIX = re.compile(
    rf"{_NUMBER}\s*(\+|plus\b|added to\b|-|−|–|minus\b|less\b|take away\b|x\b|×|\*|times\b|multiplied by\b)\s*{_NUMBER}"
)
_PREFIX = (
    (re.compile(rf"\b(?:sum of|add|adding|total of)\s+{_NUMBER}\s+(?:and|to|with)\s+{_NUMBER}"), "+"),
    (re.compile(rf"\b{_NUMBER}\s+and\s+{_NUMBER}\s+(?:make|together|in all|altogether)"), "+"),
    (re.compile(rf"\bdifference (?:of|between)\s+{_NUMBER}\s+and\s+{_NUMBER}"), "-"),
    (re.compile(rf"\b(?:product of|multiply|multiplying)\s+{_NUMBER}\s+(?:and|by|with|times)\s+{_NUMBER}"), "x"),
)
_REVERSED = re.compile(rf"\b(?:subtract|subtracting|take|taking|deduct)\s+{_NUMBER}\s+(?:away\s+)?from\s+{_NUMBER}")
_STORY = re.compile(r"\bhow (?:many|much)\b|\bwhat is left\b|\bin (?:all|total)\b")
_STORY_TIMES = re.compile(r"\b(?:each|every|per|apiece|rows? of|groups? of)\b")
_STORY_MINUS = re.compile(
    r"\b(?:left|remain\w*|lost|loses?|ate|eats?|sold|sells?|fewer|away|still|spends?|spent|breaks?|broke|takes?|took|"
    r"uses?|used|gives? (?!her|him|them)\d|(?:gives?|gave) \d+|than)\b"
)
_MORE_OF_IT = re.compile(r"\b(?:more|another|additional|extra|together|altogether|in all|in total)\b")
_CODE_WORDS = re.compile(r"\b(?:python|java)\b")
_IDEAS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (idea, re.compile(pattern))
    for idea, pattern in (
        ("factorial", r"\bfactorial"),
        ("reverse", r"\brevers|\bbackwards?\b"),
        ("length", r"\blength\b|\bhow long\b|\b(?:count\w*|number of) (?:all |of |the |number )*(?:char|letter)"),
        ("sum_list", r"\b(?:sum|add|total)\w*\b.*\b(?:list|array|elements)\b|\b(?:list|array)\b.*\bsum\b"),
        ("is_even", r"\beven\b"),
        ("absolute", r"\babsolute\b"),
        ("cube", r"\bcub(?:e|es|ed|ing)\b"),
        ("square", r"\bsquar(?:e|es|ed|ing)\b(?! root)"),
        ("remainder", r"\bremainder\b|\bmodul(?:o|us)\b"),
        ("negate", r"\bnegat(?:e|es|ing|ive)\b|\bopposite sign\b|\bsign changed\b"),
        ("max", r"\b(?:max|maximum|larger|largest|greater|greatest|bigger|biggest)\b"),
        ("min", r"\b(?:min|minimum|smaller|smallest|lesser)\b"),
        ("double", r"\bdoubl(?:e|es|ing)\b(?! value)|\btwice\b|\bby (?:two|2)\b"),
        ("subtract", r"\bsubtract|\bdifference\b|\bminus\b"),
        ("multiply", r"\bmultipl|\bproduct\b|\btimes\b"),
        ("add", r"\badd|\bsums?\b|\bsumming\b|\bplus\b|\baddition\b"),
    )
)  # fmt: skip
_TOPIC_WORDS = sorted(
    [(word, topic.name) for topic in TOPICS.values() for word in (topic.name, *topic.words)], key=lambda t: -len(t[0])
)
_LETTER = re.compile(r"\b(?:e-?mail|mail|letter|message|note)\b")
_ASKED_FOR = re.compile(
    r"\b(?:request(?:s|ing)?(?: for)?|ask(?:s|ing)? (?:\w+ ){0,3}?for|appl(?:y|ies|ying) for|want|need)\s+"
    r"(?:an?\s+|the\s+|my\s+|some\s+|your\s+)?(\w[\w' -]*)"
)
_AFTER_NOUN = re.compile(r"\s(?:for|from|to|on|with|about|at|of|in|as|by|because|after|next|until|regarding)\b")


def spec_of(prompt_text: str) -> Task | None:
    """The family and spec of a prompt in anybody's words, or None when it is none of the three families.

    Code is recognised by its language and the idea of the function, sums by an expression or by words for it (small
    stories by `how many` and two numbers), letters by what follows `requesting`, `ask for` and the like; a topic that
    the task world does not know is kept by its own word.
    """
    text = " ".join(prompt_text.lower().split())
    return _spec_code(prompt_text, text) or _spec_email(prompt_text, text) or _spec_sum(prompt_text, text)


def _spec_code(prompt: str, text: str) -> Task | None:
    language = _CODE_WORDS.search(text)
    if language is None:
        return None
    idea = next((name for name, pattern in _IDEAS if pattern.search(text)), None)
    return Task(prompt, "code", {"language": language.group(), "idea": idea}) if idea else None


def _spec_email(prompt: str, text: str) -> Task | None:
    if not _LETTER.search(text):
        return None
    asked = [match.group(1) for match in _ASKED_FOR.finditer(text) if not _LETTER.match(match.group(1))]
    for phrase in (*asked, text):
        start = _AFTER_NOUN.split(phrase)[0]
        for piece in (start, phrase):
            named = [(piece.find(word), name) for word, name in _TOPIC_WORDS if re.search(rf"\b{word}", piece)]
            if named:
                name = min(named)[1]
                return Task(prompt, "email", email_spec(name, _detail(prompt, name)))
    if not asked:
        return None
    noun = _AFTER_NOUN.split(asked[0])[0].strip(" .'-")
    head = noun.split()[-1]
    return Task(prompt, "email", {"topic": noun, "words": [noun, head], "detail": ""})


_SENTENCE_END = re.compile(r"(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bMrs)[.?!](?:\s|$)|,| (?:as|in|by) an? e-?mail\b")
_DETAIL = re.compile(r" (?:for|from|about|on|of|until|in|to|with|at|next) ")


def _detail(prompt: str, topic: str) -> str:
    """What a prompt says further about its topic, ` with Dr. Reed`, or nothing when that cannot be told."""
    one_line = " ".join(prompt.split())
    match = re.search(rf"\b{topic}(?= )", one_line, re.IGNORECASE)
    rest = _SENTENCE_END.split(one_line[match.end() :])[0] if match else ""
    return rest if _DETAIL.match(rest) and len(rest.split()) <= 12 else ""


def _spec_sum(prompt: str, text: str) -> Task | None:
    for value, word in enumerate(_NUMBER_WORDS):
        text = re.sub(rf"\b{word}\b", str(value), text)
    if len(re.findall(r"\d\s*[-+*/x×÷]\s*(?=\d)", text)) > 1:
        return None  # a longer expression than this world has
    if match := _INFIX.search(text):
        sign = match.group(2)
        op = (
            "+"
            if sign in ("+", "plus", "added to")
            else "x"
            if sign in ("x", "×", "*", "times", "multiplied by")
            else "-"
        )
        return _sum_task(prompt, int(match.group(1)), op, int(match.group(3)))
    if match := _REVERSED.search(text):
        return _sum_task(prompt, int(match.group(2)), "-", int(match.group(1)))
    for pattern, op in _PREFIX:
        if match := pattern.search(text):
            return _sum_task(prompt, int(match.group(1)), op, int(match.group(2)))
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if len(numbers) == 2 and _STORY.search(text):
        if _STORY_TIMES.search(text):
            op = "x"
        elif _STORY_MINUS.search(text) and not _MORE_OF_IT.search(text):
            op = "-"
        else:
            op = "+"
        return _sum_task(prompt, numbers[0], op, numbers[1])
    return None


def _sum_task(prompt: str, a: int, op: str, b: int) -> Task:
    answer = a + b if op == "+" else a - b if op == "-" else a * b
    return Task(prompt, "arithmetic", {"a": a, "op": op, "b": b, "answer": answer})


__all__ = [
    "FAMILIES",
    "SHOW_PROMPTS",
    "Split",
    "Task",
    "Writer",
    "demonstrate",
    "email_spec",
    "spec_of",
    "task_prompts",
    "task_text",
]
