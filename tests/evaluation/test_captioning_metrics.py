from __future__ import annotations

import math
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmvid.errors import EvaluationError
from vlmvid.metrics.captioning import (
    bleu_counts,
    bleu_of_table,
    cider_d,
    corpus_bleu,
    pyptb,
    rouge_l,
    sentence_bleu,
)
from vlmvid.metrics.captioning.tokenizer import PUNCTUATION

# Section 8 of the reference, confirmed by running pycocoevalcap.
CANDIDATES = ["a man is playing a guitar", "a dog runs on the grass"]
REFERENCES = [
    ["a man plays a guitar", "a man is playing the guitar"],
    ["a dog is running on grass", "the dog runs across the grass"],
]


def test_the_reference_vectors() -> None:
    bleu = corpus_bleu(bleu_counts(CANDIDATES, REFERENCES))
    np.testing.assert_allclose(bleu, [1.0, 0.83666, 0.55934, 0.41326], atol=5e-6)
    np.testing.assert_allclose(rouge_l(CANDIDATES, REFERENCES), [0.83333, 0.66667], atol=5e-6)
    cider = cider_d(CANDIDATES, REFERENCES)
    np.testing.assert_allclose(cider, [4.414812, 2.625], atol=5e-7)
    assert cider.mean() == pytest.approx(3.519906, abs=5e-7)


def test_one_item_has_cider_zero() -> None:
    assert cider_d(CANDIDATES[:1], [[CANDIDATES[0]]]).tolist() == [0.0]


def test_an_empty_candidate_scores_zero() -> None:
    counts = bleu_counts(["", "a dog"], [["a cat"], ["a dog"]])
    np.testing.assert_array_equal(sentence_bleu(counts)[0], 0)
    assert cider_d(["", "a dog"], [["a cat"], ["a dog"]])[0] == 0
    assert rouge_l([""], [["a cat"]]).tolist() == [0.0]


def test_rouge_takes_an_empty_caption_for_one_empty_word() -> None:
    assert rouge_l([""], [[""]]).tolist() == [1.0]
    assert rouge_l(["a"], [["a  b"]])[0] == pytest.approx((1 + 1.44) * (1 / 3) / (1 / 3 + 1.44))


def test_the_nearest_reference_length_is_the_shorter_of_two() -> None:
    counts = bleu_counts(["a b c"], [["a b c d", "a b", "a b c d e f"]])
    assert counts.reference_length.tolist() == [2.0]


def test_the_length_of_cider_counts_bigrams() -> None:
    # One word and none have both 0 bigrams: no penalty between them, though the lengths differ.
    references = [["a"], ["b c d e f g h"], ["i"]]
    scores = cider_d(["a", "b", "i"], references)
    idf = math.log(3)
    cosine = idf**2 / (idf * math.sqrt(7 * idf**2))
    assert scores[1] == pytest.approx(10 / 4 * cosine * math.exp(-(6**2) / 72))


@pytest.mark.parametrize("score", [bleu_counts, rouge_l, cider_d])
def test_items_without_references_are_refused(score: object) -> None:
    assert callable(score)
    with pytest.raises(EvaluationError, match="1 of 2 items have no reference caption, first item 1"):
        score(["a", "b"], [["a"], []])
    with pytest.raises(EvaluationError, match="one candidate for each item"):
        score(["a"], [["a"], ["b"]])


captions = st.lists(st.sampled_from("a b c d e".split()), max_size=9).map(" ".join)
sets = st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=3)), min_size=1, max_size=5)


