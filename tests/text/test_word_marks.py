"""Marks within words: one spelling for all variants, no split words, no invisible characters."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.text.transcripts import DEFAULT_TRANSFORMS, PRESETS, TransformError, build_normalizer, normalize
from finetune.text.word_marks import WORD_MARKS, find_invisible

ZWNJ, ZWJ, SHY, RLM, RLE, ALM, VS16 = "\u200c", "\u200d", "\u00ad", "\u200f", "\u202b", "\u061c", "\ufe0f"


@pytest.mark.parametrize(
    ("preset", "texts", "words"),
    [
        ("english", ["Don’t stop", "donʼt stop", f"do{SHY}n't st{ZWNJ}op{VS16}", "‘don't’ stop"], "don't stop"),
        ("german", [f"Auf{ZWNJ}la{SHY}ge", "\u200eAuflage\u200e", "Auf\u2060lage"], "auflage"),
        ("french", ["L’œuvre", "l'œuvre", "«\u202fL'œuvre\u202f»"], "l'œuvre"),
        ("catalan", ["Col·lecció", "col•lecció", "co\u0140lecció", "col‧lecció"], "col·lecció"),
        ("catalan", ["l’home · dos", "L'home: dos"], "l'home dos"),
        ("hebrew", ["צה״ל", 'צה"ל', "צה”ל", f"{RLM}צה״ל{RLM}", '"צה״ל"', "צַהַ״ל"], "צה״ל"),
        ("hebrew", ["ג׳ורג׳", "ג'ורג'", "ג’ורג’"], "ג׳ורג"),
        ("hebrew", ["don’t 5'5"], "don't 5'5"),
        ("hebrew", ["בית־ספר", "בית-ספר"], "בית ספר"),
        ("ukrainian", ["П’ять", "пʼять", "п'ять", 'п"ять', "п*ять"], "п'ять"),
        ("hawaiian", ["Hawai‘i", "Hawaiʻi", "hawai'i", "hawai`i"], "hawaiʻi"),
        ("hawaiian", ["ʻOkina ʻaʻole", "‘okina 'a‘ole."], "ʻokina ʻaʻole"),
        ("uzbek", ["Oʻzbek", "O‘zbek", "o'zbek", "oʼzbek"], "o'zbek"),
        ("armenian", ["Ինչպե՞ս ես", "ինչպես ես։"], "ինչպես ես"),
        ("finnish", ["EU:n jäsen: se", "eu：n jäsen se"], "eu:n jäsen se"),
        ("swedish", ["USA:s"], "usa:s"),
        ("arabic", ["السَّلامُ عليكـــم", f"{RLE}السلام عليكم\u202c", f"{ALM}السلا{ZWJ}م عليكم؟"], "السلام عليكم"),
        ("persian", [f"می{ZWNJ}روم", f"مي{ZWNJ}{ZWNJ}روم{ZWNJ}", f"مـی{ZWNJ}رَوم"], f"می{ZWNJ}روم"),
        ("urdu", ["كتاب", "کتاب"], "کتاب"),
        ("hindi", [f"हिन्{ZWJ}दी", f"हिन्{ZWNJ}दी", "हिन्दी।"], "हिन्दी"),
        ("malayalam", [f"അവന്{ZWJ}", "അവൻ", f"അവന്{ZWJ}."], "അവൻ"),
        ("turkish", ["İstanbul’da", "i\u0307STANBUL'DA".replace("i\u0307", "İ")], "istanbul'da"),
        ("vietnamese", ["Tie\u0302\u0301ng", "tiếng\ufeff"], "tiếng"),
        ("mandarin", [f"葛\U000e0100飾{VS16}", "葛 飾"], "葛飾"),
        ("english", ["\u1c90\u1c91", "ა\u10d1"], "აბ"),  # Georgian, whose capitals are used in headings.
    ],
)
def test_all_variants_of_a_word_give_one_word(preset: str, texts: list[str], words: str) -> None:
    assert [normalize(text, [preset]) for text in texts] == [words] * len(texts)


def test_sinhala_and_khmer_keep_joiners_that_affect_spelling_and_lose_others() -> None:
    assert normalize(f"ශ්{ZWJ}රී{ZWJ}", DEFAULT_TRANSFORMS) == f"ශ්{ZWJ}රී"
    assert normalize("ភាសា\u200bខ្មែរ", DEFAULT_TRANSFORMS) == "ភាសាខ្មែរ"


@pytest.mark.parametrize("preset", sorted(PRESETS))
@given(text=st.text(st.sampled_from([*"aïñשכм'’ʻ\"·:•״׳՞ \u200c\u200d\u200f\u00ad\ufe0fمكي-."]), max_size=12))
def test_a_preset_leaves_no_invisible_characters_and_marks_only_within_words(preset: str, text: str) -> None:
    once = normalize(text, [preset])
    assert not set(find_invisible(once)) - {"U+200D ZERO WIDTH JOINER", "U+200C ZERO WIDTH NON-JOINER"}
    first = WORD_MARKS[preset].first if preset in WORD_MARKS else ""
    for word in once.split():
        assert unicodedata.category(word[-1])[0] not in "PS" and (word[0] in first or word[0] not in "'·:״׳՚")
    assert normalize(once, [preset]) == once


def test_a_language_without_a_table_is_named() -> None:
    with pytest.raises(TransformError, match="found 'klingon'; expected one of armenian, catalan, "):
        build_normalizer([{"remove_punctuation": "klingon"}])
