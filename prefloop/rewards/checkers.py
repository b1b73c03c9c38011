"""Ground truth of the task world: is this a good answer? Rules and execution, no model.

email       a rubric: subject, greeting, request, politeness, closing with a name, form. Passed when all hold.
arithmetic  the last number is the answer, nothing contradicts it, and it takes at most 40 words.
code        a fenced block in the right language that computes the right thing, and words of explanation outside it.

`score` gives partial credit (0..1), because a person who compares two answers sees more than pass or fail.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.rewards.sandbox import Outcome, Snippet, run_java, run_python

Item = tuple[str, str, str, Mapping[str, Any]]
"""family, prompt text, completion, spec"""
FAMILIES = ("email", "arithmetic", "code")


@dataclass(frozen=True)
class Check:
    """The verdict on one completion."""

    passed: bool
    score: float
    """0..1; 1 when passed."""
    parts: dict[str, bool | float] = field(default_factory=dict)
    how: str = ""
    """rubric, number, executed, compiled and run, or structure (Java where there is no JDK)."""


def check(family: str, prompt_text: str, completion: str, spec: Mapping[str, Any]) -> Check:
    """The verdict on one completion; see `check_many`."""
    return check_many([(family, prompt_text, completion, spec)])[0]


def check_many(items: Sequence[Item]) -> list[Check]:
    """The verdicts in order. All Python goes through one sandboxed process, all Java through one machine.

    Verdicts are remembered by (family, spec, completion). The prompt's text itself is not looked at: `spec` says what
    was asked. Raises InputError for an unknown family, language or idea, RunError when the sandbox does not work.
    """
    keys = [content_hash([family, dict(spec), _clean(completion)]) for family, _, completion, spec in items]
    fresh = {key: item for key, item in zip(keys, items, strict=True) if key not in _CACHE}
    verdicts: dict[str, Check] = {}
    code: dict[str, Item] = {}
    for key, item in fresh.items():
        family, _, completion, spec = item
        if family == "email":
            verdicts[key] = check_email(_clean(completion), spec)
        elif family == "arithmetic":
            verdicts[key] = check_arithmetic(_clean(completion), spec)
        elif family == "code":
            code[key] = item
        else:
            raise InputError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    written = [read_code(_clean(completion), spec) for _, _, completion, spec in code.values()]
    verdicts |= dict(zip(code, _check_code(written), strict=True))
    known = {key: _CACHE[key] for key in keys if key in _CACHE}
    for key, verdict in verdicts.items():
        _CACHE[key] = verdict
        if len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
    return [verdicts[key] if key in verdicts else known[key] for key in keys]


_CACHE: OrderedDict[str, Check] = OrderedDict()
_CACHE_SIZE = 100_000


def _clean(text: str) -> str:
    """Lone surrogates can be in what a byte-level model writes; they can be neither hashed nor run."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n")


def _verdict(parts: dict[str, bool | float], weights: Mapping[str, float], how: str) -> Check:
    score = sum(weight * parts[name] for name, weight in weights.items())
    passed = all(bool(parts[name]) for name in weights)
    return Check(passed, 1.0 if passed else round(score, 6), parts, how)


# --- email -------------------------------------------------------------------------------------------------------

EMAIL_WEIGHTS = {
    "subject": 1 / 6,
    "greeting": 1 / 6,
    "request": 1 / 6,
    "polite": 1 / 6,
    "closing": 1 / 6,
    "form": 1 / 6,
}
MAX_EMAIL_WORDS = 150
_SUBJECT = re.compile(r"(?im)^[^\w\n]{0,2}subject[^\w\n]{0,3}:[^\w\n]{0,3}(\w.*)$")
_GREETING = re.compile(
    r"(?i)^(?:dear|hello|hi|hey|greetings|good (?:morning|afternoon|evening|day)|to whom it may concern)\b[^\n]{0,60}$"
)
_CLOSING = re.compile(
    r"(?i)^(?:(?:with )?(?:best|kind|kindest|warm|warmest|my best|many thanks and)?\s*(?:regards|wishes)"
    r"|best|(?:yours )?(?:sincerely|faithfully|truly|respectfully)(?: yours)?|respectfully|cordially|cheers"
    r"|thanks|many thanks|thank you|thanks (?:again|in advance|so much)|thank you (?:again|in advance|very much)"
    r"|thanks and (?:best |kind )?regards|all the best)\s*[,.!]?$"
)
_NAME = re.compile(r"^(?:\[[\w' ]{3,30}\]|(?:(?:Mr|Ms|Mrs|Dr)\. )?[A-Z][\w'.-]*(?: [A-Z][\w'.-]*){0,3})\s*[.,]?$")
_POLITE = re.compile(r"(?i)\b(?:please|thank|thanks|would|could|appreciate|grateful|kindly|may i)\b")


