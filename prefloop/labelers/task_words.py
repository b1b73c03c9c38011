"""The vocabulary of the task world: names, things, letter topics and the ideas of small functions.

Data and slot filling only. Prompts and demonstrations (`task_world`) and pretraining documents (`task_text`)
are both made of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

T = TypeVar("T")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


FIRST = _listed(
    "Anna|Ben|Clara|David|Emma|Frank|Grace|Henry|Iris|Jack|Kate|Liam|Maria|Noah|Olivia|Peter|Rosa|Sam|Tina|Tom|"
    "Lucy|Mark|Nina|Oscar|Paul|Ruth|Sara|Simon|Julia|Leo|Alice|Adam|Amir|Bella|Carl|Chloe|Daniel|Diana|Eric|Ella|"
    "Fiona|Felix|George|Hannah|Hugo|Ivan|Jane|James|Karen|Kevin|Laura|Lena|Martin|Mia|Nora|Omar|Priya|Quinn|Rachel|"
    "Robert|Sofia|Steven|Tara|Victor|Wendy|Yusuf|Zoe|Aisha|Boris|Celia|Dylan|Elena|Gavin|Heidi|Isaac|Joan|Kenji|"
    "Lila|Mona|Nadia|Owen|Pablo|Ravi|Susan|Tariq|Uma|Vera|Walter|Xena|Yara"
)
LAST = _listed(
    "Miller|Carter|Brown|Smith|Jones|Taylor|Wilson|Clark|Lewis|Young|Hall|Wright|Green|Baker|Adams|Nelson|Hill|Moore|"
    "Cooper|Reed|Bell|Ward|Cook|Gray|James|Price|Wood|Ross|Long|Foster|Abbott|Barnes|Bishop|Bennett|Burke|Chen|Cole|"
    "Costa|Cruz|Dean|Diaz|Dixon|Ellis|Evans|Fisher|Fox|Garcia|Gibson|Grant|Hayes|Hunt|Khan|Kelly|King|Kumar|Lane|Lee|"
    "Lopez|Marsh|Mason|Meyer|Mills|Morgan|Murphy|Novak|Owens|Palmer|Park|Patel|Perry|Porter|Quinn|Ramos|Rossi|Sato|"
    "Shaw|Silva|Singh|Stone|Tanaka|Tran|Turner|Vega|Walsh|Webb|West|Wolf|Wong|York|Zhang"
)
TITLES = ("Mr.", "Ms.", "Mrs.", "Dr.")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
MONTHS = _listed("January|February|March|April|May|June|July|August|September|October|November|December")
JOBS = _listed(
    "clerk|driver|teacher|nurse|designer|engineer|cook|gardener|librarian|accountant|assistant|analyst|baker|editor|"
    "developer|manager|mechanic|painter|receptionist|translator|tutor|waiter|writer|programmer|electrician|"
    "sales assistant|office manager|data analyst|software developer|project manager"
)
THINGS = _listed(
    "lamp|kettle|phone|printer|laptop|camera|bicycle|chair|table|radio|watch|toaster|heater|jacket|keyboard|monitor|"
    "backpack|blender|desk|fan|mixer|oven|speaker|tablet|tent|vacuum cleaner|washing machine|coffee machine|"
    "pair of shoes|coat|fridge|guitar|headset|mattress|microwave|mirror|router|sofa|suitcase|sewing machine"
)
COMPANIES = _listed(
    "Northwind|Brightway|Hill and Sons|Oakfield|Riverside Books|Blue Harbor|Greenline|Summit Tools|Lakeside Clinic|"
    "Maple Foods|Silver Star|Redwood Bank|Sunrise Travel|Westgate School|City Library|Harbor Cafe|Pine Studio|"
    "Clearview|Eastman Works|Golden Mill|Ironbridge|Kingston Press|Newton Labs|Orchard Farm|Parkside Hotel|"
    "Quarry Lane|Rosewood|Stonegate|Tidewater|Valley Motors"
)
COURSES = _listed(
    "history|biology|chemistry|physics|English|French|German|geography|economics|art|music|statistics|law|"
    "philosophy|mathematics|computer science|nursing|marketing|accounting|psychology"
)
PROJECTS = _listed(
    "budget|website|garden|new office|spring sale|report|survey|training plan|summer fair|annual review|school trip|"
    "newsletter|book club|exhibition|road works|product launch|test plan|schedule|contract|warehouse"
)
COUNTED = _listed(
    "apples|pears|books|coins|pencils|marbles|stamps|cookies|balls|cards|eggs|flowers|stickers|plums|shells|buttons|"
    "oranges|candles|nuts|stones|keys|cups|toys|tickets|boxes|lemons|cakes|beads|feathers|bottles|ribbons|spoons"
)


@dataclass(frozen=True)
class Topic:
    """Something that a letter can ask for."""

    name: str
    """The word that the letter has to name, and its key."""
    asked: str
    """As an object: `an interview`."""
    slots: tuple[str, ...]
    """What may be said further about it, beginning with a space; `{...}` is filled by `fill`."""
    details: tuple[str, ...]
    """One sentence with a reason or a circumstance; without any polite word."""
    words: tuple[str, ...] = ()
    """Other words by which the topic counts as named."""


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic(
            "interview",
            "an interview",
            (" for the position of {job}", " for the {job} job", " with {company}", " for the {job} role"),
            (
                "I have worked as a {job} for {years} years.",
                "My experience fits the role well.",
                "I am free on {day} and {day2}.",
                "I have read about the position at {company} with great interest.",
                "My resume is attached.",
            ),
        ),
        Topic(
            "refund",
            "a refund",
            (" for a {thing}", " for a broken {thing}", " for the {thing} I bought on {date}", " from {company}"),
            (
                "The {thing} stopped working after {years} days.",
                "The {thing} arrived broken.",
                "I bought the {thing} on {date} and still have the receipt.",
                "The order never arrived.",
                "I was charged twice for the same order.",
            ),
            ("money back", "reimburse"),
        ),
        Topic(
            "leave",
            "leave",
            (" from {date}", " for {years} days", " for a family event", " next {day}", " in {month}"),
            (
                "I need to be with my family from {date}.",
                "I will be away for {years} days.",
                "My work will be finished before I go.",
                "{first} will take over my tasks.",
                "I have to travel on {day}.",
            ),
            ("time off", "absence"),
        ),
        Topic(
            "meeting",
            "a meeting",
            (" about the {project}", " on {day}", " with {name}", " next {day}"),
            (
                "We need to talk about the {project}.",
                "I am free on {day} and {day2}.",
                "There are some open questions about the {project}.",
                "Half an hour is enough.",
                "I have new figures to show.",
            ),
            ("meet",),
        ),
        Topic(
            "extension",
            "an extension",
            (" for my {course} paper", " of the deadline", " for the {project}", " until {date}"),
            (
                "I was ill for {years} days.",
                "The work on the {project} takes longer than planned.",
                "I can hand it in on {date}.",
                "Half of the work is done.",
                "I am still waiting for some results.",
            ),
            ("more time", "extend"),
        ),
        Topic(
            "recommendation",
            "a recommendation",
            (" for the {job} position", " for a {course} course", " from my teacher", " for {company}"),
            (
                "I was in your {course} class last year.",
                "I am applying for a job as a {job}.",
                "The letter is due on {date}.",
                "You know my work better than anyone.",
                "I have worked with you for {years} years.",
            ),
            ("reference", "recommend"),
        ),
        Topic(
            "quote",
            "a quote",
            (" for {years} chairs", " for a {thing}", " for the repair of a {thing}", " from {company}"),
            (
                "We need a new {thing} for our office.",
                "We plan to order in {month}.",
                "The order must arrive by {date}.",
                "We compare several offers at the moment.",
                "We need the price with delivery.",
            ),
            ("quotation", "price"),
        ),
        Topic(
            "information",
            "information",
            (" about the {course} course", " about a {thing}", " about {company}", " about the {job} job"),
            (
                "I saw your notice on {day}.",
                "I want to know the price and the dates.",
                "I could not find the details on your page.",
                "I plan to start in {month}.",
                "I am interested in the {course} course.",
            ),
            ("details",),
        ),
        Topic(
            "appointment",
            "an appointment",
            (" with {title_name}", " on {day}", " next {day}", " in {month}"),
            (
                "I have had a sore back for {years} days.",
                "I am free on {day} and {day2}.",
                "The morning suits me best.",
                "My last visit was on {date}.",
                "I am a new patient.",
            ),
        ),
        Topic(
            "repair",
            "a repair",
            (" of my {thing}", " of the {thing}", " of a broken {thing}", " at {company}"),
            (
                "The {thing} does not work any more.",
                "It broke on {date}.",
                "It makes a loud noise.",
                "The {thing} is still under warranty.",
                "I am at home on {day} and {day2}.",
            ),
            ("fix",),
        ),
        Topic(
            "day off",
            "a day off",
            (" on {day}", " on {date}", " next {day}", " for a family event"),
            (
                "My sister is getting married that day.",
                "I have to move house.",
                "{first} can take my shift.",
                "My tasks will be done by then.",
                "I have a visit at the doctor.",
            ),
            ("time off", "day of leave"),
        ),
        Topic(
            "invoice",
            "an invoice",
            (" for a {thing}", " for my order of {date}", " for {month}", " from {company}"),
            (
                "I bought a {thing} on {date}.",
                "I need it for my tax papers.",
                "It was not in the box.",
                "Our office has to file it by {date}.",
                "The order was paid on {day}.",
            ),
        ),
        Topic(
            "replacement",
            "a replacement",
            (" for a {thing}", " for a broken {thing}", " for the {thing} I bought", " from {company}"),
            (
                "The {thing} came with a crack.",
                "The wrong {thing} was in the box.",
                "I ordered it on {date}.",
                "One part of the {thing} is missing.",
                "I have kept the box and the receipt.",
            ),
            ("replace",),
        ),
        Topic(
            "discount",
            "a discount",
            (" on a {thing}", " on {years} chairs", " for students", " from {company}"),
            (
                "I have been a customer for {years} years.",
                "We plan to order {years} pieces.",
                "I saw a lower price in another shop.",
                "I am a student of {course}.",
                "We want to order again in {month}.",
            ),
        ),
        Topic(
            "transfer",
            "a transfer",
            (" to another team", " to the {project} team", " to {company}", " in {month}"),
            (
                "I have worked here as a {job} for {years} years.",
                "My family is moving in {month}.",
                "The new place is closer to my home.",
                "I want to learn something new.",
                "My manager knows about it.",
            ),
        ),
        Topic(
            "feedback",
            "feedback",
            (" on the {project}", " on my {course} paper", " on my interview", " on my work"),
            (
                "I handed in the work on {date}.",
                "I want to do better next time.",
                "The next version is due on {day}.",
                "Two or three lines are enough.",
                "You have seen the {project} plan.",
            ),
        ),
    )
}
RECIPIENTS = _listed(
    "my manager|my boss|the company|the shop|the office|the school|my teacher|customer service|the bank|the clinic|"
    "the hotel|{company}|{title_name}|the team|a client|the landlord|my professor|the director"
)
GREETED = ("{title_name}", "Sir or Madam", "{title_name}", "Hiring Manager", "Team", "{title_name}")

_SLOT = re.compile(r"{(\w+)}")


def fill(text: str, rng: Random) -> str:
    """`text` with every `{slot}` filled at random; `{day}` and `{day2}` never fall on the same day."""
    if "{" not in text:
        return text
    return _SLOT.sub(lambda match: _FILLERS[match.group(1)](rng), text)


def pick(rng: Random, options: Sequence[T]) -> T:
    """`rng.choice`, at a third of its cost: documents need hundreds of thousands of these."""
    return options[int(rng.random() * len(options))]


def full_name(rng: Random, first: int = len(FIRST), last: int = len(LAST)) -> str:
    """A name from the first `first` and `last` entries: short lists for what the policy has to learn to write."""
    return f"{FIRST[int(rng.random() * first)]} {LAST[int(rng.random() * last)]}"


_FILLERS: dict[str, Callable[[Random], str]] = {
    "job": lambda rng: pick(rng, JOBS),
    "thing": lambda rng: pick(rng, THINGS),
    "company": lambda rng: pick(rng, COMPANIES),
    "course": lambda rng: pick(rng, COURSES),
    "project": lambda rng: pick(rng, PROJECTS),
    "day": lambda rng: DAYS[int(rng.random() * 3)],
    "day2": lambda rng: DAYS[3 + int(rng.random() * 2)],
    "month": lambda rng: pick(rng, MONTHS),
    "date": lambda rng: f"{1 + int(rng.random() * 28)} {pick(rng, MONTHS)}",
    "years": lambda rng: str(2 + int(rng.random() * 9)),
    "first": lambda rng: pick(rng, FIRST),
    "name": lambda rng: full_name(rng),
    "title_name": lambda rng: f"{pick(rng, TITLES)} {pick(rng, LAST)}",
}


@dataclass(frozen=True)
class Function:
    """The idea of a small function, in words and in two languages."""

    name: str
    verbs: tuple[str, ...]
    """Third person: `adds two integers`. The infinitive and the gerund are derived from the first word."""
    noun: str
    """`the sum of two integers`"""
    params: tuple[str, ...]
    python: str
    """Lines of the body, joined by newlines, on parameters a (and b), n, numbers or text."""
    java_params: str
    java_returns: str
    java: str
    bug: tuple[str, str]
    """A slip that hasty people make: this text replaced by that."""
    java_bug: tuple[str, str] | None = None
    """The same for Java, where its text is another."""


FUNCTIONS: dict[str, Function] = {
    f.name: f
    for f in (
        Function(
            "add", ("adds two integers", "adds two numbers", "sums two integers"), "the sum of two integers",
            ("a", "b"), "return a + b", "int a, int b", "int", "return a + b;", (" + ", " - "),
        ),
        Function(
            "subtract", ("subtracts two integers", "subtracts one number from another"),
            "the difference of two integers",
            ("a", "b"), "return a - b", "int a, int b", "int", "return a - b;", (" - ", " + "),
        ),
        Function(
            "multiply", ("multiplies two integers", "multiplies two numbers"), "the product of two integers",
            ("a", "b"), "return a * b", "int a, int b", "int", "return a * b;", (" * ", " + "),
        ),
        Function(
            "max", ("returns the larger of two integers", "finds the maximum of two numbers"),
            "the larger of two integers",
            ("a", "b"), "return a if a > b else b", "int a, int b", "int", "return a > b ? a : b;", (" > ", " < "),
        ),
        Function(
            "min", ("returns the smaller of two integers", "finds the minimum of two numbers"),
            "the smaller of two integers",
            ("a", "b"), "return a if a < b else b", "int a, int b", "int", "return a < b ? a : b;", (" < ", " > "),
        ),
        Function(
            "square", ("squares a number", "returns the square of an integer"), "the square of a number",
            ("n",), "return n * n", "int n", "int", "return n * n;", ("n * n", "n * 2"),
        ),
        Function(
            "is_even", ("checks if a number is even", "tells whether an integer is even"), "true for an even number",
            ("n",), "return n % 2 == 0", "int n", "boolean", "return n % 2 == 0;", ("== 0", "== 1"),
        ),
        Function(
            "absolute", ("returns the absolute value of a number", "finds the absolute value of an integer"),
            "the absolute value of a number",
            ("n",), "return -n if n < 0 else n", "int n", "int", "return n < 0 ? -n : n;", ("n < 0", "n > 0"),
        ),
        Function(
            "double", ("doubles a number", "multiplies an integer by two"), "twice the number",
            ("n",), "return n * 2", "int n", "int", "return n * 2;", ("n * 2", "n * n"),
        ),
        Function(
            "sum_list", ("adds all numbers in a list", "returns the sum of a list of integers"),
            "the sum of all numbers in the list",
            ("numbers",), "return sum(numbers)", "int[] numbers", "int",
            "int total = 0;\nfor (int n : numbers) total += n;\nreturn total;", ("sum(", "len("), ("+=", "-="),
        ),
        Function(
            "reverse", ("reverses a string", "returns a string in reverse order"), "the text in reverse order",
            ("text",), "return text[::-1]", "String text", "String",
            "return new StringBuilder(text).reverse().toString();", ("[::-1]", "[::1]"), (".reverse()", ""),
        ),
        Function(
            "length", ("returns the length of a string", "counts the characters in a string"),
            "the number of characters in the text",
            ("text",), "return len(text)", "String text", "int", "return text.length();", ("return ", "return 1 + "),
        ),
        Function(
            "factorial", ("returns the factorial of a number", "computes the factorial of an integer"),
            "the factorial of a number",
            ("n",), "return 1 if n < 2 else n * factorial(n - 1)", "int n", "int",
            "return n < 2 ? 1 : n * factorial(n - 1);", ("n * factorial", "n + factorial"),
        ),
        Function(
            "cube", ("cubes a number", "returns the cube of an integer"), "the cube of a number",
            ("n",), "return n * n * n", "int n", "int", "return n * n * n;", ("n * n * n", "n * 3"),
        ),
        Function(
            "negate", ("negates a number", "returns the negative of an integer"), "the number with its sign changed",
            ("n",), "return -n", "int n", "int", "return -n;", ("-n", "n - 1"),
        ),
        Function(
            "remainder", ("returns the remainder of two integers", "computes the remainder of a division"),
            "the remainder of a division",
            ("a", "b"), "return a % b", "int a, int b", "int", "return a % b;", (" % ", " / "),
        ),
    )
}  # fmt: skip


def infinitive(verb: str) -> str:
    """`adds two integers` -> `add two integers`."""
    word, _, rest = verb.partition(" ")
    if word in ("multiplies",):
        return f"multiply {rest}"
    if word.endswith(("ches", "shes", "sses")):
        return f"{word[:-2]} {rest}"
    return f"{word[:-1]} {rest}"


def gerund(verb: str) -> str:
    """`squares a number` -> `squaring a number`."""
    word, _, rest = infinitive(verb).partition(" ")
    stem = "summ" if word == "sum" else word[:-1] if word.endswith("e") else word
    return f"{stem}ing {rest}"


def python_source(f: Function, name: str, names: tuple[str, ...] | None = None, body: str | None = None) -> str:
    """The function in Python under `name`, with its parameters called `names`."""
    names = names or f.params
    body = (body or f.python).replace("factorial(", f"{name}(")
    lines = "\n".join(f"    {line}" for line in rename(body, f.params, names).split("\n"))
    return f"def {name}({', '.join(names)}):\n{lines}"


def java_source(
    f: Function, name: str, names: tuple[str, ...] | None = None, body: str | None = None, *, cls: str | None = None
) -> str:
    """A static Java method under `name`, inside the class `cls` when one is named."""
    names = names or f.params
    body = (body or f.java).replace("factorial(", f"{name}(")
    inner = "\n".join(f"    {line}" for line in rename(body, f.params, names).split("\n"))
    method = f"static {f.java_returns} {name}({rename(f.java_params, f.params, names)}) {{\n{inner}\n}}"
    if cls is None:
        return method
    return f"class {cls} {{\n" + "\n".join(f"    {line}" for line in method.split("\n")) + "\n}"


def rename(body: str, old: tuple[str, ...], new: tuple[str, ...]) -> str:
    """Whole-word renaming of parameters, all at once so that a swap of names is safe."""
    if old == new:
        return body
    table = dict(zip(old, new, strict=True))
    return re.sub(r"\b(" + "|".join(old) + r")\b", lambda match: table[match.group(1)], body)


PARAMETERS: dict[tuple[str, ...], tuple[tuple[str, ...], ...]] = {
    ("a", "b"): (("a", "b"), ("a", "b"), ("x", "y"), ("first", "second")),
    ("n",): (("n",), ("n",), ("x",), ("number",)),
    ("numbers",): (("numbers",), ("values",), ("items",)),
    ("text",): (("text",), ("s",), ("word",)),
}
METHOD_NAMES: dict[str, tuple[str, ...]] = {
    "add": ("add", "add", "sum_two", "add_numbers"),
    "subtract": ("subtract", "subtract", "difference"),
    "multiply": ("multiply", "multiply", "product"),
    "max": ("larger", "maximum", "max_of_two"),
    "min": ("smaller", "minimum", "min_of_two"),
    "square": ("square", "square"),
    "is_even": ("is_even", "is_even"),
    "absolute": ("absolute", "absolute_value"),
    "double": ("double_number", "twice"),
    "sum_list": ("sum_list", "total", "sum_all"),
    "reverse": ("reverse", "reverse_string"),
    "length": ("length", "string_length"),
    "factorial": ("factorial", "factorial"),
    "cube": ("cube", "cube"),
    "negate": ("negate", "negate"),
    "remainder": ("remainder", "remainder"),
}


def camel(name: str) -> str:
    """`sum_list` -> `sumList`."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
