from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.evaluation.examples.base import Example


def write_json(path: Path, value: Any, indent: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    return path


POPE_ROWS = [
    (1, "COCO_val2014_000000310196.jpg", "Is there a snowboard in the image?", "yes"),
    (2, "COCO_val2014_000000310196.jpg", "Is there a dining table in the image?", "no"),
    (3, "COCO_val2014_000000210789.jpg", "Is there a person in the image?", "yes"),
    (4, "COCO_val2014_000000210789.jpg", "Is there a bottle in the image?", "no"),
]


def write_pope(folder: Path) -> Path:
    lines = [
        json.dumps({"question_id": number, "image": image, "text": text, "label": label})
        for number, image, text, label in POPE_ROWS
    ]
    path = folder / "coco_pope_random.json"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


POPE_IDS = [f"random_{row[0]}" for row in POPE_ROWS]
POPE_MIXED = dict(zip(POPE_IDS, ["Yes, there is no doubt.", "Nope.", "Yes. No other.", "NO"], strict=True))


def write_video_hallucer(folder: Path) -> Path:
    clip = "1052_6143391925_916_970.mp4"

    def pair(videos: tuple[str, str], questions: tuple[str, str], answers: tuple[str, str], kind: str) -> Any:
        basic, halluc = (
            {"video": video, "question": question, "answer": answer}
            for video, question, answer in zip(videos, questions, answers, strict=True)
        )
        return {"basic": basic, "hallucination": halluc, "type": kind}

    usual = ("yes", "no")
    rows = {
        "object_relation": [
            pair((clip, clip), (f"Is there a {one} in the video?", f"Is there a {two} in the video?"), usual, "subject")
            for one, two in (("baby", "doll"), ("baby seat", "table"), ("cat", "dog"))
        ],
        "temporal": [pair((clip, clip), ("Does it begin so?", "Does it end so?"), usual, "temporal_absolute")],
        "semantic_detail": [pair(("hp2_a.mp4", "hp2_b.mp4"), ("Is it iron?", "Is it iron?"), usual, "semantic_detail")],
        "external_factual": [pair((clip, clip), ("Should we dice?", "Should we fry?"), usual, "instruct")],
        "external_nonfactual": [pair((clip, clip), ("Should we dice?", "Should we fly?"), usual, "instruct")],
    }
    for category, pairs in rows.items():
        write_json(folder / category / f"{category}.json", pairs, indent=4)
    return folder


HALLUCER_PAIRS = [
    *(f"object_relation_{row}" for row in range(3)),
    "temporal_0",
    "semantic_detail_0",
    "external_factual_0",
    "external_nonfactual_0",
]
HALLUCER_PERFECT = {
    f"{pair}_{side}": word for pair in HALLUCER_PAIRS for side, word in (("basic", "Yes."), ("hallucination", "no"))
}
# In object_relation both words hit, then neither, then yes to both; all else is right.
HALLUCER_MIXED = HALLUCER_PERFECT | {
    "object_relation_0_basic": "No, it is not a yes",
    "object_relation_0_hallucination": "No, it is not a yes",
    "object_relation_1_basic": "Nope",
    "object_relation_1_hallucination": "a doll",
    "object_relation_2_basic": "yes",
    "object_relation_2_hallucination": "Yes",
}


def write_event_hallusion(folder: Path) -> Path:
    rows = {
        "entire": [("entire_001", "Is the man playing with the dog in the video?", "No.")],
        "interleave": [("interleave_001", "Did anything unexpected happen in the video?", "Yes.")],
        "misleading": [
            ("misleading_001", "Is the person eating food in this video?", "No."),
            ("misleading_002", "Is the person cooking in this video?", "No."),
        ],
    }
    for split, questions in rows.items():
        document = [
            {
                "id": name,
                "category": "pet&animal",
                "length": "00:02",
                "event_info": {"object": ["person"], "scene": "In a yard.", "caption": "A dog barks."},
                "questions": [{"type": "hallucination", "question": text, "answer": answer}],
            }
            for name, text, answer in questions
        ]
        write_json(folder / f"{split}_questions.json", document, indent=4)
    return folder


EVENT_PERFECT = {"entire_001_0": "No.", "interleave_001_0": "Yes", "misleading_001_0": "no", "misleading_002_0": "No"}


def write_natural_bench(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "Index": group,
            "Question_0": "Is the dog asleep?",
            "Question_1": "Is the dog awake?",
            "Image_0": {"bytes": b"\xff\xd8", "path": None},
            "Image_1": {"bytes": b"\xff\xd8", "path": None},
            "Image_0_Question_0": right,
            "Image_1_Question_0": other,
            "Image_0_Question_1": other,
            "Image_1_Question_1": right,
            "Question_Type": kind,
            "Source": "Flickr30K",
        }
        for group, (right, other, kind) in enumerate([("Yes", "No", "yes_no"), ("A", "B", "multiple_choice")])
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return folder


NATURAL_PERFECT = {
    f"{group}_q{question}_i{picture}": right if question == picture else other
    for group, (right, other) in enumerate([("Yes", "No"), ("A", "B")])
    for question in (0, 1)
    for picture in (0, 1)
}
# Group 0: question 1 is wrong on picture 0. Group 1: "a picture of B" reads as A, because the article comes first.
NATURAL_MIXED = NATURAL_PERFECT | {"0_q1_i0": "Yes, no", "1_q0_i1": "a picture of B"}


def write_hallusion_bench(folder: Path) -> Path:
    def row(category: str, visual: str, figure: str, question: str, answer: str, name: str | None) -> dict[str, Any]:
        return {
            "category": category,
            "subcategory": "video" if category == "VD" else "chart",
            "visual_input": visual,
            "set_id": "0",
            "figure_id": figure,
            "sample_note": "import",
            "question_id": question,
            "question": f"Is it so ({question})?",
            "gt_answer_details": "It is so.",
            "gt_answer": answer,
            "filename": name,
        }

    rows = [
        row("VD", "1", "0", "0", "1", "./hallusion_bench/VD/video/0_0.png"),
        row("VD", "2", "1", "0", "0", "./hallusion_bench/VD/video/0_1.png"),
        row("VS", "0", "0", "0", "1", None),
        row("VS", "0", "0", "1", "0", None),
        row("VS", "1", "1", "0", "1", "./hallusion_bench/VS/chart/0_1.png"),
        row("VS", "1", "1", "1", "0", "./hallusion_bench/VS/chart/0_1.png"),
    ]
    return write_json(folder / "HallusionBench.json", rows)


HALLUSION_PERFECT = {
    "VD_video_0_0_0": "Yes",
    "VD_video_0_1_0": "No.",
    "VS_chart_0_0_0": "I cannot tell.",
    "VS_chart_0_0_1": "no",
    "VS_chart_0_1_0": "yes",
    "VS_chart_0_1_1": "No",
}
HALLUSION_MIXED = HALLUSION_PERFECT | {"VD_video_0_1_0": "Not yes, no", "VS_chart_0_0_0": "unclear"}
HALLUSION_VERDICTS = {
    "VD_video_0_0_0": "1",
    "VD_video_0_1_0": "2",
    "VS_chart_0_0_0": "2",
    "VS_chart_0_0_1": "1",
    "VS_chart_0_1_0": "0",
    "VS_chart_0_1_1": "1",
}


def write_amber(folder: Path) -> Path:
    data = folder / "data"
    rows: list[dict[str, Any]] = [
        {"id": 1, "type": "generative", "truth": ["sky", "person", "man"], "hallu": ["dog", "cloud"]},
        {"id": 2, "type": "generative", "truth": ["grass", "child"], "hallu": ["bird"]},
        {"id": 1005, "type": "discriminative-hallucination", "truth": "no"},
        {"id": 1006, "type": "discriminative-attribute-state", "truth": "yes"},
        {"id": 1007, "type": "discriminative-attribute-number", "truth": "no"},
        {"id": 1008, "type": "discriminative-attribute-action", "truth": "yes"},
        {"id": 1009, "type": "discriminative-relation", "truth": "yes"},
        {"id": 1010, "type": "relation", "truth": "no"},
    ]
    write_json(data / "annotations.json", rows, indent=4)
    relations = {
        "sky": [],
        "grass": ["ground"],
        "person": ["people", "man", "woman"],
        "man": ["boy"],
        "child": ["boy", "girl"],
        "dog": ["puppy"],
        "cloud": [],
        "bird": ["pigeon"],
        "light": [],
    }
    write_json(data / "relation.json", relations, indent=4)
    (data / "safe_words.txt").write_text("orange\nlight\n", encoding="utf-8")
    queries = [{"id": row["id"], "image": f"AMBER_{row['id'] % 4}.jpg", "query": "Is it so?"} for row in rows]
    write_json(data / "query" / "query_all.json", queries, indent=4)
    return folder


AMBER_PERFECT = {"1005": "No", "1006": "Yes", "1007": "No", "1008": "yes.", "1009": "Yes", "1010": "No"}
# lower case is no answer to AMBER's script: 4 of 6 right; "No" was said 3 times, 2 of them right, of 3 questions.
AMBER_MIXED = AMBER_PERFECT | {"1006": "No", "1007": "no", "1008": "Yes"}


def write_vid_halluc(folder: Path) -> Path:
    bqa = {
        "0": [
            {"q": "Is he running?", "a": {"vid_clip_1": "Yes", "vid_clip_2": "No"}},
            {"q": "Is he walking?", "a": {"vid_clip_1": "No", "vid_clip_2": "Yes"}},
        ],
        "1": [{"q": "Is she singing?", "a": {"other_clip_1": "Yes", "other_clip_2": "No"}}],
    }
    choices = {"A": "a man runs", "B": "a man walks", "C": "a man jumps", "D": "a man sits"}
    mcq = {
        "0": {
            "vid_clip_1": {"Question": "What happens?", "Choices": choices, "Correct Answer": "A"},
            "vid_clip_2": {"Question": "What happens?", "Choices": choices, "Correct Answer": "B, D"},
        }
    }
    tsh = {
        str(key): {"video": f"v{key}_1_2_3", "Question": "Action A: run. Action B: sit. ", "Correct Answer": answer}
        for key, answer in enumerate(("AB", "BA", "A"))
    }
    sth = {
        "s1": {"Scene change": "Yes", "Locations": "from kitchen to garden."},
        "s2": {"Scene change": "No", "Locations": "None"},
        "s3": {"Scene change": "Yes", "Locations": "from street to shop."},
    }
    for name, document in (("ach_binaryqa", bqa), ("ach_mcq", mcq), ("tsh", tsh), ("sth", sth)):
        write_json(folder / f"{name}.json", document, indent=4)
    return folder


BQA_PERFECT = {
    "0_0_vid_clip_1": "Yes",
    "0_0_vid_clip_2": "No.",
    "0_1_vid_clip_1": "No",
    "0_1_vid_clip_2": "yes",
    "1_0_other_clip_1": "Yes",
    "1_0_other_clip_2": "No",
}
STH_PERFECT = {
    "s1": "Scene change: Yes, Locations: from a kitchen to a garden.",
    "s2": "Scene change: No, Locations: None",
    "s3": "Scene change: Yes, Locations: from a street to a shop.",
}

EXAMPLES = [
    Example(
        name="pope",
        write=write_pope,
        perfect=dict(zip(POPE_IDS, ["Yes.", "no", "yes", "No, there is none."], strict=True)),
        constant=dict.fromkeys(POPE_IDS, "yes"),
        expected_constant=0.5,
        compat_values={
            # "no doubt" reads as no; Nope and NO read as yes.
            "pope": (
                POPE_MIXED,
                {"accuracy": 0.25, "precision": 1 / 3, "recall": 0.5, "f1": 0.4, "yes_ratio": 0.75},
            ),
            # Only NO is an exact match, and right; nothing is a yes.
            "lmms-eval": (
                POPE_MIXED,
                {"accuracy": 0.25, "precision": 0.0, "recall": 0.0, "f1": 0.0, "yes_ratio": 0.5},
            ),
            # Both words, neither, both, no: one answer is known, and right.
            "vlmevalkit": (
                POPE_MIXED | {"random_1": "Yes!"},
                {"accuracy": 0.5, "precision": 1.0, "recall": 0.5, "f1": 2 / 3, "f1_negatives_random": 2 / 3},
            ),
        },
    ),
    Example(
        name="video_hallucer",
        write=write_video_hallucer,
        perfect=HALLUCER_PERFECT,
        constant=dict.fromkeys(HALLUCER_PERFECT, "yes"),
        expected_constant=0.0,
        compat_values={
            # object_relation: 1 of 3 overall, 2 of 3 basic, 1 of 3 hallucinated; the other four categories are right.
            "video-hallucer": (
                HALLUCER_MIXED,
                {"overall": 13 / 15, "basic": 14 / 15, "halluc": 13 / 15, "overall_object_relation": 1 / 3},
            ),
            # 7 pairs: basic yes 6, hallucinated no 5; one yes too many is counted, 1 + 2 answers are wrong.
            "video-hallucer-bias": (
                HALLUCER_MIXED,
                {
                    "overall": 5 / 7,
                    "basic": 6 / 7,
                    "halluc": 5 / 7,
                    "yes_difference": 0.0,
                    "no_difference": -2 / 14,
                    "false_positive_ratio": 1 / 3,
                    "halluc_score": 1 / 6,
                },
            ),
        },
    ),
    Example(
        name="event_hallusion",
        write=write_event_hallusion,
        perfect=EVENT_PERFECT,
        constant=dict.fromkeys(EVENT_PERFECT, "No"),
        expected_constant=0.5,
        compat_values={
            "event-hallusion": (
                EVENT_PERFECT
                | {"entire_001_0": "Nobody plays", "misleading_001_0": " No", "misleading_002_0": "It is"},
                {"accuracy": 0.5, "accuracy_split_misleading": 0.0, "accuracy_split_entire": 1.0, "unparsed": 0.5},
            )
        },
    ),
    Example(
        name="natural_bench",
        write=write_natural_bench,
        perfect=NATURAL_PERFECT,
        constant=dict.fromkeys(NATURAL_PERFECT, "Yes"),
        expected_constant=0.0,
        compat_values={
            "natural-bench": (
                NATURAL_MIXED,
                {"group_accuracy": 0.0, "question_accuracy": 0.5, "image_accuracy": 0.5, "accuracy": 0.75},
            )
        },
    ),
    Example(
        name="hallusion_bench",
        write=write_hallusion_bench,
        perfect=HALLUSION_PERFECT,
        constant=dict.fromkeys(HALLUSION_PERFECT, "yes"),
        expected_constant=0.5,
        compat_values={
            # A judge is unclear about VD's second figure (wrong) and about VS without a figure (right).
            "hallusion-bench": (
                HALLUSION_VERDICTS,
                {
                    "accuracy": 4 / 6,
                    "question_accuracy": 1 / 3,
                    "figure_accuracy": 1 / 3,
                    "question_accuracy_easy": 2 / 3,
                    "question_accuracy_hard": 0.0,
                    "false_yes_share": 0.5,
                },
            ),
            # Four questions have a picture; both words occur in one answer.
            "vlmevalkit": (
                HALLUSION_MIXED,
                {"accuracy": 3 / 4, "question_accuracy": 2 / 3, "figure_accuracy": 2 / 3, "accuracy_category_vs": 1.0},
            ),
            # "Not yes, no" is a yes, "unclear" a no: two wrong of six, and of four figures, VS without a picture one.
            "lmms-eval-intern": (
                HALLUSION_MIXED,
                {"accuracy": 4 / 6, "question_accuracy": 1 / 3, "figure_accuracy": 2 / 4},
            ),
        },
    ),
    Example(
        name="amber_discriminative",
        write=write_amber,
        perfect=AMBER_PERFECT,
        constant=dict.fromkeys(AMBER_PERFECT, "No"),
        expected_constant=0.5,
        compat_values={
            "amber": (
                AMBER_MIXED,
                {
                    "accuracy": 0.667,  # 4 / 6.001
                    "precision": 0.666,  # 2 / 3.001 = 66.64
                    "recall": 0.666,
                    "f1": 0.666,  # 2 * .666^2 / (1.332 + .0001) = .66595
                    "accuracy_dimension_existence": 0.999,
                    "accuracy_dimension_attribute": 0.333,
                    "recall_attribute_number": 0.0,
                },
            ),
            "vlmevalkit": (
                AMBER_MIXED,
                {"accuracy_dimension_macro": (1 + 2 / 3 + 1) / 3, "accuracy_dimension_attribute": 2 / 3},
            ),
        },
    ),
    Example(
        name="amber_generative",
        write=write_amber,
        perfect={"1": "The sky above a person, men.", "2": "A child on the grass under a light."},
        perfect_value=0.0,
        unparsable="",
        compat_values={
            # man marks person (its association comes first), dog and birds are unsafe, boy stands for the child.
            "amber": (
                {"1": "A man with two dogs under a light", "2": ["boy", "pigeon", "verb"]},
                {
                    "chair": 0.4,  # 2 / 5.001
                    "cover": 0.4,  # person, child of 5
                    "hal": 1.0,
                    "cog": 0.666,  # dog, bird of 3
                },
            )
        },
    ),
    Example(
        name="vid_halluc_bqa",
        write=write_vid_halluc,
        perfect=BQA_PERFECT,
        constant=dict.fromkeys(BQA_PERFECT, "yes"),
        expected_constant=0.0,
        compat_values={
            # Question 1_0 has no answer and is left out; 0_1 lacks one and is wrong.
            "vid-halluc": (
                {"0_0_vid_clip_1": "Yes, he is", "0_0_vid_clip_2": "no. He walks", "0_1_vid_clip_1": "No"},
                {"question_accuracy": 0.5},
            )
        },
    ),
    Example(
        name="vid_halluc_mcq",
        write=write_vid_halluc,
        perfect={"0_vid_clip_1": "A", "0_vid_clip_2": "B and D"},
        constant={"0_vid_clip_1": "A", "0_vid_clip_2": "A"},
        expected_constant=0.5,
        compat_values={
            # The article is the option A: right for clip 1, and one too many for clip 2.
            "vid-halluc": (
                {"0_vid_clip_1": "A man walks", "0_vid_clip_2": "B, D. A man"},
                {"accuracy": 0.5},
            )
        },
    ),
    Example(
        name="vid_halluc_tsh",
        write=write_vid_halluc,
        perfect={"0": "Action A, then action B", "1": "ba", "2": "Only Action A."},
        constant={"0": "AB", "1": "AB", "2": "AB"},
        expected_constant=1 / 3,
        compat_values={
            # "happens" has letters of "after", so the order of mention counts; "A." alone is not read.
            "vid-halluc": (
                {"0": "Action B happens after Action A", "1": "Action B before action A", "2": "A."},
                {"accuracy": 1 / 3},
            )
        },
    ),
    Example(
        name="vid_halluc_sth",
        write=write_vid_halluc,
        perfect=STH_PERFECT,
        constant=dict.fromkeys(STH_PERFECT, "Scene change: Yes, Locations: None"),
        expected_constant=0.5,
        compat_values={
            # TP 1, FN 1, TN 1: mcc = 1 / sqrt(1 * 2 * 1 * 2) = 0.5.
            "vid-halluc": (STH_PERFECT | {"s3": "Maybe"}, {"mcc": 0.5, "classification_score": 0.5625}),
        },
    ),
]