def check_email(text: str, spec: Mapping[str, Any]) -> Check:
    """The rubric, each part worth a sixth.

    subject   a `Subject:` line with at least one word
    greeting  a line that begins with Dear, Hello, ..., before the body
    request   one of `spec["words"]` (its plural and inflections too) in the body, and a body of at least 6 words
    polite    please, thank, would, could, appreciate, grateful, kindly or may I, in the body
    closing   a closing line (`Best regards,`) and a name or `[Your Name]` on the line after it
    form      15 to 150 words, no sentence twice, at most two short lines after the name
    """
    subject = _SUBJECT.search(text)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    lines = [line for line in lines if not _SUBJECT.match(line)]
    greeting = next((i for i, line in enumerate(lines[:3]) if _GREETING.match(line)), None)
    closing = next((i for i in range(len(lines) - 1, -1, -1) if _CLOSING.match(lines[i]) and i != greeting), None)
    named = closing is not None and closing + 1 < len(lines) and bool(_NAME.match(lines[closing + 1]))
    body_lines = lines[(greeting + 1 if greeting is not None else 0) : closing]
    body, after = " ".join(body_lines), lines[closing + 2 :] if closing is not None else []
    words = text.split()
    topic = any(re.search(rf"(?i)\b{re.escape(str(word))}", body) for word in spec["words"])
    form = 15 <= len(words) <= MAX_EMAIL_WORDS and not repeats(body)
    form = form and len(after) <= 2 and all(len(line) <= 60 for line in after)
    parts: dict[str, bool | float] = {
        "subject": subject is not None,
        "greeting": greeting is not None,
        "request": topic and len(body.split()) >= 6,
        "polite": bool(_POLITE.search(body)),
        "closing": named,
        "form": form,
    }
    return _verdict(parts, EMAIL_WEIGHTS, "rubric")


def repeats(text: str) -> bool:
    """True for text that goes round: a sentence twice, or fewer than four different words in ten."""
    sentences = [s.strip().lower() for s in re.split(r"[.!?\n]+", text) if len(s.split()) >= 2]
    words = re.findall(r"\w+", text.lower())
    return len(set(sentences)) < len(sentences) or (len(words) > 12 and len(set(words)) < 0.4 * len(words))


# --- arithmetic --------------------------------------------------------------------------------------------------

