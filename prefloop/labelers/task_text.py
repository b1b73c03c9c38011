"""Documents of the task world, for pretraining: capability without questions.

Sums, letters and code as they stand in workbooks, letter books and tutorials, and two who say sums in turn. No
document asks in the words of a prompt and answers it: that people want an *answer* is what the later stages have to
teach. The sums overlap with those that prompts ask about (a model of a few million parameters learns its tables by
heart, as people do).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from prefloop.labelers.task_words import (
    COMPANIES,
    COUNTED,
    DAYS,
    FIRST,
    FUNCTIONS,
    GREETED,
    LAST,
    METHOD_NAMES,
    MONTHS,
    PARAMETERS,
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
from prefloop.records import Messages


def task_text(n_documents: int, seed: int) -> Iterator[str | Messages]:
    """`n_documents` documents, the same for the same seed: by count about 45 % sums, 30 % letters, 25 % code.

    Yields text of about 330 characters each on average, without a final newline; a fifth of the sums are chats.
    """
    rng = Random(f"task_text:{seed}")
    for _ in range(n_documents):
        place = rng.random()
        kinds: Sequence[Callable[[Random], str | Messages]]
        kinds = _SUMS if place < 0.45 else _LETTERS if place < 0.75 else _CODE
        yield pick(rng, kinds)(rng)


# --- sums --------------------------------------------------------------------------------------------------------


def operands(rng: Random) -> tuple[int, str, int, int]:
    """(a, sign, b, result): mostly 0 to 20, some up to 99, products up to 10 x 10; a difference is rarely negative."""
    place = rng.random()
    if place < 0.42:
        sign, top = "+", 20
    elif place < 0.80:
        sign, top = "-", 20
    else:
        sign, top = "x", 10
    if sign != "x" and rng.random() < 0.2:
        top = 99
    a, b = int(rng.random() * (top + 1)), int(rng.random() * (top + 1))
    if sign == "-" and a < b and rng.random() < 0.9:
        a, b = b, a
    return a, sign, b, a + b if sign == "+" else a - b if sign == "-" else a * b


def _equations(rng: Random) -> str:
    n = 12 + int(rng.random() * 20)
    between = pick(rng, ("\n", "\n", ", ", "; ", ".\n"))
    lines = []
    for _ in range(n):
        a, sign, b, c = operands(rng)
        lines.append(f"{a} {sign} {b} = {c}")
    head = pick(rng, _HEADS)
    return f"{head}\n{between.join(lines)}" if head else between.join(lines)


_HEADS = (
    "", "", "Sums", "Practice page", "Mental arithmetic", "Worked sums", "Number facts", "Morning sums",
    "Sums to know by heart", "Arithmetic drill", "Page of sums", "From the workbook", "Results", "Checked sums",
    "Plus, minus and times",
)  # fmt: skip


def _table(rng: Random) -> str:
    k = int(rng.random() * 21)
    place = rng.random()
    if place < 0.35:
        k = 1 + int(rng.random() * 10)
        head = pick(rng, (f"The table of {k}", f"Times table: {k}", f"Multiplying by {k}", f"{k} times"))
        lines = [f"{i} x {k} = {i * k}" if rng.random() < 0.5 else f"{k} x {i} = {k * i}" for i in range(11)]
    elif place < 0.7:
        head = pick(rng, (f"Adding {k}", f"Plus {k}", f"The {k} addition table", f"Sums with {k}"))
        lines = [f"{i} + {k} = {i + k}" if rng.random() < 0.5 else f"{k} + {i} = {k + i}" for i in range(21)]
    else:
        head = pick(rng, (f"Taking away {k}", f"Minus {k}", f"The {k} subtraction table"))
        lines = [f"{i} - {k} = {i - k}" for i in range(k, k + 20)]
    if rng.random() < 0.4:
        rng.shuffle(lines)
    return head + "\n" + "\n".join(lines)


_WORDED = {
    "+": (
        "{a} plus {b} is {c}.", "The sum of {a} and {b} is {c}.", "{a} and {b} make {c}.",
        "{a} added to {b} gives {c}.", "If we add {a} and {b}, we get {c}.",
        "{a} + {b} equals {c}.", "{a} plus {b} makes {c}: {a} + {b} = {c}.",
        "Together {a} and {b} are {c}.", "{c} is {a} more than {b}.", "Adding {b} to {a} gives {c}.",
        "{a} + {b} = {c}. The answer is {c}.", "{a} + {b} = {c}.", "The total of {a} and {b} is {c}.",
    ),
    "-": (
        "{a} minus {b} is {c}.", "The difference of {a} and {b} is {c}.", "{a} take away {b} leaves {c}.",
        "{b} subtracted from {a} gives {c}.", "If we take {b} from {a}, {c} is left.", "{a} - {b} equals {c}.",
        "{a} less {b} is {c}.", "From {b} to {a} it is {c}.", "{a} - {b} = {c}, because {c} + {b} = {a}.",
        "{a} - {b} = {c}. The answer is {c}.", "{a} - {b} = {c}.", "Subtracting {b} from {a} leaves {c}.",
    ),
    "x": (
        "{a} times {b} is {c}.", "The product of {a} and {b} is {c}.", "{a} multiplied by {b} gives {c}.",
        "{a} rows of {b} make {c}.", "{a} x {b} equals {c}.", "{a} groups of {b} are {c}.",
        "Multiplying {a} by {b} gives {c}.",
        "{a} x {b} = {c}. The answer is {c}.", "{a} x {b} = {c}.", "{a} * {b} = {c}.",
    ),
}  # fmt: skip


def _worded(rng: Random) -> str:
    lines = []
    for _ in range(8 + int(rng.random() * 14)):
        a, sign, b, c = operands(rng)
        lines.append(pick(rng, _WORDED[sign]).format(a=a, b=b, c=c))
    return pick(rng, (" ", "\n")).join(lines)


_STORIES = {
    "+": (
        "{n} had {a} {t}. {m} gave {n} {b} more. Now {n} has {c} {t}, because {a} + {b} = {c}.",
        "There were {a} {t} on the table and {b} in the bag. {a} + {b} = {c}, so there were {c} {t} in all.",
        "{n} found {a} {t} and {m} found {b}. Together they found {c} {t}.",
        "On {d} {n} counted {a} {t}. The next day there were {b} more, which makes {c}.",
        "{n} bought {a} {t} and then {b} more. {n} has {a} + {b} = {c} {t}.",
    ),
    "-": (
        "{n} had {a} {t} and gave {b} to {m}. {c} {t} were left, because {a} - {b} = {c}.",
        "There were {a} {t} in the box. {n} took {b}. {a} - {b} = {c}, so {c} {t} remained.",
        "{n} had {a} {t}. {b} of them were lost. {n} still has {c}.",
        "Of {a} {t}, {m} sold {b} on {d}. That leaves {c}.",
        "{n} ate or gave away {b} of the {a} {t}. {a} - {b} = {c} are left.",
    ),
    "x": (
        "{n} has {a} bags with {b} {t} in each. {a} x {b} = {c}, so there are {c} {t}.",
        "Each of the {a} children carries {b} {t}. That makes {c} {t} together.",
        "{n} sets out {a} rows of {b} {t}. {a} x {b} = {c}.",
        "In {a} boxes there are {b} {t} each. In all there are {c} {t}.",
    ),
}  # fmt: skip


def _stories(rng: Random) -> str:
    stories = []
    for _ in range(4 + int(rng.random() * 6)):
        a, sign, b, c = operands(rng)
        if c < 0:
            a, b, c = b, a, -c
        i = int(rng.random() * len(FIRST))
        stories.append(
            pick(rng, _STORIES[sign]).format(
                a=a,
                b=b,
                c=c,
                n=FIRST[i],
                m=FIRST[i - 1 - int(rng.random() * 40)],
                t=pick(rng, COUNTED),
                d=pick(rng, DAYS),
            )
        )
    return pick(rng, ("\n", "\n\n", " ")).join(stories)


def _worksheet(rng: Random) -> str:
    n = 5 + int(rng.random() * 8)
    sums = [operands(rng) for _ in range(n)]
    place = rng.random()
    title = f"{pick(rng, ('Exercise', 'Worksheet', 'Homework', 'Lesson', 'Test', 'Page'))} {1 + int(rng.random() * 60)}"
    if place < 0.2:
        body = "\n".join(f"Question: {a} {s} {b}. Answer: {c}." for a, s, b, c in sums)
    elif place < 0.6:
        body = "\n".join(f"{i}) {a} {s} {b} = {c}" for i, (a, s, b, c) in enumerate(sums, 1))
    else:
        given = "\n".join(f"{i}. {a} {s} {b}" for i, (a, s, b, _) in enumerate(sums, 1))
        body = given + "\nAnswers\n" + "\n".join(f"{i}. {a} {s} {b} = {c}" for i, (a, s, b, c) in enumerate(sums, 1))
    return f"{title}, {full_name(rng)}, {fill('{date}', rng)}\n{body}"


def _families(rng: Random) -> str:
    lines = []
    for _ in range(4 + int(rng.random() * 4)):
        a, b = int(rng.random() * 21), int(rng.random() * 21)
        c = a + b
        lines.append(f"{a} + {b} = {c}, {b} + {a} = {c}, {c} - {a} = {b}, {c} - {b} = {a}.")
    return pick(rng, ("Fact families\n", "Sums that belong together\n", "")) + "\n".join(lines)


def _partners(rng: Random) -> Messages:
    """Two say sums in turn: the second writes the first's sum down, turns it round, or says another."""
    place = rng.random()
    answer = _written if place < 0.35 else _turned if place < 0.65 else lambda rng, *_: _written(rng, *operands(rng))
    turns: Messages = []
    for _ in range(3 + int(rng.random() * 8)):
        a, sign, b, c = operands(rng)
        said = pick(rng, _WORDED[sign]).format(a=a, b=b, c=c) if rng.random() < 0.5 else f"{a} {sign} {b} = {c}."
        turns += [
            {"role": "user", "content": said},
            {"role": "assistant", "content": answer(rng, a, sign, b, c)},
        ]
    return turns