def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def slow_bleu(pairs: list[tuple[str, list[str]]]) -> list[float]:
    length = sum(len(text.split()) for text, _ in pairs)
    reference = 0
    correct, guess = [0] * 4, [0] * 4
    for text, others in pairs:
        size = len(text.split())
        reference += min((abs(len(o.split()) - size), len(o.split())) for o in others)[1]
        for n in range(1, 5):
            mine = grams(text, n)
            guess[n - 1] += sum(mine.values())
            correct[n - 1] += sum(min(count, max(grams(o, n)[g] for o in others)) for g, count in mine.items())
    scores, product = [], 1.0
    ratio = (length + 1e-15) / (reference + 1e-9)
    for n in range(4):
        product *= (correct[n] + 1e-15) / (guess[n] + 1e-9)
        penalty = math.exp(1 - 1 / ratio) if ratio < 1 and ratio > 1e-5 else float(ratio >= 1)
        scores.append(product ** (1 / (n + 1)) * penalty)
    return scores


def slow_rouge(text: str, others: list[str]) -> float:
    mine = text.split(" ")

    def common(theirs: list[str]) -> int:
        @cache
        def best(i: int, j: int) -> int:
            if i == len(mine) or j == len(theirs):
                return 0
            return best(i + 1, j + 1) + 1 if mine[i] == theirs[j] else max(best(i + 1, j), best(i, j + 1))

        return best(0, 0)

    split = [other.split(" ") for other in others]
    p = max(common(row) / len(mine) for row in split)
    r = max(common(row) / len(row) for row in split)
    return (1 + 1.44) * p * r / (r + 1.44 * p) if p and r else 0.0


def slow_cider(pairs: list[tuple[str, list[str]]]) -> list[float]:
    num = len(pairs)
    seen = Counter(g for _, others in pairs for g in {g for o in others for n in range(1, 5) for g in grams(o, n)})

    def vector(text: str, n: int) -> dict[tuple[str, ...], float]:
        return {g: c * (math.log(num) - math.log(max(1, seen[g]))) for g, c in grams(text, n).items()}

    scores = []
    for text, others in pairs:
        total = 0.0
        for other in others:
            delta = sum(grams(text, 2).values()) - sum(grams(other, 2).values())
            for n in range(1, 5):
                h, r = vector(text, n), vector(other, n)
                norms = [math.sqrt(sum(x * x for x in v.values())) for v in (h, r)]
                dot = sum(min(x, r.get(g, 0.0)) * r.get(g, 0.0) for g, x in h.items())
                total += (dot / norms[0] / norms[1] if all(norms) else dot) * math.exp(-delta * delta / 72)
        scores.append(10 * total / 4 / len(others))
    return scores


@given(sets)
def test_they_equal_their_definitions(pairs: list[tuple[str, list[str]]]) -> None:
    texts, others = [text for text, _ in pairs], [group for _, group in pairs]
    counts = bleu_counts(texts, others)
    np.testing.assert_allclose(corpus_bleu(counts), slow_bleu(pairs), atol=1e-9)
    np.testing.assert_allclose(sentence_bleu(counts), [slow_bleu([pair]) for pair in pairs], atol=1e-9)
    np.testing.assert_allclose(rouge_l(texts, others), [slow_rouge(*pair) for pair in pairs], atol=1e-12)
    np.testing.assert_allclose(cider_d(texts, others), slow_cider(pairs), atol=1e-9)


