"""Numbers in transcripts as words; numbers that can be said in several ways are reported instead.

num2words writes cardinals, English ordinals and decades. Years become cardinals, since 1998 may be a number, too. Its
decimals are wrong in some languages (a final 0 is lost, Italian loses the whole fraction), so decimals, minus and
percent are composed here from a table.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import regex

from finetune.errors import TranscriptError, TransformError

_LONGEST_NUMBER = 20  # More digits, as of a card or phone number, are said one by one.


class _Writing(NamedTuple):
    """How a language writes and says numbers: the decimal mark and words, "" where a word depends on the context.

    `fraction`: decimals are said by `digits` or as one `number`; with "" several digits may be said either way.
    `groups_by_space`: 1 000 is one number.
    """

    mark: str = "."
    point: str = ""
    minus: str = ""
    percent: str = ""
    fraction: str = ""
    groups_by_space: bool = False


# The decimal marks are those of Unicode's CLDR. For a language without an entry only whole numbers are read.
_WRITINGS = {
    "en": _Writing(".", "point", "minus", "percent", "digits"),
    "de": _Writing(",", "Komma", "minus", "Prozent", "digits"),
    "fr": _Writing(",", "virgule", "moins", "pour cent", "number", True),
    "es": _Writing(",", "coma", "menos", "por ciento"),
    "it": _Writing(",", "virgola", "meno", "per cento"),
    "pt": _Writing(",", "vírgula", "menos", "por cento"),
    "ca": _Writing(",", "coma", "menys", "per cent"),
    "ro": _Writing(",", "virgulă", "minus"),
    "nl": _Writing(",", "komma", "min", "procent"),
    "da": _Writing(",", "komma", "minus", "procent", "digits"),
    "no": _Writing(",", "komma", "minus", "prosent", "", True),
    "sv": _Writing(",", "komma", "minus", "procent", "", True),
    "is": _Writing(",", "komma", "mínus"),
    "fi": _Writing(",", "pilkku", "miinus", "", "", True),
    "id": _Writing(",", "koma", "minus", "persen", "digits"),
    "vi": _Writing(",", "phẩy", "âm", "phần trăm"),
    "ko": _Writing(".", "점", "마이너스", "퍼센트", "digits"),
    "he": _Writing(".", "נקודה", "מינוס"),
    **{
        name: _Writing(",", groups_by_space=True)
        for name in ("be", "cs", "hu", "kz", "lt", "lv", "pl", "ru", "sk", "uk")
    },
    **{name: _Writing(",") for name in ("az", "eo", "eu", "sl", "sr", "tet", "tg", "tr")},
    **{name: _Writing(".") for name in ("es_GT", "es_NI", "fr_CH")},
}
# Languages that write a dot after an ordinal: 3. Mai.
_ORDINAL_DOT = {"az", "cs", "da", "de", "fi", "hu", "is", "kz", "lt", "lv", "no", "pl", "sk", "sl", "sr", "tr"}
_FRENCH_ORDINALS = {"er": "premier", "re": "première", "ère": "première"}

_FIRST_DECIMAL_COMMA = frozenset(
    {"cs", "da", "de", "es", "fi", "fr", "id", "it", "nl", "no", "pl", "pt", "ru", "sv", "tr", "uk", "vi"}
)

# No-break, thin and narrow no-break: within a number they separate groups in any language.
_SPACES = "\u00a0\u2009\u202f"
_SPACED = regex.compile(rf"(?<![\d.,'’])\d{{1,3}}(?:[{_SPACES} ]\d{{3}})+(?![\d])")
_HAN_AND_LIKE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Line_Break=SA}"
# The rest of a number: up to a space, a dash between words, or a letter of a script without spaces.
_REST = rf"[^\s—…{_HAN_AND_LIKE}]*"
_CHUNK = regex.compile(
    rf"(?:\p{{Sc}}[{_SPACES} ]?)?{_REST}[\p{{Nd}}\p{{No}}\p{{Nl}}]{_REST}(?:[{_SPACES} ]?[%°\p{{Sc}}](?!\d))?"
)
_INNER = regex.compile(
    r"(?P<before>[\p{Ps}\p{Pi}\"'¿¡]*)(?P<core>.*?)(?P<after>[\p{Pe}\p{Pf}\"',.;:!?؟،]*)", regex.DOTALL
)
_DASHES = "-−"
_GOES_ON = regex.compile(r"\s+\p{L}")
_UNSPACED = frozenset({"ja", "th"})


def build_number_words(language: str) -> Callable[[str], str]:
    """A transform that writes numbers as words and does not change those that it can't read.

    Raises TransformError for a language that num2words doesn't have, and where num2words is not installed.
    """
    speaker = _Speaker(language)
    return lambda text: speaker.say_all(text)[0]


def build_strict_number_words(language: str) -> Callable[[str], str]:
    """The same transform, which raises TranscriptError for a text with a number that it can't read."""
    speaker = _Speaker(language)

    def transform(text: str) -> str:
        said, unreadable = speaker.say_all(text)
        if unreadable:
            raise TranscriptError(f"unreadable number: {unreadable[0]}")
        return said

    return transform


