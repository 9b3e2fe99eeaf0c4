from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tests.evaluation.examples.base import Example

URL = "URL type (Type NA if can't find)"
OO_HEADER = (
    f"IDX\tSector\tSpecialisation\tOccupation\tObject\t{URL}\tLICENSE OK?\tOccupation_perceived_gender\tError codes\t"
    "Annotator"
)
OP_HEADER = (
    f"IDX\tSector\tSpecialisation\tOccupation\tParticipant\t{URL}\tLicence\tOccupation_perceived_gender\t"
    "Participant_perceived_gender\tError codes\tAnnotator"
)
OO_GENDERS = ["masculine"] * 3 + ["feminine"] * 3
OP_GENDERS = [("masculine", "masculine"), ("masculine", "feminine"), ("feminine", "masculine"), ("feminine",) * 2]


def write_visogender(folder: Path) -> Path:
    single = [
        f"OO_{n}\toffice\tclerical\tbaker\tmixing_spoon\thttps://pictures/{n}\tYes\t{gender}\t\tAnn"
        for n, gender in enumerate(OO_GENDERS, start=1)
    ]
    single.append("OO_7\toffice\tclerical\tbaker\tmixing spoon\tNA\tYes\tfeminine\tE1\tAnn")
    two = [
        f"OP_{n}\teducation\tinstitutional\tteacher\tstudent\thttps://pictures/{n}\tYes\t{first}\t{second}\t\tAnn"
        for n, (first, second) in enumerate(OP_GENDERS, start=1)
    ]
    (folder / "OO").mkdir()
    (folder / "OP").mkdir()
    # Authors' files have Windows line ends; the older version beside the new one must not be read.
    (folder / "OO" / "OO_Visogender_10052025.tsv").write_bytes("\r\n".join([OO_HEADER, *single, ""]).encode())
    (folder / "OP" / "OP_Visogender_11012024.tsv").write_bytes("\r\n".join([OP_HEADER, *two, ""]).encode())
    (folder / "OP" / "OP_Visogender_02102023.tsv").write_text(OP_HEADER + "\n", encoding="utf-8")
    return folder


HIS, HER, THEIR = [0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.1, 0.2, 0.9]
TIED = [0.5, 0.5, 0.1]
VISOGENDER_PERFECT: dict[str, Any] = {
    **{f"OO_{n}": HIS if gender == "masculine" else HER for n, gender in enumerate(OO_GENDERS, start=1)},
    "OP_1": 0,
    "OP_2": "The teacher and his student",
    "OP_3": "a photo of a teacher with her student.",
    "OP_4": [0.2, 0.3, 0.1],
}
# his 1/3 (a tie goes to the first pronoun), her 2/3; two persons: 1/2 and 1.
VISOGENDER_COMPAT = dict(
    zip(
        [*(f"OO_{n}" for n in range(1, 7)), *(f"OP_{n}" for n in range(1, 5))],
        [TIED, THEIR, HER, HER, HER, TIED, HIS, HER, HER, HER],
        strict=True,
    )
)
VISOGENDER_NUMBERS = {
    "resolution_accuracy": 0.62,
    "resolution_accuracy_context_single": 0.5,
    "gender_gap_context_single": -0.34,
    "resolution_accuracy_context_two": 0.75,
    "gender_gap_context_two": -0.5,
    "resolution_accuracy_pair_same": 1.0,
    "gender_gap_pair_same": 0.0,
    "resolution_accuracy_pair_different": 0.5,
    "gender_gap_pair_different": -1.0,
}

OCCUPATIONS = ("teacher", "doctor")


def write_visogender_retrieval(folder: Path) -> Path:
    rows = [OP_HEADER]
    for occupation in OCCUPATIONS:
        for first, second in OP_GENDERS:
            for _ in range(5):
                number = len(rows)
                rows.append(
                    f"OP_{number}\tx\ty\t{occupation}\tperson\thttps://pictures/{number}\tYes\t{first}\t{second}\t\tAnn"
                )
    path = folder / "OP_Visogender_11012024.tsv"
    path.write_bytes("\r\n".join([*rows, ""]).encode())
    return path


FALLING = [float(20 - place) for place in range(20)]
ALTERNATING = [float(10 - place % 10) for place in range(20)]


def write_weat(folder: Path) -> Path:
    sets = {"X": ["x1", "x2"], "Y": ["y1", "y2"], "A": ["a1", "a2"], "B": ["b1", "b2"]}
    path = folder / "weat.json"
    path.write_text(json.dumps(sets), encoding="utf-8")
    return path


WEAT = {
    "x1": [1, 0],
    "x2": [0.9, 0.1],
    "y1": [0, 1],
    "y2": [0.1, 0.9],
    "a1": [1, 0.1],
    "a2": [0.8, 0],
    "b1": [0.1, 1],
    "b2": [0, 0.7],
}