@given(sets, st.randoms(use_true_random=False))
def test_the_order_of_items_changes_nothing(pairs: list[tuple[str, list[str]]], random: object) -> None:
    order = list(range(len(pairs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    texts, others = [text for text, _ in pairs], [group for _, group in pairs]
    mixed, mixed_others = [texts[i] for i in order], [others[i] for i in order]
    np.testing.assert_allclose(cider_d(mixed, mixed_others), cider_d(texts, others)[order], atol=1e-12)
    before, after = bleu_counts(texts, others), bleu_counts(mixed, mixed_others)
    np.testing.assert_array_equal(after.table(), before.table()[order])


def test_bleu_of_nothing_is_zero_not_nan() -> None:
    np.testing.assert_array_equal(bleu_of_table(np.zeros(10)), 0)


# What `java -cp stanford-corenlp-3.4.1.jar edu.stanford.nlp.process.PTBTokenizer -preserveLines -lowerCase` and COCO's
# list of punctuation give, run once.
JAVA = [
    ("A man's dog isn't (really) running.", "a man 's dog is n't -lrb- really -rrb- running"),
    ("half-full well-known t-shirt x-ray", "half-full well-known t-shirt x-ray"),
    ("man- woman -man - -- man--woman", "man woman man man woman"),
    ("and/or his/her w/ 1/2 24/7", "and/or his/her w / 1/2 24/7"),
    ("$5.00 costs £3 or €4 and 50% off #1", "$ 5.00 costs # 3 or $ 4 and 50 % off # 1"),
    ("\"quoted text\" 'single' ’curly’ “double”", "quoted text single curly double"),
    ("'tis the '90s y'all ma'am o'clock", "'t is the '90s y' all ma'am o'clock"),
    ("cannot gonna wanna gotta gimme lemme", "can not gon na wan na got ta gim me lem me"),
    ("Mr. Smith and Dr. Jones. U.S. and U.S.A.", "mr. smith and dr. jones u.s. and u.s.a."),
    ("it is etc. the end. e.g. this i.e. that", "it is etc. the end e.g. this i.e. that"),
    ("wait... what?? no!! yes? — ok", "wait what ?? no !! yes ok"),
    ("[bracket] {brace} <tag> a@b.com www.foo.com", "-lsb- bracket -rsb- -lcb- brace -rcb- <tag> a@b.com www.foo.com"),
    ("1,000 people 10:30 am 10:30am 3.5m -5 3lbs", "1,000 people 10:30 am 10:30 am 3.5 m -5 3lbs"),
    ("rock & roll AT&T b&w &amp; &quot;", "rock & roll at&t b & w &"),
    ("don't won't can't i'm you're dogs' dont", "do n't wo n't ca n't i 'm you 're dogs dont"),
    ("they'd've it'll won't've", "they 'd 've it 'll wo n't 've"),
    ("a,b hello.world end.Start no.1 no. 1 no.", "a b hello.world end.start no. 1 no. 1 no"),
    ("O'Neil d'Artagnan rock'n'roll rock 'n' roll s'mores", "o'neil d'artagnan rock 'n' roll rock 'n' roll s'mores"),
    ("plan b. and a cat", "plan b. and a cat"),
    ("plan b. The cat", "plan b the cat"),
    ("in the U.S. The cat", "in the u.s. the cat"),
    ("t.v. tv. mt. everest jr. ill. Ill.", "t.v. tv mt. everest jr. ill ill."),
    ("a_b_c _a_ *star* a*b C++", "a_b_c _ a _ * star * a * b c++"),
    ("½ é café 中文 hello😀 ♥", "1/2 é café 中文 hello ♥"),
    (":) ;-) :D", ":-rrb- ;--rrb- :d"),
]


@pytest.mark.parametrize(("caption", "tokens"), JAVA, ids=[caption[:20] for caption, _ in JAVA])
def test_tokens_are_those_of_the_java_tokenizer(caption: str, tokens: str) -> None:
    assert pyptb(caption) == tokens


def test_captions_become_one_line_and_empty_ones_stay() -> None:
    assert pyptb("A dog\nruns.\r\n\tFast") == "a dog runs fast"
    assert pyptb("") == pyptb(" \n") == pyptb("...") == ""


@given(st.text(max_size=60))
def test_any_text_has_tokens(text: str) -> None:
    tokens = pyptb(text).split(" ")
    assert tokens == [""] or all(token and not set(token) & set(" \t\n\r") for token in tokens)
    assert not PUNCTUATION & set(tokens)


@given(st.lists(st.sampled_from("dog cat's Don't (a) U.S. t-shirt, $5 «x» www.a.com 3/4 b. '90s".split()), max_size=8))
def test_words_are_tokenized_one_by_one(words: list[str]) -> None:
    # What follows matters only after a number's or a letter's full stop, where none of these words begins a sentence.
    assert pyptb(" ".join(words)) == " ".join(filter(None, map(pyptb, words)))