def build_first_number_words(language: str) -> Callable[[str], str]:
    """The transform as in version 1 of a model's normalisation: numbers that it can't read are said part by part."""
    cardinal = load_cardinal(language)
    point = "," if language in _FIRST_DECIMAL_COMMA else "."
    group = "." if point == "," else ","

    def in_words(number: int | str) -> str:
        import num2words

        try:
            return str(num2words.num2words(number, lang=language))
        except OverflowError:  # The language has no word for so large a number.
            return " ".join(cardinal(int(digit), "cardinal") or "" for digit in str(number) if digit.isdecimal())

    def say(match: regex.Match[str]) -> str:
        digits = match.group()
        if len(digits) > _LONGEST_NUMBER:
            return " ".join(in_words(int(digit)) for digit in digits if digit.isdecimal())
        grouped = regex.fullmatch(rf"\d{{1,3}}(?:{regex.escape(group)}\d{{3}})+(?:{regex.escape(point)}\d+)?", digits)
        whole, found, fraction = (digits.replace(group, "") if grouped else digits).partition(point)
        if not found and whole.isdecimal():
            parts = list(whole) if len(whole) > 1 and int(whole[0]) == 0 else [whole]
            return " ".join(in_words(int(part)) for part in parts)
        if whole.isdecimal() and fraction.isdecimal():
            return in_words(f"{int(whole)}.{''.join(str(int(digit)) for digit in fraction)}")
        return " ".join(in_words(int(part)) for part in regex.split("[.,]", digits))

    return lambda text: regex.sub(r"\d+(?:[.,]\d+)*", lambda match: f" {say(match)} ", text)


