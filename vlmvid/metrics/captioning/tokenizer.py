"""Tokenizers of captions; the name of the one that was used is part of every metric's name.

COCO's caption evaluation pipes captions through the Java tokenizer of Stanford CoreNLP 3.4.1 (``PTBTokenizer
-preserveLines -lowerCase``) and drops some punctuation (salaniz/pycocoevalcap at ad63453cfa, ptbtokenizer.py).
`pyptb-1` does the same for captions without Java, from the rules below. It is a subset, and its name says so.

What it does: lower case; one line; words are split at spaces; contractions as in the Penn Treebank (``do n't``,
``man 's``, ``can not``, ``gon na``, ``'t is``); hyphenated and slashed words stay whole (``t-shirt``, ``and/or``), a
hyphen at an end is split off and dropped; numbers keep their points and commas, ``10:30am`` gives ``10:30 am``;
currency, ``%`` and other symbols are tokens, a pound becomes ``#`` and a euro ``$``; a full stop stays with
abbreviations, acronyms (``u.s.``) and single letters (``plan b.``, unless a word such as "The" follows). Brackets
become ``-lrb-``, ``-lsb-`` and so on, and they stay: COCO's list drops ``-LRB-`` in capitals, which lower-cased text
never holds. Runs of ``?`` and ``!`` stay where they are longer than one. Characters beyond the basic plane (emoji) go.

What it does not do: telephone numbers, markup and fractions that contain spaces, code, Unicode's rarer symbols and
scripts as CoreNLP classes them. It never looks at the next caption, as the Java tokenizer does: there ``plan b.`` at
the end of a line loses its full stop when the line after it begins with "A". docs/benchmarks/captioning.md says how
often the two agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import zip_longest

# What pycocoevalcap drops after tokenizing; "-LRB-" and its kin never occur in lower-cased text.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_REWRITTEN = {
    "£": "#", "€": "$", "¢": "cents", "&amp;": "&", "&lt;": "<", "&gt;": ">", "½": "1/2", "¼": "1/4", "¾": "3/4",
    "⅓": "1/3", "⅔": "2/3", '"': "''", "&quot;": "''",
}  # fmt: skip
_QUOTES = str.maketrans({"’": "'", "‘": "`", "“": '"', "”": '"', "´": "'", "\u00ad": None})
_ASSIMILATED = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])
# A full stop after these is theirs; the last group in capitals only, because the words are common otherwise.
_ABBREVIATIONS = (
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri ala ariz calif colo conn ct dak "
    "fla ga ind kans? ky md mich minn mo mont neb nev okla penn tenn va vt wisc? wyo inc cos? corp p[t][ye]s? ltd plc "
    "rt bancorp bhd assn univ intl sys dept tel est ext sq jr sr bros (?:ed|ph)\\.d esq blvd rd etc al seq bldg mr "
    "mrs ms drs? profs? sens? reps? attys? lt col gen messrs govs? adm rev maj sgt cpl pvt capt st ste ave pres lieut "
    "hon brig co?mdr pfc spc supts? det mt ft adj adv asst assoc ens insp mlle mme msgr sfc invt elec natl mfg mtg wm "
    "jos cie cf treas ph vs (?-i:Az|Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash)"
).replace(" ", "|")
# These are abbreviations before a number only.
_NUMBERED = re.compile(r"(?:ca|figs?|prop|nos?|art|pp|op)\.", re.IGNORECASE)
# After a single letter and a full stop these words begin a sentence, in capitals; other words do not.
_SENTENCE_STARTS = frozenset(
    "The A An He She It They We You This That These There Here In At As If But So After About According Additionally "
    "Earlier Her Their Our However Last Many More Now Once One Other Since Some Such Then When While What Yet "
    "Mr.".split()
)

_L = r"[^\W\d_]"  # a letter
_W = r"[^\W_]"  # a letter or digit
_NUMBER = r"(?:\d*(?:\.\d+)+|\d+(?:[.:,]\d+)*)"
_WORD = rf"{_L}{_W}*(?:[.!?]{_L}{_W}*)*"
_THING = rf"(?:[dol]'{_W})?(?:{_W}+|[-+]?{_NUMBER})(?:-(?:[dol]'{_W})?(?:{_W}+|{_NUMBER}))*"
_SLASHED = rf"{_W}+(?:-{_L}+){{0,2}}"
_CLITIC = r"'(?:s|m|d|re|ve|ll|em)(?![a-z])"
_WORDS = (
    (r"can(?=not)|gon(?=na)|got(?=ta)|lem(?=me)|gim(?=me)|wan(?=na)|'t(?=is|was)", "not|na|ta|me|is|was"),
    (_WORD, _CLITIC),
    (r"[a-z]*[a-mo-z]", r"n'ts?(?![a-z])"),
    (r"n'ts?(?![a-z])", None),
    (_WORD, None),
    (_CLITIC, None),
    (r"y'(?=[a-z])|[ldj]'|dunkin'|somethin'|ol'|cont'd|nor'easter|c'mon|e'er|ev'ry|li'l|nat'l|o'o", None),
    (rf"[a-hj-xzn]'{_L}{{2,}}|{_L}+[aeiouy]'[aeiou]{_L}*", None),
    (r"'n'|'n(?![a-z])|'[2-9]0s|'till?(?![a-z])|'cause(?![a-z])|'\d\d$", None),
    (_THING, None),
    (rf"{_W}[\w.,]*(?:[-_](?:{_W}+|[a-z](?:\.[a-z])+\.))+", None),
    (rf"{_SLASHED}(?:/{_SLASHED}){{1,2}}", None),
    (r"(?:ca|figs?|prop|nos?|art|pp|op)\.", r"\d"),
    (rf"(?:[a-z](?:\.[a-z])*|{_ABBREVIATIONS})\.", None),
    (r"(?-i:[A-Z]+(?:[+&][A-Z]+)+)|c\+\+|c#", None),
)  # fmt: skip
_OTHERS = (
    (rf"[-+]?{_NUMBER}", None),
    (r"</?[a-z!?][^<>]*>", None),
    (r"(?:https?|ftp)://[^\s<>|(){}\"]+[^\s<>|.!?,:;&(){}\"'*-]", None),
    (r"(?:www\.(?:[^\s<>|.!?,\"]+\.)+[a-z]{2,4}|(?:[^\s`<>|.!?,:/$\"]+\.)+(?:com|net|org|edu))"
     r"(?:/[^\s<>|\"]+[^\s<>|.!?,;:&\"-])?", None),
    (r"[a-z0-9][^\s<>|()\"]*@(?:[^\s<>|().\"]+\.)*[^\s<>|().,;:\"]+", None),
    (r"[<>]?[:;=][-o*']?[()dpo\\{@|\[\]](?![a-z])|-(?:lrb|rrb|lcb|rcb|lsb|rsb)-", None),
    (r"#[a-z]\w*|@[a-z_]\w*", None),
    (r"(?-i:[A-Z]*)\$|\.{3,}|-{2,}|[?!]+|\*+|_+|@+|#+|<<|>>|``|''|&(?:amp|quot|lt|gt);|\S", None),
)  # fmt: skip
# The longest match counts, of equally long ones the first; what a rule looks for behind a match adds to its length.
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE), None if ahead is None else re.compile(ahead, re.IGNORECASE))
    for pattern, ahead in (*_WORDS, *_OTHERS)
)


def pyptb(caption: str) -> str:
    """The tokens of a caption, joined by spaces, by the rules above; ``""`` for a caption without any."""
    chunks = caption.split()
    tokens: list[str] = []
    for chunk, following in zip_longest(chunks, chunks[1:], fillvalue=""):
        if following[:1].isdigit() and _NUMBERED.fullmatch(chunk):
            tokens.append(chunk.lower())
        elif following in _SENTENCE_STARTS and chunk[-2:-1].isalpha() and chunk.endswith("."):
            # Only a single letter loses its full stop here: words have lost it already, acronyms keep it.
            tokens += (token[0] if len(token) == 2 and token[1] == "." else token for token in _tokens(chunk))
        else:
            tokens += _tokens(chunk)
    return " ".join(tokens)


def whitespace(caption: str) -> str:
    """The caption itself: nothing is changed, as in scorers that skip the tokenizer."""
    return caption


TOKENIZERS: Mapping[str, Callable[[str], str]] = {"pyptb-1": pyptb, "whitespace": whitespace}


@lru_cache(maxsize=1 << 16)
def _tokens(chunk: str) -> tuple[str, ...]:
    """The tokens of what stands between two spaces; captions repeat their words, so most come from the cache."""
    if chunk.isascii() and chunk.isalpha() and chunk.lower() not in _ASSIMILATED:
        return (chunk.lower(),)
    text = "".join(character for character in chunk if character <= "\uffff").translate(_QUOTES)
    found: list[str] = []
    place = 0
    while place < len(text):
        end = _end_of_token(text, place)
        written = _written(text[place:end].lower())
        if written not in PUNCTUATION:
            found.append(written)
        place = end
    return tuple(found)


def _end_of_token(text: str, start: int) -> int:
    end = reach = start
    for pattern, ahead in _RULES:
        match = pattern.match(text, start)
        if match is None:
            continue
        found = match.end()
        following = ahead.match(text, found) if ahead is not None else match
        if following is not None and following.end() > reach:
            end, reach = found, following.end()
    return max(end, start + 1)


def _written(token: str) -> str:
    """A token as the Penn Treebank writes it."""
    if token in _REWRITTEN:
        return _REWRITTEN[token]
    if token in ("—", "–") or token.strip("-") == "" and len(token) > 1:
        return "--"
    if token == "…" or token.strip(".") == "" and len(token) > 2:
        return "..."
    if token[0] in "<>:;=()[]{}" and not token.endswith(">"):
        return "".join(_BRACKETS.get(character, character) for character in token)
    return token