def _written(rng: Random, a: int, sign: str, b: int, c: int) -> str:
    return f"{a} {sign} {b} = {c}."


def _turned(rng: Random, a: int, sign: str, b: int, c: int) -> str:
    """The same fact from its other side."""
    return f"{a} - {c} = {b}." if sign == "-" else f"{b} {sign} {a} = {c}."


_SUMS: tuple[Callable[[Random], str | Messages], ...] = (
    _equations, _equations, _table, _worded, _worded, _stories, _stories, _worksheet, _families, _partners, _partners,
)  # fmt: skip

# --- letters -----------------------------------------------------------------------------------------------------

OPENERS = (
    "I am writing to request {asked}{slot}.",
    "I would like to request {asked}{slot}.",
    "I am writing to ask for {asked}{slot}.",
    "I would like to ask for {asked}{slot}.",
)
"""How a letter of the task world states its request; demonstrations use these, documents many more."""

ASKS = (
    "Please let me know if this is possible.",
    "Please tell me when it suits you.",
    "Would you please let me know?",
    "Thank you for your time and help.",
    "I would be grateful for a short reply.",
    "Thank you in advance for your help.",
)
"""The polite sentence of a letter of the task world."""

CLOSINGS = ("Best regards,", "Best regards,", "Kind regards,", "Sincerely,")