ARITHMETIC_WEIGHTS = {"right": 0.8, "consistent": 0.1, "short": 0.1}
MAX_SUM_WORDS = 40
# A minus belongs to the number unless a number stands before it: "= -3" and "is -3", but "5 -3" is a difference.
_NUMBER = re.compile(r"(?<![\w.])(?:(?<![\d)] )-)?\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
_EQUATION = re.compile(
    r"(?<![\d.])(-?\d+)\s*(\+|-|x|\*|×|plus|minus|times)\s*(-?\d+)\s*(?:=|is|equals|makes|gives|are)\s*(-?\d+)(?!\d|\.\d)"
)
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip


def check_arithmetic(text: str, spec: Mapping[str, Any]) -> Check:
    """The number, by rule.

    right       the last number is `spec["answer"]` (written as a word up to twenty, where there are no digits)
    consistent  every equation is true, and outside of them no number stands but the operands and the answer
    short       1 to 40 words
    A wrong answer gets no credit for form: 0.1 when there is a number at all, else 0.
    """
    plain = _digits(text)
    numbers = numbers_in(text)
    equations = [(int(a), sign, int(b), int(c)) for a, sign, b, c in _EQUATION.findall(plain)]
    outside = [float(number.replace(",", "")) for number in _NUMBER.findall(_EQUATION.sub(" ; ", plain))]
    answer = spec["answer"]
    allowed = {spec["a"], spec["b"], answer}
    right = bool(numbers) and numbers[-1] == answer
    parts: dict[str, bool | float] = {
        "right": right,
        "consistent": all(_holds(*equation) for equation in equations) and set(outside) <= allowed,
        "short": 1 <= len(text.split()) <= MAX_SUM_WORDS,
    }
    verdict = _verdict(parts, ARITHMETIC_WEIGHTS, "number")
    return verdict if right else Check(False, 0.1 if numbers else 0.0, parts, "number")


def numbers_in(text: str) -> list[float]:
    """Every number of a text, in order; where it has no digit, numbers up to twenty that are written as words."""
    return [float(number.replace(",", "")) for number in _NUMBER.findall(_digits(text))]


def _digits(text: str) -> str:
    plain = text.replace("−", "-").replace("–", "-")
    if not any(character.isdigit() for character in plain):
        for value, word in reversed(list(enumerate(_NUMBER_WORDS))):
            plain = re.sub(rf"(?i)\b{word}\b", str(value), plain)
    return plain


def _holds(a: int, sign: str, b: int, c: int) -> bool:
    if sign in ("+", "plus"):
        return a + b == c
    return a - b == c if sign in ("-", "minus") else a * b == c


# --- code --------------------------------------------------------------------------------------------------------

CODE_WEIGHTS = {"correct": 0.5, "block": 0.15, "language": 0.1, "explanation": 0.25}


@dataclass(frozen=True)
class Idea:
    """What a small function has to compute."""

    cases: tuple[tuple[tuple[Any, ...], Any], ...]
    """(arguments, result); hidden from the one who writes the code."""
    java: str
    """Without a JDK, one of the method's statements has to match this."""
    words: str
    """An explanation names one of these, or says function, code, method, program or returns."""
    operator: tuple[str, str] | None = None
    """Of two numbers: its `ast` name and its Java sign. A program that only prints such a term counts as correct."""


_V = r"[\w.()]+"
IDEAS: dict[str, Idea] = {
    "add": Idea((((2, 3), 5), ((-4, 9), 5), ((0, 0), 0), ((40, 83), 123)), rf"{_V} \+ {_V}", "add|sum", ("Add", "+")),
    "subtract": Idea(
        (((9, 4), 5), ((3, 8), -5), ((0, -2), 2), ((50, 50), 0)), rf"{_V} - {_V}", "subtract|differ", ("Sub", "-")
    ),
    "multiply": Idea(
        (((3, 4), 12), ((-2, 7), -14), ((0, 9), 0), ((12, 11), 132)), rf"{_V} \* {_V}", "multipl|product", ("Mult", "*")
    ),
    "max": Idea(
        (((3, 8), 8), ((9, 2), 9), ((-5, -1), -1), ((4, 4), 4)),
        r"Math\.max\(|(\w+) >=? (\w+) \? \1 : \2|(\w+) <=? (\w+) \? \4 : \3|if \((\w+) >=? \w+\) ?\{? ?return \5|"
        r"if \(\w+ <=? (\w+)\) ?\{? ?return \6",
        "larg|max|great|big",
    ),
    "min": Idea(
        (((3, 8), 3), ((9, 2), 2), ((-5, -1), -5), ((4, 4), 4)),
        r"Math\.min\(|(\w+) <=? (\w+) \? \1 : \2|(\w+) >=? (\w+) \? \4 : \3|if \((\w+) <=? \w+\) ?\{? ?return \5|"
        r"if \(\w+ >=? (\w+)\) ?\{? ?return \6",
        "small|min|less",
    ),
    "square": Idea((((5,), 25), ((-3,), 9), ((0,), 0), ((12,), 144)), r"(\w+) \* \1\b|Math\.pow\(\w+, 2", "square"),
    "is_even": Idea(
        (((4,), True), ((7,), False), ((0,), True), ((-3,), False)), r"% 2 (?:== 0|!= 1)|& 1\) == 0", "even"
    ),
    "absolute": Idea(
        (((5,), 5), ((-3,), 3), ((0,), 0), ((-12,), 12)),
        r"Math\.abs\(|(\w+) <=? 0 \? - ?\1 : \1|(\w+) >=? 0 \? \2 : - ?\2|if \((\w+) <=? 0\) ?\{? ?return - ?\3|"
        r"if \((\w+) >=? 0\) ?\{? ?return \4",
        "absolute",
    ),
    "double": Idea(
        (((5,), 10), ((-3,), -6), ((0,), 0), ((12,), 24)), r"\* 2\b|2 \*|(\w+) \+ \1\b|<< 1", "doubl|twice|two"
    ),
    "sum_list": Idea(
        ((([1, 2, 3],), 6), (([-1, 5],), 4), (([7],), 7), (([10, 20, 30, 40],), 100)),
        r"\+= |\.sum\(|(\w+) = \1 \+ ",
        "sum|add|total",
    ),
    "reverse": Idea(
        ((("abc",), "cba"), (("level up",), "pu level"), (("x",), "x")), r"\.reverse\(\)|charAt\(", "revers|backward"
    ),
    "length": Idea(((("hello",), 5), (("",), 0), (("a b c",), 5)), r"return \w+\.length\(\)", "length|character|long"),
    "factorial": Idea((((0,), 1), ((1,), 1), ((4,), 24), ((6,), 720)), r"\w+ \* \w+|\*= \w+", "factorial"),
    "cube": Idea((((2,), 8), ((-3,), -27), ((0,), 0)), r"(\w+) \* \1 \* \1\b|Math\.pow\(\w+, 3", "cube"),
    "negate": Idea(
        (((5,), -5), ((-3,), 3), ((0,), 0)), r"return \(?- ?\w+|0 - |\* \(?- ?1|- ?1 \*", "negat|sign|minus"
    ),
    "remainder": Idea((((7, 3), 1), ((9, 3), 0), ((10, 4), 2)), rf"{_V} % {_V}", "remainder|modul|divi", ("Mod", "%")),
}
LANGUAGES = ("python", "java")


@dataclass(frozen=True)
class Written:
    """A completion of the code family, taken apart."""

    idea: Idea
    language: str
    source: str
    block: bool
    """The source stood in one closed fence."""
    language_ok: bool
    explanation: bool


_FENCE = re.compile(r"```[ \t]*([\w+#-]*)[ \t]*\n(.*?)(?:\n[ \t]*```|```|\Z)", re.S)
_BARE = re.compile(r"(?m)^[ \t]*(?:def |import |from \w+ import|(?:public |private |final |static )*(?:class|static) )")
_PYTHON_LOOK = re.compile(r"(?m)^\s*def \w+\(.*\).*:|^\s*print\(|^\w+ = ")
_JAVA_LOOK = re.compile(r"[;{]\s*(?://.*)?$", re.M)
_RELEVANT = "function|code|method|program|return|class"


def read_code(text: str, spec: Mapping[str, Any]) -> Written:
    """Takes a completion apart. Raises InputError for a language or an idea that no rule covers.

    block        a closed ``` fence (its tag, where there is one, has to be the language)
    language     the tag, or without one the look of the source
    explanation  outside the block: at least 4 different words, one of which is about the task, no going round, at
                 most 120 words
    Without a fence the source begins at the first line that looks like code and the explanation is what precedes it,
    or what follows it after an empty line.
    """
    language, idea = spec["language"], spec["idea"]
    if language not in LANGUAGES or idea not in IDEAS:
        raise InputError(
            f"code is checked in {' and '.join(LANGUAGES)} for {', '.join(IDEAS)}; "
            f"got language {language!r}, idea {idea!r}"
        )
    fence = _FENCE.search(text)
    if fence:
        tag, source = fence.group(1).lower(), fence.group(2)
        closed = fence.group(0).rstrip().endswith("```") and len(fence.group(0)) > len(tag) + 4
        outside = text[: fence.start()] + "\n" + text[fence.end() :]
    else:
        start = _BARE.search(text)
        tag, closed = "", False
        source = text[start.start() :] if start else text
        source, outside = _bare_code(source, language, text[: start.start()] if start else "")
    looks_java, looks_python = bool(_JAVA_LOOK.search(source)), bool(_PYTHON_LOOK.search(source))
    alike = {"py": "python", "python3": "python"}.get(tag, tag)
    language_ok = (looks_java if language == "java" else looks_python and not looks_java) and alike in ("", language)
    return Written(IDEAS[idea], language, source, closed, language_ok, _explains(outside, IDEAS[idea].words))


def _bare_code(source: str, language: str, before: str) -> tuple[str, str]:
    """Splits unfenced source from the words after it: after an empty line, unindented, without the signs of code."""
    pieces = source.split("\n\n")
    kept = len(pieces)
    while kept > 1 and pieces[kept - 1][:1].isalpha() and not re.search(r"[={};]|\w\(.*\)\s*:?$", pieces[kept - 1]):
        kept -= 1
    return "\n\n".join(pieces[:kept]), before + "\n" + "\n".join(pieces[kept:])


def _explains(text: str, words: str) -> bool:
    found = re.findall(r"[A-Za-z']+", text)
    if len(found) > 120 or len({word.lower() for word in found}) < 4 or repeats(text):
        return False
    return re.search(rf"(?i){words}|{_RELEVANT}", text) is not None


def _check_code(written: Sequence[Written]) -> list[Check]:
    snippets = [Snippet(w.source, tuple(arguments for arguments, _ in w.idea.cases)) for w in written]
    python = [i for i, w in enumerate(written) if w.language == "python"]
    java = [i for i, w in enumerate(written) if w.language == "java"]
    outcomes: dict[int, Outcome | None] = dict(zip(python, run_python([snippets[i] for i in python]), strict=True))
    ran = run_java([snippets[i] for i in java]) if java else []
    outcomes |= dict(zip(java, ran if ran is not None else [None] * len(java), strict=True))
    return [_judge(w, outcomes[i]) for i, w in enumerate(written)]


def _judge(written: Written, outcome: Outcome | None) -> Check:
    how = "executed" if written.language == "python" else "compiled and run" if outcome is not None else "structure"
    parts: dict[str, bool | float] = {
        "block": written.block,
        "language": written.language_ok,
        "correct": java_structure(written) if outcome is None else _correct(written, outcome),
        "explanation": written.explanation,
    }
    return _verdict(parts, CODE_WEIGHTS, how)


def _correct(written: Written, outcome: Outcome) -> bool:
    """Every case right; or, for the four operations on two numbers, a program that ran and printed such a term."""
    if outcome.results is not None:
        expected = [result for _, result in written.idea.cases]
        pairs = zip(outcome.results, expected, strict=True)
        return len(outcome.results) == len(expected) and all(_same(got, want) for got, want in pairs)
    if outcome.printed is None or written.idea.operator is None or not re.search(r"\d", outcome.printed):
        return False
    name, sign = written.idea.operator
    if written.language == "python":
        return name in outcome.operators
    return _java_term(written.source, sign)


def _same(got: object, want: object) -> bool:
    """Equal, and a truth value only where one is asked for; 25.0 is 25."""
    return isinstance(got, bool) == isinstance(want, bool) and got == want


def _java_term(source: str, sign: str) -> bool:
    """A term of two different names or numbers with this sign, outside of string literals."""
    code = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', source)
    return any(a != b for a, b in re.findall(rf"\b(\w+)\s*{re.escape(sign)}\s*(\w+)\b", code))


def java_structure(written: Written) -> bool:
    """Where no JDK is: a method with the right number of parameters whose body has the idea's term and a return.

    Braces have to balance and statements to end in semicolons. Good against omissions, blind to subtle errors; a
    verdict reached this way says `structure`. A program with only `main` has to print the term.
    """
    source = re.sub(r"//[^\n]*|/\*.*?\*/", "", written.source, flags=re.S)
    code = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', source)
    if code.count("{") != code.count("}") or code.count("(") != code.count(")") or "{" not in code:
        return False
    statements = [line.strip() for line in code.split("\n") if line.strip()]
    if any(line.startswith(("return", "int ", "System.")) and line[-1] not in ";{" for line in statements):
        return False
    spaced = re.sub(r"\s*(<<|[+*/%<>=!]=?|[?:])\s*|(?<=[\w)])\s*(-)\s*(?=[\w(])", r" \1\2 ", code)
    spaced = re.sub(r"\s+", " ", spaced)
    arity = len(written.idea.cases[0][0])
    for match in re.finditer(r"\b[\w\[\]<>]+ (\w+) ?\(([^()]*)\) ?(?:throws \w+ )?\{", spaced):
        name, parameters = match.groups()
        if name in ("main", "if", "for", "while") or len(parameters.split(",")) != arity or not parameters.strip():
            continue
        body = spaced[match.end() :]
        return "return " in body and re.search(written.idea.java, body) is not None
    operator = written.idea.operator
    return operator is not None and " main(" in spaced and "System.out.print" in code and _java_term(code, operator[1])
