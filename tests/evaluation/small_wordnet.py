"""A WordNet of a few words in the real one's file format, offsets included."""

from __future__ import annotations

from pathlib import Path

LICENCE = "  1 This software and database is being provided to you, the LICENSEE\n"
# sense: (type, words, hypernyms, instance hypernyms); the first word of a sense names it
NOUNS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "entity": (["entity"], [], []),
    "animal": (["animal", "beast"], ["entity"], []),
    "dog": (["dog"], ["canine", "pet"], []),
    "canine": (["canine"], ["carnivore"], []),
    "carnivore": (["carnivore"], ["animal"], []),
    "pet": (["pet"], ["animal"], []),
    "cat": (["cat"], ["carnivore"], []),
    "thing": (["thing"], ["entity"], []),
    "ball": (["ball"], ["thing"], []),
    "city": (["city"], ["thing"], []),
    "paris": (["Paris"], [], ["city"]),
    "two": (["two", "2"], ["thing"], []),
    "man": (["man"], ["animal"], []),
    "glass": (["glass"], ["thing"], []),
}
VERBS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "move": (["move"], [], []),
    "run": (["run"], ["move"], []),
    "walk": (["walk"], ["move"], []),
    "eat": (["eat"], [], []),
}
ADJECTIVES: dict[str, tuple[list[str], list[str], list[str]]] = {"red": (["red"], [], []), "happy": (["happy"], [], [])}
EXCEPTIONS = {"noun": "men man\nmice mouse\n", "verb": "ran run\n", "adj": "", "adv": ""}


def write_wordnet(folder: Path, line_end: str = "\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for pos, sign, senses in (("noun", "n", NOUNS), ("verb", "v", VERBS), ("adj", "s", ADJECTIVES), ("adv", "r", {})):
        _write_part(folder, pos, sign, senses, line_end)
        (folder / f"{pos}.exc").write_bytes(EXCEPTIONS[pos].replace("\n", line_end).encode())
    return folder


def _write_part(
    folder: Path, pos: str, sign: str, senses: dict[str, tuple[list[str], list[str], list[str]]], line_end: str
) -> None:
    def lines(offsets: dict[str, int]) -> list[str]:
        found = []
        for name, (words, above, instance_of) in senses.items():
            pointers = [("@", other) for other in above] + [("@i", other) for other in instance_of]
            spelt = " ".join(f"{word} 0" for word in words)
            signs = "".join(f" {kind} {offsets[other]:08d} {sign} 0000" for kind, other in pointers)
            found.append(
                f"{offsets[name]:08d} 03 {sign} {len(words):02x} {spelt} {len(pointers):03d}{signs} | a gloss\n"
            )
        return found

    offsets = dict.fromkeys(senses, 0)
    place = len(LICENCE)
    for name, line in zip(senses, lines(offsets), strict=True):  # every line has its length whatever the offsets
        offsets[name] = place
        place += len(line)
    data = LICENCE + "".join(lines(offsets))
    entries: dict[str, list[int]] = {}
    for name, (words, _, _) in senses.items():
        for word in words:
            entries.setdefault(word.lower(), []).append(offsets[name])
    kind = "a" if sign == "s" else sign
    index = LICENCE + "".join(
        f"{word} {kind} {len(places)} 1 @ {len(places)} 0 {' '.join(f'{place:08d}' for place in places)}  \n"
        for word, places in sorted(entries.items())
    )
    for file, text in ((f"data.{pos}", data), (f"index.{pos}", index)):
        (folder / file).write_bytes(text.replace("\n", line_end).encode())