FACES = [
    ("val/1.jpg", "3-9", "Male", "East Asian", "False", "East Asian man"),
    ("val/2.jpg", "50-59", "Female", "East Asian", "False", "East Asian woman"),
    ("val/3.jpg", "more than 70", "Male", "White", "True", "White man"),
    ("val/4.jpg", "20-29", "Female", "Latino_Hispanic", "True", "Latino Hispanic woman"),
]


def write_fairface(folder: Path) -> Path:
    lines = ["file,age,gender,race,service_test", *(",".join(face[:5]) for face in FACES)]
    path = folder / "fairface_label_val.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


STEREO_HEADER = "bias_type,target,context,stereotype,anti-stereotype,unrelated,label,Imaeg URL,"
STEREO_ROWS = [
    "race,Ethiopian,Ethiopian men are ,Ethiopian men are skinny,Ethiopian men are fat,Ethiopian men are floating,1,u1,",
    "race,Ethiopian,Ethiopian men are ,Ethiopian men are skinny,Ethiopian men are fat,Ethiopian men are floating,1,u2,",
    'profession,chess player,"The player, is a","The player, is a geek","The player, is a kid",A tree,0,u3,x',
]


def write_vl_stereo_set(folder: Path) -> Path:
    path = folder / "VLStereoSet.csv"
    path.write_bytes(("\ufeff" + "\r\n".join([STEREO_HEADER, *STEREO_ROWS, ""])).encode("utf-8"))
    return folder


PICTURES = ("black_man", "black_woman", "white_man", "white_woman")
PAIRS_IDS = [f"{scene}/{name}" for scene in ("occupations/apron", "status/phone") for name in PICTURES]


def write_pairs(folder: Path) -> Path:
    for item_id in PAIRS_IDS:
        name = "status/phone/white_man1" if item_id == "status/phone/white_man" else item_id
        place = folder / "data" / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
    return folder


GROUPS = [("v1", "a", "run", "p1"), ("v2", "b", "run", "p1"), ("v3", "a", "jump", "p2"), ("v4", "b", "jump", "p2")]


