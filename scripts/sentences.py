"""Texts for the base corpus: a random script, and what is written and said for it.

A script is lower-case words, with each spelled letter in upper case: "my name is J O H N". The transcript
is the script in lower case; the upper case is what tells the letter A from the word a.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import word_lists as words
from synthesis import SynthesisError

SOURCE_SHARES = {"sentence": 0.40, "spelling": 0.33, "number": 0.22, "command": 0.05}

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def pick(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    """Return one of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def collect_texts(more: Path | None = None) -> list[str]:
    """Return WordNet's examples and Python's documentation as clauses, sorted, with `more` (see `read_sentences`).

    Raises SynthesisError without WordNet.
    """
    examples = collect_examples()
    if not examples:
        raise SynthesisError("WordNet's texts were not found; install them, e.g. with: apt-get install wordnet-base")
    return sorted(examples + collect_clauses() + (read_sentences(more) if more else []))


def read_sentences(path: Path) -> list[str]:
    """Return a file's lines of 2 to 14 words that look natural, sorted (make_english_text.py makes such files)."""
    if not path.is_file():
        raise SynthesisError(f"{path} is no file; expected sentences, one a line (scripts/make_english_text.py)")
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    counts = Counter(word for words in lines for word in words)
    natural = {word for word in counts if len(word) < 15 and _WORD.fullmatch(word) and _looks_natural(word, counts)}
    return sorted({" ".join(words) for words in lines if 2 <= len(words) <= 14 and natural.issuperset(words)})


def collect_clauses() -> list[str]:
    """Return clauses of 2 to 12 plain words from the documentation that comes with Python, sorted."""
    found = set()
    for document in _read_documentation():
        for sentence in re.split(r"[.;:!?()\[\]\n]{1,}\s|,\s|\n\s*\n|--", document.replace("\n    ", " ")):
            clause = " ".join(sentence.split()).strip(' .,;:!?"').lower()
            parts = clause.split(" ")
            if 2 <= len(parts) <= 12 and all(_WORD.fullmatch(part) and len(part) < 15 for part in parts):
                found.add(clause)
    counts = Counter(part for clause in found for part in clause.split(" "))
    return sorted(clause for clause in found if all(_looks_natural(part, counts) for part in clause.split(" ")))


def collect_examples(folder: Path = Path("/usr/share/wordnet")) -> list[str]:
    """Return the example phrases of WordNet 3.0 of 2 to 14 plain words, sorted (Debian's package wordnet-base)."""
    found = set()
    for path in sorted(folder.glob("data.*")):
        for quoted in re.findall(r'"([^"]+)"', path.read_text(encoding="utf-8")):
            phrase = re.sub(r"[,.;:!?]+(?= |$)", "", quoted.lower().replace("--", " "))
            parts = phrase.split()
            if 2 <= len(parts) <= 14 and all(_WORD.fullmatch(part) and len(part) < 15 for part in parts):
                found.add(" ".join(parts))
    return sorted(found)


def _looks_natural(word: str, counts: Counter[str]) -> bool:
    if len(word) == 1:
        return word in "ai"
    return counts[word] >= 3 and re.search(r"[aeiouy]", word) is not None and not re.search(r"(.)\1\1", word)