_MORE_OPENERS = (
    *OPENERS, *OPENERS,
    "May I request {asked}{slot}?",
    "I hope you are well. I am writing to request {asked}{slot}.",
    "With this letter I ask for {asked}{slot}.",
    "Could you please arrange {asked}{slot}?",
    "My name is {name} and I would like to request {asked}{slot}.",
    "I would be grateful for {asked}{slot}.",
    "I am contacting you to request {asked}{slot}.",
)  # fmt: skip
_MORE_ASKS = (
    *ASKS, *ASKS,
    "Please write back before {day}.",
    "Please send me a short note.",
    "I would appreciate an answer by {date}.",
    "Thank you for reading this letter.",
    "Could you please reply by {day}?",
    "Please call me if anything is unclear.",
)  # fmt: skip
_MORE_GREETINGS = (
    "Dear {title_name},",
    "Dear {title_name},",
    "Hello {first},",
    "Dear {first},",
    "Good morning {first},",
)
_MORE_CLOSINGS = (*CLOSINGS, *CLOSINGS, "Yours sincerely,", "With kind regards,", "Many thanks,", "Warm regards,")
_TOPICS = tuple(TOPICS.values())


def subject_line(topic: Topic, rng: Random) -> str:
    """`Subject: Request for an interview`"""
    place = rng.random()
    if place < 0.6:
        return f"Subject: Request for {topic.asked}"
    if place < 0.8:
        return f"Subject: {topic.name.capitalize()} request"
    return f"Subject: Request for {topic.asked}{fill(pick(rng, topic.slots), rng)}"


def _letter(rng: Random) -> str:
    return _request(pick(rng, _TOPICS), rng)


def _request(topic: Topic, rng: Random) -> str:
    slot = pick(rng, topic.slots) if rng.random() < 0.7 else ""
    opener = pick(rng, _MORE_OPENERS).replace("{asked}", topic.asked).replace("{slot}", slot)
    details = [pick(rng, topic.details)]
    if rng.random() < 0.4:
        details.append(pick(rng, topic.details))
    body = [opener, *dict.fromkeys(details), pick(rng, _MORE_ASKS)]
    between = "\n" if rng.random() < 0.15 else " "
    greeting = f"Dear {pick(rng, GREETED)}," if rng.random() < 0.6 else pick(rng, _MORE_GREETINGS)
    text = f"{greeting}\n\n{between.join(body)}\n\n{pick(rng, _MORE_CLOSINGS)}"
    return f"{subject_line(topic, rng)}\n\n{fill(text, rng)}\n{full_name(rng)}"


