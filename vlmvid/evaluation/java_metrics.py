"""METEOR-1.5, SPICE and the PTB tokenizer of Stanford CoreNLP: Java programs, run by pycocoevalcap where both exist.

The extra ``captions`` installs pycocoevalcap, which ships the programs; Java is the machine's own. SPICE also needs the
models of CoreNLP 3.6.0, which pycocoevalcap would download at first use: here it never does, SPICE is absent without.
Nothing else goes by these names: NLTK's ``meteor_score`` is the METEOR of 2007 and gives 0.68 where METEOR-1.5 gives
0.42 (nltk issue 2655).
"""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from vlmvid.errors import EvaluationError
from vlmvid.metrics.captioning.tokenizer import PUNCTUATION

_SPICE_MODELS = "stanford-corenlp-3.6.0-models.jar"


def package_folder() -> Path | None:
    """Where pycocoevalcap is installed, or None."""
    spec = importlib.util.find_spec("pycocoevalcap")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def why_absent() -> str | None:
    """Why the Java programs cannot run here, in words; None when they can."""
    if package_folder() is None:
        return "pycocoevalcap is not installed (pip install vlmvid[captions])"
    if shutil.which("java") is None:
        return "there is no java on the PATH"
    return None


def why_no_spice() -> str | None:
    """Why SPICE cannot run here, in words; None when it can."""
    folder = package_folder()
    if why_absent() or folder is None:
        return why_absent()
    if not (folder / "spice" / "lib" / _SPICE_MODELS).is_file():
        return f"{_SPICE_MODELS} is not in pycocoevalcap's spice/lib (pycocoevalcap.spice.get_stanford_models gets it)"
    return None


def ptb_java(captions: Sequence[str]) -> list[str]:
    """Tokens of each caption, joined by spaces, as COCO's caption evaluation tokenizes.

    All captions go through one run, and the Java tokenizer looks past the end of a line: a single letter with a full
    stop at the end of a caption is tokenized by what the next caption begins with. Line breaks and other white space
    inside a caption become a space first. Raises EvaluationError where Java or pycocoevalcap is missing or fails.
    """
    folder = _required("the tokenizer ptb-java")
    flat = [" ".join(caption.split()) for caption in captions]
    jar = folder / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    # pycocoevalcap's own wrapper writes into its package folder, which may be read-only, and in the locale's encoding.
    command = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", str(jar)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = _run(command, "\n".join(flat) + "\n").split("\n")
    if len(lines) < len(flat):
        raise EvaluationError(f"the Java tokenizer gave {len(lines)} lines for {len(flat)} captions")
    return [
        " ".join(word for word in line.split(" ") if word and word not in PUNCTUATION) for line in lines[: len(flat)]
    ]


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """METEOR-1.5 in [0, 1] of tokenized captions: of the set, and of each item.

    The set's score is computed from the summed statistics of its items; it is not the mean of theirs.
    """
    _required("METEOR-1.5")
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()
    try:
        total, scores = program.compute_score(
            {index: [_one_line(text) for text in texts] for index, texts in enumerate(references)},
            {index: [_one_line(text)] for index, text in enumerate(candidates)},
        )
    except (OSError, ValueError) as error:
        raise EvaluationError(f"METEOR-1.5 failed: {error}; does `java -jar meteor-1.5.jar` run?") from error
    finally:
        for stream in (program.meteor_p.stdin, program.meteor_p.stdout, program.meteor_p.stderr):
            stream.close()
    return float(total), [float(score) for score in scores]


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """SPICE's F in [0, 1] of each item; NaN where the program gives none, which would make the mean of all NaN."""
    reason = why_no_spice()
    if reason:
        raise EvaluationError(f"SPICE is not available: {reason}")
    from pycocoevalcap.spice.spice import Spice

    _, scores = Spice().compute_score(
        {index: list(texts) for index, texts in enumerate(references)},
        {index: [text] for index, text in enumerate(candidates)},
    )
    return [float(score.get("All", {}).get("f", math.nan)) for score in scores]


def _one_line(text: str) -> str:
    """A caption that the program's line protocol can carry: a line break or a separator would hang the program."""
    return " ".join(text.replace("|||", " ").split())


def _required(what: str) -> Path:
    folder, reason = package_folder(), why_absent()
    if reason or folder is None:
        raise EvaluationError(f"{what} is not available: {reason}; the tokenizer pyptb-1 needs neither")
    return folder


def _run(command: list[str], text: str) -> str:
    import subprocess

    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        words = getattr(error, "stderr", b"") or b""
        raise EvaluationError(f"{command[0]} failed: {error} {words.decode(errors='replace')[-500:]}") from error
    return done.stdout.decode("utf-8")
