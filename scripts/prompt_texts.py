"""What the voices of Asterisk's prompts say: the texts of Debian's packages as transcripts, or the reason against one.

The texts were written for people who record prompts. They have notes in brackets, digits, signs, abbreviations and
misspelled words; here each becomes the words that are said. A text whose wording is not certain gives no transcript:
`write_transcript` raises `LeftOut` with the reason.

A Whisper model (base) transcribed the French recordings of more than 2 seconds, a sample of the others, and in all
languages those whose texts are not plain words. Where it clearly wrote other words than the text, nearly always in
French, its words are in `whole`, or the prompt is left out. Nobody who speaks these languages has listened to them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class LeftOut(Exception):
    """A prompt that is not used; the message is the reason."""


@dataclass(frozen=True)
class Prompts:
    """One language: its voice and credits, and how its texts are read.

    `spellings` are regular expressions of misspelled words and abbreviations, each with its replacement; `whole` are
    transcripts of prompts whose text is another, and `unclear` the reasons to leave a prompt out.
    """

    folder: str
    speaker: str
    credit: str
    licence: str
    licence_url: str
    digits: tuple[str, ...]
    star: str
    pound: str
    spellings: dict[str, str] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)


NO_TEXT = "no text for this recording"
NO_AUDIO = "no recording of this text"
SOUND = "the text describes a sound"
SILENCE = "silence"
NUMBERS = "numbers or addresses that can be said in several ways"
SPELLED = "an abbreviation that can be said in several ways"
OTHER_TEXT = "the recording says something else than the text"

# A text in brackets only describes a sound: [ascending tones], (beep), <beep ascending>.
_SOUND = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
# The sign that a name stands for (at [@]), and notes to the speaker or the reader.
_NOTES = re.compile(r"\[.\]|\(simple tone sound plays\)|\(note: does not say \"2\"\)|\(emphase\)")
_DIGIT = re.compile(r"(?<![\w.,])\d(?!\w|[.,]\d)")
# What may be left after all replacements: letters, marks within words, and punctuation that is not said.
_PLAIN = re.compile(r"(?:[^\W\d_]|[\s.,;:!?'’\"“”«»…–-])+")
_LATIN = re.compile(r"[A-Za-z]")

ENGLISH = Prompts(
    folder="en_US_f_Allison",
    speaker="Allison",
    credit="Copyright 2003-2010 Allison Smith (http://www.theivrvoice.com), who recorded them; "
    "financial contributions by Digium, Inc. (http://www.digium.com)",
    licence="CC BY-SA 3.0",
    licence_url="https://creativecommons.org/licenses/by-sa/3.0/",
    digits=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    star="star",
    pound="pound",
    spellings={
        r"\bumute\b": "unmute",
        r"\brepresenatives\b": "representatives",
        r"\bUn-indentified\b": "Unidentified",
        r"\bwitheld\b": "withheld",
        r"\bthru\b": "through",
        r"\bexclaimation-point\b": "exclamation point",
        r"\bDe-activated\b": "Deactivated",
        r"\bre-record\b": "rerecord",
        r"\bre-enter": "reenter",
        r"\bcan not\b": "cannot",
        r"\bmail box\b": "mailbox",
        r"\bxray\b": "x-ray",
        r"\bA\.M\.": "A M",
        r"\bP\.M\.": "P M",
        r"\bPBX\b": "P B X",
        r"\bIVR\b": "I V R",
        r"\bMGCP\b": "M G C P",
        r"\bUSB\b": "U S B",
        r"\b3D\b": "three D",
    },
    unclear={
        "demo-instruct": NUMBERS,
        "demo-moreinfo": NUMBERS,
        "spy-h323": NUMBERS,
    },
)

FRENCH = Prompts(
    folder="fr_CA_f_June",
    speaker="June",
    credit="Copyright 2006-2008 June Wallack (http://www.junewallack.com), who recorded them; translated into French "
    "by Clod Patry, Kristopher Lalletti and June Wallack; financial contributions by Digium, Inc. "
    "(http://www.digium.com), Unlimitel (http://www.unlimitel.ca) and BGM Informatique (www.bgm.qc.ca)",
    licence="CC BY-SA 3.0",
    licence_url="https://creativecommons.org/licenses/by-sa/3.0/",
    digits=("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    star="étoile",
    pound="dièse",
    spellings={
        r"vm-review-nonurgent: .*$": "",  # A line end is missing before the next prompt.
        r"\bprésentemnet\b": "présentement",
        r"\bpresentement\b": "présentement",
        r"\bVeuillez recomposez\b": "Veuillez recomposer",
        r"\b([Vv])euillez composez\b": r"\1euillez composer",
        r"\b([Vv])euillez appuyez\b": r"\1euillez appuyer",
        r"\bVeuillez demeurez\b": "Veuillez demeurer",
        r"\bVeuillez entrez\b": "Veuillez entrer",
        r"\bVeuillez laissez\b": "Veuillez laisser",
        r"\bVeuillez essayez\b": "Veuillez essayer",
        r"\bpouvez appuyez\b": "pouvez appuyer",
        r"\bpouvez utilisez\b": "pouvez utiliser",
        r"\bPour dirigez\b": "Pour diriger",
        r"(?<!ez )\bappuyer sur\b": "appuyez sur",
        r"\bavez entrer\b": "avez entré",
        r"\bavez étez expulsé\b": "avez été expulsé",
        r"\bont étés emportés\b": "ont été emportés",
        r"\bvér?rouill": "verrouill",
        r"\bverouill": "verrouill",
        r"\b([Dd])[ée]v[ée]r?rouill": r"\1éverrouill",
        r"\bdéverouill": "déverrouill",
        r"\bdès l'arrivé du\b": "dès l'arrivée du",
        r"\bTelephoner\b": "Téléphoner",
        r"\b([Tt])elephone\b": r"\1éléphone",
        r"\b([Nn])umero\b": r"\1uméro",
        r"\bce tte\b": "cette",
        r"\bet et\b": "et",
        r"\bvotre votre\b": "votre",
        r"\bFelicitation\b": "Félicitations",
        r"\bconnection\b": "connexion",
        r"\betes\b": "êtes",
        r"\betait\b": "était",
        r"\betre rappler\b": "être rappelé",
        r"\bdémontration\b": "démonstration",
        r"\bdes information\b": "des informations",
        r"\b([Pp])remieres\b": r"\1remières",
        r"\bj'essai de\b": "j'essaie de",
        r"\bj'établi\b": "j'établis",
        r"\bAurevoir\b": "Au revoir",
        r"\breessayer\b": "réessayer",
        r"\ba nouveau\b": "à nouveau",
        r"\ba jour\b": "à jour",
        r"\b(qu'|)a partir\b": r"\1à partir",
        r":Pous accepter\b": ": Pour accepter",
        r" \(ne m'appelez plus, jamais\)": ", ne m'appelez plus, jamais",
        r"\bSi desirez\b": "Si vous désirez",
        r"\bvous desirez\b": "vous désirez",
        r"\bconctact directement ,": "contacte directement,",
        r"\bsoit toujours envoyez a\b": "soit toujours envoyé à",
        r"\bappelant a votre\b": "appelant à votre",
        r"\ba l'avenir, autorise a joindre\b": "à l'avenir, autorisé à vous joindre",
        r"\boccupes\b": "occupés",
        r"\b([Aa])ppell?ant\b": r"\1ppelant",
        r"\bEnleve\b": "Enlevé",
        r"\bsimultane a ete\b": "simultané a été",
        r"\bsomme desolé\b": "sommes désolés",
        r"\babregée\b": "abrégée",
        r"\bA l'extension\b": "À l'extension",
        r"\bl'ecouter\b": "l'écouter",
        r"\bre-enregistrer\b": "réenregistrer",
        r"\bré-enregistrer\b": "réenregistrer",
        r"\bboite\b": "boîte",
        r"\bacceuil\b": "accueil",
        r"\bmots de passes\b": "mots de passe",
        r"\bmot de passes\b": "mots de passe",
        r"\brépétér\b": "répéter",
        r"\boptions avancés\b": "options avancées",
        r"\bstatus\b": "statut",
        r"\barobas\b": "arobase",
        r"\bla extension\b": "l'extension",
        r"\bquebec\b": "québec",
        r"\bquatre-vingt$": "quatre-vingts",
        r"\b3D\b": "trois D",
        r"\bA\.M\.": "A M",
        r"\bP\.M\.": "P M",
    },
    whole={
        "conf-muted": "Vous êtes maintenant en mode discrétion.",
        "digits/h-80": "quatre-vingtième",
        "dir-nomore": "Aucune entrée ne correspond à votre sélection dans le répertoire.",
        "feature-not-avail-line": "Cette fonction n'est pas disponible sur cette ligne.",
        "followme/status": "La personne que vous désirez joindre n'est pas à son bureau, "
        "je vais essayer de la localiser pour vous.",
        "if-correct-press": "Si c'est exact, appuyez sur…",
        "pbx-parkingfailed": "La tentative de placement d'appel a échoué.",
        "please-try-call-later": "Veuillez essayer votre appel plus tard.",
        "sorry-youre-having-problems": "Désolé que vous ayez des problèmes.",
        "speed-dial-empty": "La composition abrégée à laquelle vous avez accédé n'existe pas.",
        "vm-rec-name": "Après le bip sonore, dites votre nom et appuyez sur dièse.",
        "vm-rec-unv": "Après le bip sonore, enregistrez votre message indiquant que vous n'êtes pas disponible "
        "et appuyez sur dièse.",
        "vm-tomakecall": "Pour faire un appel, appuyez sur quatre.",
    },
    unclear={
        "demo-instruct": NUMBERS,
        "second": OTHER_TEXT,
        "spy-h323": NUMBERS,
        "spy-iax2": SPELLED,
        "to-extension": OTHER_TEXT,
        "vm-mismatch": OTHER_TEXT,
    },
)

RUSSIAN = Prompts(
    folder="ru_RU_f_IvrvoiceRU",
    speaker="IvrvoiceRU",
    credit="Copyright 2010 Maxim; provided by Maxim Topal (http://www.ivrvoice.ru)",
    licence="CC BY 3.0",
    licence_url="https://creativecommons.org/licenses/by/3.0/",
    digits=("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"),
    star="звездочка",
    pound="решетка",
    spellings={
        r"^conf-adminmenu: ": "",
        r" / ": ", ",
        r"\(статус\)": "статус",
        r"\b([Чч])то бы\b": r"\1тобы",
        r"\bчтобы бы\b": "чтобы",
        r"\bпервoe\b": "первое",  # Its o and e were Latin.
        r"\bоктрября\b": "октября",
        r"\bвзёздочка\b": "звездочка",
        r"\bувеличиения\b": "увеличения",
        r"\bдемонтрационным\b": "демонстрационным",
        r"\bзавршить\b": "завершить",
        r"\bза тем\b": "затем",
        r"\bпо-этому\b": "поэтому",
        r"\bне известен\b": "неизвестен",
        r"\bне-административных\b": "неадминистративных",
        r"\bпо прежнему\b": "по-прежнему",
        r"\bДэльта\b": "Дельта",
        r"\bСъерра\b": "Сьерра",
        r"\bЗэД\b": "Зэд",
        r"^Asterisk\b": "Астериск",
        r"\bЮСБ\b": "Ю Эс Би",
        r"«Q»|\bQ\b": "кью",
        r"«Z»|\bZ\b": "зэт",
    },
    unclear={
        "demo-instruct": NUMBERS,
        "demo-moreinfo": NUMBERS,
        "digits/oh": OTHER_TEXT,
        "spy-h323": NUMBERS,
        "letters/at": "written in Latin letters",
        "letters/w": SPELLED,
        "spy-dahdi": SPELLED,
        "spy-mgcp": SPELLED,
    },
)

LANGUAGES = {"en": ENGLISH, "fr": FRENCH, "ru": RUSSIAN}


def parse_texts(lines: list[str]) -> dict[str, str]:
    """Return the text of each prompt of a file such as core-sounds-en.txt: lines `name: text`, comments after `;`."""
    texts: dict[str, str] = {}
    for line in lines:
        name, colon, text = line.strip().partition(":")
        if colon and not name.startswith(";"):
            texts[name] = text.strip()
    return texts


def write_transcript(language: str, name: str, text: str) -> str:
    """Return what the voice says for the text of a prompt; raises LeftOut if that is nothing, or not certain."""
    prompts = LANGUAGES[language]
    if name.startswith("silence/"):
        raise LeftOut(SILENCE)
    if name in prompts.unclear:
        raise LeftOut(prompts.unclear[name])
    text = prompts.whole.get(name, text).strip()
    if not text:
        raise LeftOut(NO_TEXT)
    text = _NOTES.sub("", text).strip()
    if _SOUND.fullmatch(text):
        raise LeftOut(SOUND)
    for pattern, replacement in prompts.spellings.items():
        text = re.sub(pattern, replacement, text)
    text = text.replace("*", prompts.star).replace("#", prompts.pound)
    text = _DIGIT.sub(lambda digit: prompts.digits[int(digit[0])], text)
    if language == "ru":
        # The texts have both spellings of the same words: решётку and решетку.
        text = text.replace("ё", "е").replace("Ё", "Е")
        if _LATIN.search(text):
            raise LeftOut("written in Latin letters")
    if not _PLAIN.fullmatch(text):
        raise LeftOut("a number, a sign or a note whose wording is not certain")
    return re.sub(r"\s+", " ", text)