def _letters(rng: Random) -> str:
    head = rng.random()
    letters = [_letter(rng) for _ in range(1 + int(rng.random() * 2))]
    if head < 0.3:
        number = 1 + int(rng.random() * 200)
        letters = [f"Letter {number + i}\n\n{letter}" for i, letter in enumerate(letters)]
    elif head < 0.45:
        letters = [f"From: {full_name(rng)}\nDate: {fill('{date}', rng)}\n{letter}" for letter in letters]
    return "\n\n---\n\n".join(letters)


_REPLIES = (
    "thank you for your letter of {date}. We are glad to grant {asked}.",
    "we have read your request for {asked}. It is fine with us.",
    "your request for {asked} reached us on {day}. We need a few more days.",
    "I am sorry to say that {asked} is not possible in {month}. Please ask again later.",
    "thank you for asking. {first} will see to {asked} on {day}.",
)


def _reply(rng: Random) -> str:
    topic = pick(rng, _TOPICS)
    letter = _request(topic, rng)
    answer = pick(rng, _REPLIES).replace("{asked}", topic.asked)
    text = fill(f"Dear {{title_name}},\n\n{answer[0].upper()}{answer[1:]}\n\n{pick(rng, _MORE_CLOSINGS)}", rng)
    return f"{letter}\n\n---\n\nSubject: Re: {topic.name}\n\n{text}\n{full_name(rng)}\n{pick(rng, COMPANIES)}"


_ADVICE = (
    "A good letter is short. First comes the subject, then the greeting.",
    "Say in the first line what you ask for.",
    "A polite word such as please or thank you costs nothing.",
    "End with a closing line, and put your name below it.",
    "Name the thing you ask for in the subject line.",
    "A letter without a name at the end leaves the reader wondering who wrote it.",
    "Give one reason, and one only.",
    "The subject line says in three or four words what the letter is about.",
)


def _letter_guide(rng: Random) -> str:
    advice = list(_ADVICE)
    rng.shuffle(advice)
    lines = " ".join(advice[: 2 + int(rng.random() * 4)])
    head = pick(rng, ("How a request is written", "On letters", "Notes on letters", "A letter that asks"))
    return f"{head}\n\n{lines}\n\n{_letter(rng)}"


_NOTES = (
    "{first} called on {day} about the {project}. The caller will send the {thing} before {date}.",
    "The {project} moves to {month}. {name} from {company} knows about it.",
    "Minutes of {day}: {first} reported on the {project}; {name} asked for two more days.",
    "{company} has a new {job}. The name is {name}. The first day is {date}.",
    "The {thing} from {company} came on {day}. It works well.",
    "{name} studies {course} and wants to become a {job}.",
)


def _memo(rng: Random) -> str:
    notes = [fill(pick(rng, _NOTES), rng) for _ in range(3 + int(rng.random() * 4))]
    return f"Memo, {fill('{date}', rng)}\n" + "\n".join(notes) + f"\n{full_name(rng)}"


_LETTERS: tuple[Callable[[Random], str], ...] = (
    _letters, _letters, _letters, _letters, _reply, _letter_guide, _memo,
)  # fmt: skip

# --- code --------------------------------------------------------------------------------------------------------

EXPLANATIONS = (
    "This function returns {noun}.",
    "The function returns {noun}.",
    "It {verb}.",
    "This code {verb}.",
)
"""The one sentence below a demonstration's code block."""

_FUNCTIONS = tuple(FUNCTIONS.values())
_CALLS: dict[str, tuple[tuple[int, ...], ...]] = {
    "add": ((3, 4, 7), (10, 5, 15), (8, 9, 17)), "subtract": ((9, 4, 5), (12, 5, 7)),
    "multiply": ((3, 4, 12), (6, 7, 42)),
    "max": ((3, 8, 8), (9, 2, 9)), "min": ((3, 8, 3), (9, 2, 2)), "remainder": ((7, 3, 1), (9, 4, 1)),
    "square": ((5, 25), (4, 16)), "double": ((5, 10), (8, 16)), "cube": ((2, 8), (3, 27)),
    "absolute": ((-4, 4), (7, 7)),
    "negate": ((3, -3), (-2, 2)), "factorial": ((4, 24), (3, 6)),
}  # fmt: skip


