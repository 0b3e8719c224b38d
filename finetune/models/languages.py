"""Language codes: two letters (ISO 639-1) and the three letters (ISO 639-3) that MMS models use."""

import difflib
from collections.abc import Sequence

# ISO 639-1 to ISO 639-3, from pycountry 26.2. Seven codes of macrolanguages are mapped to one language, as MMS models
# name their adapters: az, ms, ne, no, or, sw and zh. These were not compared with the list of a model.
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
    """The offered languages that a code may mean, the most likely first; if none are offered, its three-letter code."""
    wanted = _THREE_LETTERS.get(code.lower(), code.lower())
    if not offered:
        return [wanted] if wanted != code.lower() else []
    # Some names end with a script: azj-script_latin.
    same = [each for each in offered if each == wanted or each.startswith(f"{wanted}-")]
    return same or difflib.get_close_matches(wanted, offered, 3)