def _read_documentation() -> Iterator[str]:
    yield from (str(topic) for topic in topics.values())
    skipped = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings"}
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if skipped & set(path.relative_to(library).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def word_number(number: int, use_and: bool = False) -> str:
    """Return a whole number from 0 to 999,999 in words."""
    if number < 20:
        return (words.DIGITS + words.TEENS)[number]
    if number < 100:
        rest = number % 10
        return words.TENS[number // 10] + (f" {words.DIGITS[rest]}" if rest else "")
    unit, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    rest = number % unit
    joint = " and " if use_and and 0 < rest < 100 else " "
    return f"{word_number(number // unit, use_and)} {name}" + (joint + word_number(rest, use_and) if rest else "")


def word_ordinal(number: int) -> str:
    """Return an ordinal from 1 to 99 in words."""
    if number < 20:
        return words.ORDINALS[number]
    if number % 10 == 0:
        return words.TENS[number // 10][:-1] + "ieth"
    return f"{words.TENS[number // 10]} {words.ORDINALS[number % 10]}"


def word_pair(number: int, rng: np.random.Generator) -> str:
    """Return two digits as people say them in a row of pairs: "oh five", "sixty two", "six two"."""
    if number < 10:
        return f"{pick(rng, ('oh', 'zero'))} {words.DIGITS[number]}"
    return word_number(number) if rng.random() < 0.85 else f"{words.DIGITS[number // 10]} {words.DIGITS[number % 10]}"


def word_digits(count: int, rng: np.random.Generator) -> str:
    """Return `count` random digits in words; one way of saying 0 within one number, as people do."""
    zero = pick(rng, ("oh", "zero"))
    digits = [int(digit) for digit in rng.integers(0, 10, count)]
    return " ".join(words.DIGITS[digit] if digit else zero for digit in digits)


def word_year(rng: np.random.Generator) -> str:
    """Return a year from 1900 to 2039 in words, in one of its usual forms."""
    year = int(rng.integers(1900, 2040))
    if 2000 <= year < 2010 or (year >= 2000 and rng.random() < 0.3):
        return word_number(year, use_and=rng.random() < 0.4)
    rest = year % 100
    return f"{word_number(year // 100)} " + (
        "hundred" if rest == 0 else f"oh {words.DIGITS[rest]}" if rest < 10 else word_number(rest)
    )


def write_date(rng: np.random.Generator) -> str:
    """Return a date in words, with or without its year."""
    month, day = pick(rng, words.MONTHS), int(rng.integers(1, 32))
    spoken_day = word_ordinal(day) if rng.random() < 0.55 else word_number(day)
    form = rng.random()
    date = f"the {word_ordinal(day)} of {month}" if form < 0.12 else f"{month} {spoken_day}"
    if form > 0.93:
        date = f"{pick(rng, words.WEEKDAYS)} {date}"
    return f"{date} {word_year(rng)}" if rng.random() < 0.65 else date


def write_address(rng: np.random.Generator) -> str:
    """Return a house number and street in words."""
    form, pair = rng.random(), int(rng.integers(10, 100))
    if form < 0.35:
        number = f"{word_number(pair)} {word_pair(int(rng.integers(1, 100)), rng)}"
    elif form < 0.6:
        number = word_digits(int(rng.integers(2, 5)), rng)
    else:
        number = word_number(int(rng.integers(1, 1000)), use_and=rng.random() < 0.2)
    street = word_ordinal(int(rng.integers(1, 60))) if rng.random() < 0.12 else pick(rng, words.STREETS)
    ending = rng.random()
    if ending < 0.15:
        return f"{number} {street}"
    address = f"{number} {street} {pick(rng, words.STREET_KINDS)}"
    return f"{address} {pick(rng, words.PLACES)}" if ending > 0.9 else address


def write_number(rng: np.random.Generator) -> str:
    """Return a number as people say one: digits, pairs, cardinals, ordinals, dates, phone numbers, addresses."""
    form, use_and = rng.random(), bool(rng.random() < 0.35)
    if form < 0.22:
        script = word_digits(int(rng.integers(1, 9)), rng)
    elif form < 0.30:  # a telephone number, now and then with its area code
        script = word_digits(7 if rng.random() < 0.65 else 10, rng)
    elif form < 0.37:  # a zip code
        script = (
            word_digits(5, rng)
            if rng.random() < 0.7
            else (f"{word_number(int(rng.integers(10, 100)))} {word_digits(3, rng)}")
        )
    elif form < 0.48:
        script = " ".join(word_pair(int(rng.integers(0, 100)), rng) for _ in range(int(rng.integers(2, 5))))
    elif form < 0.62:
        largest = 10 ** int(rng.integers(1, 7))
        script = word_number(int(rng.integers(0, largest)), use_and)
    elif form < 0.67:
        script = word_ordinal(int(rng.integers(1, 100)))
    elif form < 0.83:
        script = write_date(rng)
        return pick(rng, words.DATE_FRAMES).format(script) if rng.random() < 0.2 else script
    else:
        return write_address(rng)
    return pick(rng, words.NUMBER_FRAMES).format(script) if rng.random() < 0.15 else script


def _pick_word(rng: np.random.Generator, clauses: list[str]) -> str:
    lists = (words.FIRST_NAMES, words.LAST_NAMES, words.STREETS, words.PLACES, words.COMMON_WORDS)
    place = int(rng.choice(6, p=(0.25, 0.25, 0.12, 0.18, 0.1, 0.1)))
    return pick(rng, pick(rng, clauses).split(" ")) if place == 5 else pick(rng, lists[place])


def spell(word: str, rng: np.random.Generator) -> str:
    """Return a word as spelled letters; an apostrophe is said, and a doubled letter now and then is "double"."""
    letters = [letter.upper() if letter != "'" else "apostrophe" for letter in word]
    script, place = [], 0
    says_double = rng.random() < 0.08
    while place < len(letters):
        doubled = says_double and letters[place : place + 2] == [letters[place]] * 2
        script += ["double", letters[place]] if doubled else [letters[place]]
        place += 2 if doubled else 1
    return " ".join(script)


def _random_letters(rng: np.random.Generator, low: int, high: int) -> str:
    return " ".join(chr(65 + int(code)) for code in rng.integers(0, 26, int(rng.integers(low, high))))


def write_spelling(rng: np.random.Generator, clauses: list[str]) -> str:
    """Return something spelled: random letters, a name, letters among numbers, or a command with both."""
    form = rng.random()
    if form < 0.18:
        return _random_letters(rng, 1, 10)
    if form < 0.60:
        word = _pick_word(rng, clauses)
        shape = rng.random()
        if shape < 0.72:
            return spell(word, rng)
        if shape < 0.86:
            return f"{word} {spell(word, rng)}"
        return f"{spell(word, rng)} {spell(_pick_word(rng, clauses)[:6], rng)}"
    if form < 0.75:
        parts = [_random_letters(rng, 1, 5), word_digits(int(rng.integers(1, 5)), rng)]
        if rng.random() < 0.4:
            parts.append(_random_letters(rng, 1, 3))
        return " ".join(parts if rng.random() < 0.7 else parts[::-1])
    if form < 0.92:
        number = (
            word_digits(int(rng.integers(1, 4)), rng) if rng.random() < 0.5 else word_number(int(rng.integers(10, 100)))
        )
        parts = [pick(rng, words.SPELLING_COMMANDS), _random_letters(rng, 1, 6)]
        return " ".join([*parts, number] if rng.random() < 0.75 else parts)
    if form < 0.97:
        return pick(rng, words.SPELL_FRAMES).format(_random_letters(rng, 1, 6))
    return f"{pick(rng, words.LETTER_COMMENTS)} {_random_letters(rng, 1, 4)}"


def write_sentence(rng: np.random.Generator, clauses: list[str]) -> str:
    """Return running text: mostly a clause as found, sometimes an everyday frame or words at random."""
    form = rng.random()
    if form < 0.70:
        clause, other = pick(rng, clauses), pick(rng, clauses)
        joined = f"{clause} {other}"  # many clauses are short; two of them make a mouthful
        return joined if rng.random() < 0.4 and len(joined.split(" ")) <= 12 else clause
    if form < 0.80:
        name = (
            pick(rng, words.FIRST_NAMES)
            if rng.random() < 0.5
            else (f"{pick(rng, words.FIRST_NAMES)} {pick(rng, words.LAST_NAMES)}")
        )
        place = pick(rng, words.PLACES)
        return pick(rng, words.NAME_FRAMES).format(name if rng.random() < 0.6 else place)
    if form < 0.85:
        return f"{pick(rng, words.FIRST_NAMES)} {pick(rng, words.LAST_NAMES)}"
    # Words in an order that nobody expects: the sounds must be learned, not the phrases.
    return " ".join(
        _pick_word(rng, clauses) if rng.random() < 0.3 else pick(rng, words.COMMON_WORDS)
        for _ in range(int(rng.integers(2, 8)))
    )


def write_script(
    rng: np.random.Generator, clauses: list[str], sentence_share: float = SOURCE_SHARES["sentence"]
) -> tuple[str, str]:
    """Return a random script and its source, one of SOURCE_SHARES; `sentence_share` leaves the others in proportion."""
    others = (1 - sentence_share) / (1 - SOURCE_SHARES["sentence"])
    shares = [sentence_share if name == "sentence" else share * others for name, share in SOURCE_SHARES.items()]
    source = str(rng.choice(list(SOURCE_SHARES), p=shares))
    if source == "sentence":
        return write_sentence(rng, clauses), source
    if source == "spelling":
        return write_spelling(rng, clauses), source
    if source == "number":
        return write_number(rng), source
    script = pick(rng, words.COMMANDS)
    return (f"{script} {pick(rng, words.COMMANDS)}" if rng.random() < 0.25 else script), source


def add_pauses(script: str, source: str, rng: np.random.Generator) -> str:
    """Put commas, which engines say as pauses, between words: how often is a habit of the one utterance."""
    habit = rng.random()
    if source in ("sentence", "command"):
        chance = 0.0 if habit < 0.7 else 0.12
    else:
        chance = 0.0 if habit < 0.5 else float(rng.uniform(0.05, 0.4)) if habit < 0.85 else 1.0
    tokens = script.split(" ")
    paused = [token + ("," if rng.random() < chance else "") for token in tokens[:-1]]
    return " ".join([*paused, tokens[-1]])