class _Speaker:
    """Writes the numbers of one language as words."""

    def __init__(self, language: str) -> None:
        self._convert = load_cardinal(language)
        self._language = language
        self._base = language.split("_")[0]
        writing = _WRITINGS.get(language) or _WRITINGS.get(self._base) or _Writing()
        self._writing = writing
        group = "," if writing.mark == "." else r"\."
        mark = regex.escape(writing.mark)
        western = rf"\d{{1,3}}(?:(?P<group>[{group}'’٬{_SPACES} ])\d{{3}})(?:(?P=group)\d{{3}})*"
        indian = r"\d{1,2}(?:,\d{2})+,\d{3}" if writing.mark == "." else r"(?!)"
        self._number = regex.compile(rf"(?P<whole>{western}|{indian}|\d+)(?:[{mark}٫](?P<fraction>\d+))?")

    def say_all(self, text: str) -> tuple[str, list[str]]:
        """A text with its numbers as words, and the numbers that can't be read and are not changed."""
        unreadable: list[str] = []
        # A space within a number is replaced by a private-use character.
        joined = _SPACED.sub(lambda match: self._join(match.group()), text)

        def say(match: regex.Match[str]) -> str:
            inner = _INNER.fullmatch(match.group())
            assert inner is not None
            core, behind = inner["core"], joined[match.end() :]
            is_ordinal = inner["after"].startswith(".") and core.isdecimal() and _GOES_ON.match(behind)
            said = None if is_ordinal and self._base in _ORDINAL_DOT else self._say(core)
            if said is None:
                unreadable.append(match.group().replace("\ue000", " "))
                return match.group()
            before, after = joined[: match.start()][-1:], behind[:1]
            # An adjacent letter is of a script without spaces.
            parted = "" if self._base in _UNSPACED else " "
            left, right = parted if before.isalnum() else "", parted if after.isalnum() else ""
            return f"{left}{inner['before']}{said}{inner['after']}{right}"

        return _CHUNK.sub(say, joined).replace("\ue000", " "), unreadable

    def _join(self, digits: str) -> str:
        """Groups of digits as one chunk: a number where the language groups by spaces, else an unreadable chunk."""
        plain = " " in digits
        if plain and not self._writing.groups_by_space:
            return digits.replace(" ", "\ue000")
        return regex.sub(rf"[{_SPACES} ]", "", digits)

    def _say(self, core: str) -> str | None:
        """The words for a number with everything attached to it; None where they are ambiguous or unknown."""
        writing, english = self._writing, self._base == "en"
        core = regex.sub(rf"[{_SPACES} ](?=[%°\p{{Sc}}])|(?<=\p{{Sc}})[{_SPACES} ]", "", core)
        if core[:1] in _DASHES and writing.minus and (said := self._say_number(core[1:].removesuffix("%"))):
            return self._add_percent(f"{writing.minus} {said}", core)
        if (said := self._say_number(core.removesuffix("%"))) is not None:
            return self._add_percent(said, core)
        if parts := regex.fullmatch(r"((?:[\p{L}\p{M}'’]+-?)+)(\d+)", core):
            said = self._say_number(parts[2])
            return said and f"{parts[1]} {said}"
        if (parts := regex.fullmatch(r"(\d+)(-\p{L}[\p{L}\p{M}'’-]+)", core)) and self._base not in ("fi", "ru", "uk"):
            said = self._say_number(parts[1])
            return said and said + parts[2]
        if english:
            return self._say_english(core)
        if self._base == "fr" and (parts := regex.fullmatch(r"(\d+)(er|re|ère|e|ème)", core)):
            if parts[2] in _FRENCH_ORDINALS:
                return _FRENCH_ORDINALS[parts[2]] if parts[1] == "1" else None
            return self._convert(int(parts[1]), "ordinal") if parts[1] != "1" else None
        return None

    def _say_english(self, core: str) -> str | None:
        if parts := regex.fullmatch(r"(\d[\d,]*)(st|nd|rd|th)", core, regex.IGNORECASE):
            whole = self._number.fullmatch(parts[1])
            number = int(regex.sub(r"\D", "", parts[1]))
            teens = number % 100 in (11, 12, 13)
            suffix = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
            return self._convert(number, "ordinal") if whole and suffix == parts[2].lower() else None
        if parts := regex.fullmatch(r"['’]?(\d{2}|\d{4})['’]?s", core):
            if int(parts[1]) % 10 or int(parts[1]) in (0, 1000):  # 1000s may mean "thousands".
                return None
            said = self._convert(int(parts[1]), "year")
            return said and (f"{said[:-1]}ies" if said.endswith("y") else f"{said}s")
        if parts := regex.fullmatch(r"(\d*)([½¼¾])", core):
            half = {"½": "a half", "¼": "a quarter", "¾": "three quarters"}[parts[2]]
            if not parts[1]:
                return half.replace("a ", "one ")
            said = self._say_number(parts[1])
            return said and f"{said} and {half}"
        return None

    def _add_percent(self, said: str, core: str) -> str | None:
        if not core.endswith("%"):
            return said
        return f"{said} {self._writing.percent}" if self._writing.percent else None

    def _say_number(self, digits: str) -> str | None:
        """The words for a number in the language's notation without anything else; None for other text."""
        found = self._number.fullmatch(digits)
        if not found:
            return None
        whole, fraction = regex.sub(r"\D", "", found["whole"]), found["fraction"]
        leading_zero = len(whole) > 1 and int(whole[0]) == 0
        if fraction is None:
            # Numbers with leading zeros are said by digits: 007 is not seven.
            return self._say_digits(whole) if leading_zero or len(whole) > _LONGEST_NUMBER else self._say_whole(whole)
        # Three zeros may as well be the thousands in another country's notation.
        if not self._writing.point or leading_zero or (set(map(int, fraction)) == {0} and len(fraction) == 3):
            return None
        zeros = len(fraction) - len(fraction.lstrip("0"))
        if len(fraction) == 1 or self._writing.fraction == "digits":
            after = self._say_digits(fraction)
        elif self._writing.fraction == "number":
            after = " ".join(filter(None, [self._say_digits("0" * zeros), self._say_whole(fraction[zeros:] or "")]))
        else:
            return None
        said = self._say_whole(whole)
        return said and after and f"{said} {self._writing.point} {after}"

    def _say_digits(self, digits: str) -> str | None:
        said = [self._convert(int(digit), "cardinal") for digit in digits]
        return " ".join(filter(None, said)) if all(said) else None

    def _say_whole(self, digits: str) -> str | None:
        return (self._convert(int(digits), "cardinal") or self._say_digits(digits)) if digits else None