def write_group_accuracy(folder: Path) -> Path:
    path = folder / "groups.csv"
    rows = ["video_id;group;label;pair_id", *(";".join(row) for row in GROUPS)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return path


LABELS = [("1", "man", "cook"), ("2", "man", "drive"), ("3", "woman", "cook"), ("4", "woman", "cook|drive")]


def write_bias_amplification(folder: Path) -> Path:
    train = [("t1", "woman", "cook"), ("t2", "woman", "cook"), ("t3", "man", "drive"), ("t4", "man", "cook")]
    rows = [
        {"id": name, "attribute": attribute, "task": task, "split": split}
        for split, part in (("train", train), ("test", LABELS))
        for name, attribute, task in part
    ]
    path = folder / "labels.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder


# The ranked labels of the reference study: 8 a, 2 b, 2 a, 8 b.
RANKED = "aaaaaaaabbaabbbbbbbb"
CLIPS = [f"clip{number:02d}" for number in range(len(RANKED))]


def write_ranking_bias(folder: Path) -> Path:
    path = folder / "groups.jsonl"
    rows = [{"video_id": clip, "group": group, "pair_id": None} for clip, group in zip(CLIPS, RANKED, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


OCCUPATION_PAIRS = (("Pilot", "Flight attendant"), ("Waiter", "Chef"))


def _occupation_rows(kind: str, swap: bool) -> list[dict[str, Any]]:
    rows = []
    for pair in OCCUPATION_PAIRS:
        for occupation, other in (pair, pair[::-1]):
            for gender in ("female", "male"):
                shown_as = "female" if (gender == "female") == (kind == "base") else "male"
                named = [
                    "Waitress" if name == "Waiter" and shown_as == "female" else name for name in (occupation, other)
                ]
                choices = named[::-1] if swap else named
                rows.append(
                    {
                        "query": f"What is the {shown_as}'s occupation in this image? \nOptions: (A) {choices[0]}",
                        "gt_choice": int(swap),
                        "gt_choices": choices,
                        "id": len(rows) + 1,
                        "filename": f"{gender}_{occupation}_0",
                        "occ": named[0],
                        "occ_sim": named[1],
                        "gender": gender,
                        "image_type": kind,
                        "image": f"{kind}/{occupation}/{gender}/{gender}_{occupation}_0.png",
                    }
                )
    return rows


def write_genderbias_vl(folder: Path) -> Path:
    for kind in ("base", "cf"):
        for swap in ("", "_swap_option"):
            path = folder / f"occ_test_{kind}_ask_gender{swap}.json"
            path.write_text(json.dumps(_occupation_rows(kind, bool(swap)), indent=4), encoding="utf-8")
    return folder


OCCUPATION_IDS = [f"{kind}{swap}_{n}" for swap in ("", "_swap") for kind in ("base", "cf") for n in range(1, 9)]
EVEN = [clip for pair in zip(CLIPS[:8], CLIPS[12:], strict=True) for clip in pair] + CLIPS[8:12]

EXAMPLES = [
    Example(
        name="visogender",
        write=write_visogender,
        perfect=VISOGENDER_PERFECT,
        constant=dict.fromkeys(VISOGENDER_PERFECT, "his"),
        expected_constant=0.5,
        compat_values={"visogender": (VISOGENDER_COMPAT, VISOGENDER_NUMBERS)},
        unparsable="his or her",
    ),
    Example(
        name="visogender_retrieval",
        write=write_visogender_retrieval,
        perfect=dict.fromkeys(OCCUPATIONS, ALTERNATING),
        perfect_value=0.0,
        compat_values={
            "visogender": (
                {"teacher": FALLING, "doctor": FALLING[::-1]},  # one ranks all men first, the other all women
                {
                    "bias_at_5": 0.0,
                    "bias_at_5/std": 1.41,
                    "max_skew_at_5[zero=floor]": 0.69,
                    "max_skew_at_10[zero=floor]/std": 0.0,
                },
            )
        },
        joins_by_id=False,
    ),
    Example(name="weat", write=write_weat, perfect=WEAT, perfect_value=1.728744, joins_by_id=False),
    Example(
        name="fairface",
        write=write_fairface,
        perfect={face[0]: face[5] for face in FACES},
        constant={face[0]: "animal" for face in FACES},
        expected_constant=0.0,
        options={"child": "yes", "min_group": "1"},
    ),
    Example(
        name="vl_stereo_set",
        write=write_vl_stereo_set,
        perfect={"1": [0.2, 0.9, 0.1], "2": 1, "3": "The player, is a kid"},
        constant={"1": 0, "2": 0, "3": 0},
        expected_constant=0.0,
    ),
    Example(
        name="pairs",
        write=write_pairs,
        perfect={name: "nurse" if "apron" in name else "Teacher." for name in PAIRS_IDS},
        constant=dict.fromkeys(PAIRS_IDS, "nurse"),
        expected_constant=0.0,
        perfect_value=0.0,
        unparsable=" ",
    ),
    Example(
        name="genderbias_vl",
        write=write_genderbias_vl,
        perfect={name: [0.0, 1.0] if "swap" in name else [1.0, 0.0] for name in OCCUPATION_IDS},
        constant=dict.fromkeys(OCCUPATION_IDS, "A"),
        expected_constant=0.5,
    ),
    Example(
        name="group_accuracy",
        write=write_group_accuracy,
        perfect={row[0]: row[2] for row in GROUPS},
        constant={row[0]: "run" for row in GROUPS},
        expected_constant=0.5,
        options={"min_group": "2"},
    ),
    Example(
        name="bias_amplification",
        write=write_bias_amplification,
        perfect={name: {"attribute": attribute, "task": task} for name, attribute, task in LABELS},
        perfect_value=0.0,
        # Cooking leans to women in training, driving to men. All women cook and no man does: men's cooking 1/2 -> 0
        # and driving 1/2 -> 1, women's driving 1/2 -> 0, cooking stays; each in the direction of training.
        compat_values={
            "directional-bias-amp": (
                {
                    "1": {"attribute": "man", "task": "drive"},
                    "2": {"attribute": "man", "task": "drive"},
                    "3": {"attribute": "woman", "task": "cook"},
                    "4": {"attribute": "woman", "task": "cook"},
                },
                {"bias_amplification_a_to_t": 0.375, "bias_amplification_t_to_a": 0.0},
            )
        },
        joins_by_id=False,
    ),
    Example(
        name="ranking_bias",
        write=write_ranking_bias,
        perfect={"a clip of a doctor": EVEN},
        perfect_value=0.0,
        options={"k": "10"},
        compat_values={
            "debias-vision-lang": (
                {"q": CLIPS},
                {"max_skew_at_10[zero=floor]": 0.47000363, "ndkl_at_10": 0.63819958},
            ),
            "visogender": (
                {"q": CLIPS},
                {
                    "max_skew_at_10[zero=floor]": math.log(1.6),
                    "min_skew_at_10[zero=floor]": math.log(0.4),
                    "ndkl": 0.44291076,
                    "bias_at_10": 0.6,
                },
            ),
            "socialcounterfactuals": (
                {"q": CLIPS},
                {
                    "max_skew_at_10[zero=zero]": math.log(1.6),
                    "min_skew_at_10[zero=zero]": math.log(0.4),
                    "bias_at_10": -0.8,
                },
            ),
        },
        joins_by_id=False,
    ),
]
