"""How CHAIR's own script finds objects in a text, bug for bug (LisaAnne/Hallucination at 6e4d33c4be, utils/chair.py).

The script needs NLTK's ``word_tokenize`` and ``singularize`` of pattern.en (clips/pattern at d25511f9ca), which does
not install beside current Python. Both are written again here, as far as they can decide whether a word is an object's
name:

* words: as the Penn Treebank splits them; every full stop at the end of a word is split off, where NLTK asks a sentence
  splitter (a difference only for abbreviations that are objects' names).
* singulars: pattern's suffix rules and its lists of words, without those that only yield words of medicine and
  mathematics. "bus" gives "bu" and "glass" gives "glas", so that the script never counts a bus and knows "wine glas".

Its other bugs are kept: a name with a capital ("iPhone") or with a leading space (" motor bike", after two spaces in
the authors' file) is never found, nor is one of three words; "skis" gives "ski", "ties" gives "ty".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_DOUBLE_WORDS = (
    "motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant, "
    "stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, "
    "hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant, bow tie, laptop computer, "
    "stove top oven, home plate, train track"
).split(", ")
ANIMALS = tuple("bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split())
VEHICLES = ("jet", "train")
DOUBLE_WORDS = {
    **{name: name for name in _DOUBLE_WORDS},
    **{f"{age} {animal}": animal for animal in ANIMALS for age in ("baby", "adult")},
    **{f"passenger {vehicle}": vehicle for vehicle in VEHICLES},
    "bow tie": "tie",
    "toilet seat": "toilet",
    "wine glas": "wine glass",
}

# A word that one of these ends in is left as it is: "ears" for "shears", "rice" for "rice".
_UNCHANGED = (
    "bison debris headquarters pincers trout bream diabetes herpes pliers tuna breeches djinn high-jinks proceedings "
    "whiting britches eland homework rabies wildebeest carp elk innings salmon chassis flounder jackanapes scissors "
    "christmas gallows mackerel series clippers georgia measles shears cod graffiti mews species contretemps mumps "
    "swine corps news swiss advice equipment happiness luggage software bread fruit information mathematics progress "
    "understanding butter furniture ketchup research water cheese garbage knowledge meat rice electricity gravel love "
    "mustard sand mayonnaise"
).split()
# The plurals of these come back unchanged, which is pattern's slip.
_IE_PLURALS = tuple(
    f"{word}s"
    for word in (
        "alergie cutie hoagie newbie softie veggie auntie doggie hottie nightie sortie weenie beanie eyrie indie oldie "
        "stoolie yuppie birdie freebie junkie sweetie zombie bogie goonie laddie pixie techie bombie groupie laramie "
        "quickie collie hankie lingerie toughie cookie hippie meanie rookie valkyrie reverie"
    ).split()
)
_IRREGULAR = {
    "axes": "axe", "beeves": "beef", "brethren": "brother", "children": "child", "feet": "foot", "geese": "goose",
    "leaves": "leaf", "loaves": "loaf", "men": "man", "mongooses": "mongoose", "monies": "money", "moves": "move",
    "opera": "opus", "our": "my", "oxen": "ox", "people": "person", "sexes": "sex", "teeth": "tooth", "kine": "cow",
    "atlases": "atlas", "helves": "helve", "turves": "turf", "opuses": "opus", "zoa": "zoon", "genera": "genus",
}  # fmt: skip
_SUFFIXES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(.)ae$", r"\1a"),
        (r"(.)itis$", r"\1itis"),
        (r"(.)eaux$", r"\1eau"),
        (r"(quiz)zes$", r"\1"),
        (r"(ap|vert|ind)ices$", r"\1ex"),
        (r"^(ox)en", r"\1"),
        (r"(alias|status)es$", r"\1"),
        (r"([octpvir|\[])i$", r"\1us"),
        (r"(cris|ax|test)es$", r"\1is"),
        (r"(shoe)s$", r"\1"),
        (r"(o|bus)es$", r"\1"),
        (r"([ml|])ice$", r"\1ouse"),
        (r"(x|ch|ss|sh)es$", r"\1"),
        (r"(m)ovies$", r"\1ovie"),
        (r"(.)ombies$", r"\1ombie"),
        (r"(s)eries$", r"\1eries"),
        (r"([^aeiouy]|qu)ies$", r"\1y"),
        (r"([aeo]l|[^d]ea|ar)ves$", r"\1f"),
        (r"(er)ves$", r"\1ve"),
        (r"([nlw]i)ves$", r"\1fe"),
        (r"([lr])ves$", r"\1f"),
        (r"([aeo])ves$", r"\1ve"),
        (r"(sive|tive|hive)s$", r"\1"),
        (r"([^f])ves$", r"\1fe"),
        (r"(^analy|anal|ba|diagno|parenthe|progno|synop|the)ses$", r"\1sis"),
        (r"(.)opses$", r"\1opsis"),
        (r"(.)yses$", r"\1ysis"),
        (r"([hdronbp]|cl)oses$", r"\1ose"),
        (r"(.)oses$", r"\1osis"),
        (r"([ti])a$", r"\1um"),
        (r"(n)ews$", r"\1ews"),
        (r"s$", ""),
    )
)

_SPLITS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^[\"'`]+|(?<=[ (\[{<])[\"'`]+", " "),
        (r"([:,])([^\d])", r" \1 \2"),
        (r"([:,])$", r" \1 "),
        (r"\.\.+|…", " ... "),
        (r"([;@#$%&?!*()\[\]{}<>\"“”«»])", r" \1 "),
        (r"--+|—", " -- "),
        (r"(?<!\.)\.(?=[\s'\")\]}>]|$)", " . "),
        (r"'(?=\s|$)", " ' "),
        (r"([^' ])('s|'m|'d|'ll|'re|'ve|n't) ", r"\1 \2 "),
        (r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b", r"\1\3\5 \2\4\6"),
    )
)


def script_objects(text: str, synonyms: Sequence[Sequence[str]]) -> list[str]:
    """The objects that the script finds in a text, in its order; `synonyms` are the lines of the authors' file."""
    words = [singular(word) for word in treebank_words(text.lower())]
    joined: list[str] = []
    place = 0
    while place < len(words):
        pair = " ".join(words[place : place + 2])
        joined.append(DOUBLE_WORDS.get(pair, words[place]))
        place += 2 if pair in DOUBLE_WORDS else 1
    if "toilet" in joined and "seat" in joined:
        joined = [word for word in joined if word != "seat"]
    named = _named(tuple(tuple(line) for line in synonyms))
    return [named[word] for word in joined if word in named]


@lru_cache(maxsize=4)
def _named(synonyms: tuple[tuple[str, ...], ...]) -> dict[str, str]:
    return {name: line[0] for line in synonyms for name in line}


def treebank_words(text: str) -> list[str]:
    """Words of a lower-case text, split as the Penn Treebank splits them where that can matter for names of objects."""
    text = f"{text} "
    for pattern, replacement in _SPLITS:
        text = pattern.sub(replacement, text)
    return text.split()


@lru_cache(maxsize=1 << 15)
def singular(word: str) -> str:
    """The singular of a lower-case word by pattern.en's rules, its slips included."""
    if word.endswith("'"):
        return f"{singular(word[:-1])}'s"
    if any(ending.endswith(word) for ending in _UNCHANGED) or word.endswith(_IE_PLURALS):
        return word
    for plural, one in _IRREGULAR.items():
        if word.endswith(plural):
            return word.removesuffix(plural) + one
    for pattern, replacement in _SUFFIXES:
        if pattern.search(word):
            return pattern.sub(replacement, word)
    return word