def _names(f: Function, rng: Random) -> tuple[str, tuple[str, ...]]:
    return pick(rng, METHOD_NAMES[f.name]), pick(rng, PARAMETERS[f.params])


def _python(f: Function, rng: Random, *, comment: bool) -> str:
    name, names = _names(f, rng)
    code = python_source(f, name, names)
    if comment:
        head, _, body = code.partition("\n")
        if rng.random() < 0.5:
            code = f'{head}\n    """Return {f.noun}."""\n{body}'
        else:
            code = f"# {pick(rng, f.verbs)}\n{code}"
    if f.name in _CALLS and rng.random() < 0.3:
        *given, result = pick(rng, _CALLS[f.name])
        code += f"\n\nprint({name}({', '.join(map(str, given))}))  # {result}"
    return code


def _java(f: Function, rng: Random, *, comment: bool) -> str:
    name, names = _names(f, rng)
    name = camel(name)
    cls = name[0].upper() + name[1:] if rng.random() < 0.7 else None
    code = java_source(f, name, names, cls=cls)
    if comment:
        code = f"// {pick(rng, f.verbs)}\n{code}"
    return code.replace("static ", "public static ", 1) if rng.random() < 0.3 else code


def _code_file(rng: Random) -> str:
    make = _python if rng.random() < 0.5 else _java
    n = 1 + int(rng.random() * 3)
    start = int(rng.random() * len(_FUNCTIONS))
    step = 1 + 2 * int(rng.random() * 7)
    functions = [_FUNCTIONS[(start + i * step) % len(_FUNCTIONS)] for i in range(n)]
    blocks = [make(f, rng, comment=rng.random() < 0.5) for f in functions]
    mark = "#" if make is _python else "//"
    head = pick(rng, (f"{mark} {full_name(rng)}, {pick(rng, MONTHS)}\n", "", ""))
    return head + ("\n\n\n" if make is _python else "\n\n").join(blocks)


_LEADS = (
    "Here is how to {do} in {language}.",
    "In {language}, {doing} takes one short function.",
    "Lesson {k}. {Doing} in {language}.",
    "The next function {does}.",
    "{n} needed {noun} and wrote this in {language}.",
    "A {language} function for {noun}:",
    "Note {k}: a function that {does}.",
)
_AFTER = (
    *EXPLANATIONS, *EXPLANATIONS, *EXPLANATIONS,
    "It takes {count} and returns {noun}.",
    "The result is {noun}.",
    "Called with its arguments, it returns {noun}.",
    "The last line returns {noun}.",
)  # fmt: skip
_COUNTS = {"a": "two numbers", "n": "one number", "numbers": "a list", "text": "a string"}


def _tutorial(rng: Random) -> str:
    parts = []
    for _ in range(1 + int(rng.random() * 3)):
        f = pick(rng, _FUNCTIONS)
        python = rng.random() < 0.5
        language = "Python" if python else "Java"
        verb = pick(rng, f.verbs)
        code = (_python if python else _java)(f, rng, comment=False)
        if rng.random() < 0.75:
            code = f"```{language.lower()}\n{code}\n```"
        slots = {
            "do": infinitive(verb), "doing": gerund(verb), "Doing": gerund(verb).capitalize(),
            "does": verb, "verb": verb,
            "noun": f.noun, "language": language, "k": 1 + int(rng.random() * 90), "n": pick(rng, FIRST),
            "count": _COUNTS[f.params[0]],
        }  # fmt: skip
        lead = pick(rng, _LEADS).format(**slots) + "\n\n" if rng.random() < 0.6 else ""
        after = "\n\n" + pick(rng, _AFTER).format(**slots) if rng.random() < 0.85 else ""
        parts.append(lead + code + after)
    return "\n\n".join(parts)


_CODE_ADVICE = (
    "A function has a name, parameters and a result.",
    "In Python the body of a function is indented by four spaces.",
    "In Java every statement ends with a semicolon.",
    "The word return hands the result back to the caller.",
    "A Java method says the type of its result before its name.",
    "Below the code one sentence says what it does.",
    "A Python function starts with the word def.",
    "A static method in Java belongs to its class.",
    "Good names make a short function easy to read.",
)


def _code_notes(rng: Random) -> str:
    advice = list(_CODE_ADVICE)
    rng.shuffle(advice)
    return " ".join(advice[: 2 + int(rng.random() * 3)]) + "\n\n" + _tutorial(rng)


_CODE: tuple[Callable[[Random], str], ...] = (_code_file, _code_file, _tutorial, _tutorial, _tutorial, _code_notes)

__all__ = ["ASKS", "CLOSINGS", "EXPLANATIONS", "LAST", "OPENERS", "operands", "subject_line", "task_text"]