def load_cardinal(language: str) -> Callable[[int, str], str | None]:
    """num2words for a language: from a number and `cardinal`, `ordinal` or `year` to words, or None.

    Raises TransformError for a language that it doesn't have, and where num2words is not installed.
    """
    try:
        import num2words
    except ImportError as error:
        raise TransformError("numbers_to_words needs num2words: pip install 'finetune[numbers]'") from error
    known = sorted(num2words.CONVERTER_CLASSES)
    if language not in known:
        raise TransformError(f"numbers_to_words: found {language!r}; expected one of {', '.join(known)}")

    def convert(number: int, kind: str) -> str | None:
        try:
            return str(num2words.num2words(number, lang=language, to=kind)) or None
        # It raises many types: KeyError in Chechen, TypeError in Amharic.
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, NotImplementedError):
            return None

    return convert


@functools.cache
def _list_number_words() -> dict[str, frozenset[str]]:
    """The words for 2 to 20, the tens, 100 and 1000 in each language of num2words; {} without num2words."""
    try:
        import num2words
    except ImportError:
        return {}
    numbers = [*range(2, 21), *range(30, 100, 10), 100, 1000]
    found = {}
    for language in num2words.CONVERTER_CLASSES:
        if "_" not in language:
            convert = load_cardinal(language)
            words = {said.lower() for number in numbers if (said := convert(number, "cardinal"))}
            found[language] = frozenset(word for word in words if " " not in word and len(word) > 2)
    return found


def count_number_words(texts: Iterable[str]) -> tuple[str, Counter[str]] | None:
    """The language of the number words in normalised texts, and each word's count; None for fewer than three words.

    Of several languages the one with most distinct words is returned, then the one with most words.
    """
    counts = Counter(word for text in texts for word in text.lower().split())
    best: tuple[str, Counter[str]] | None = None
    for language, words in _list_number_words().items():
        found = Counter({word: counts[word] for word in sorted(words) if word in counts})
        if len(found) >= 3 and (best is None or (len(found), found.total()) > (len(best[1]), best[1].total())):
            best = language, found
    return best
