"""Codes of languages: the two letters that people write, and the three by which MMS models name them."""

import difflib
from collections.abc import Sequence

# ISO 639-1 to ISO 639-3, as pycountry 26.2 has them. Seven name one language of a macrolanguage, after the names that
# MMS models give their adapters: az, ms, ne, no, or, sw and zh; these names were not compared with a model's list.
_CODES = """
    af:afr am:amh ar:ara as:asm az:azj be:bel bg:bul bn:ben bs:bos ca:cat cs:ces cy:cym da:dan de:deu el:ell
    en:eng es:spa et:est fa:fas ff:ful fi:fin fr:fra ga:gle gl:glg gu:guj ha:hau he:heb hi:hin hr:hrv hu:hun
    hy:hye id:ind ig:ibo is:isl it:ita ja:jpn jv:jav ka:kat kk:kaz km:khm kn:kan ko:kor ky:kir lb:ltz lg:lug
    ln:lin lo:lao lt:lit lv:lav mi:mri mk:mkd ml:mal mn:mon mr:mar ms:zlm mt:mlt my:mya nb:nob ne:npi nl:nld
    no:nob ny:nya om:orm or:ory pa:pan pl:pol ps:pus pt:por ro:ron ru:rus sd:snd sk:slk sl:slv sn:sna so:som
    sr:srp sv:swe sw:swh ta:tam te:tel tg:tgk th:tha tl:tgl tr:tur uk:ukr ur:urd uz:uzb vi:vie wo:wol xh:xho
    yo:yor zh:cmn zu:zul
"""
_THREE_LETTERS = dict(pair.split(":") for pair in _CODES.split())


def suggest_language(code: str, offered: Sequence[str]) -> list[str]:
    """Which of the offered languages a code may mean, the likeliest first; without any offered, the three letters."""
    wanted = _THREE_LETTERS.get(code.lower(), code.lower())
    if not offered:
        return [wanted] if wanted != code.lower() else []
    # Some names have their script behind them: azj-script_latin.
    same = [each for each in offered if each == wanted or each.startswith(f"{wanted}-")]
    return same or difflib.get_close_matches(wanted, offered, 3)
