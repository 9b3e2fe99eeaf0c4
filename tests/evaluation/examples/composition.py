from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.evaluation.examples.base import Example


def lines(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content, encoding="utf-8")
        return folder

    return write


def flat(ids: Sequence[str], scores: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(ids, scores, strict=True))


# --- Winoground -------------------------------------------------------------------------------------------------------

WINOGROUND = [
    (0, "an old person kisses a young person", "a young person kisses an old person", "Adjective-Age", "", 1, "Object"),
    (7, "some plants surrounding a lightbulb", "a lightbulb surrounding some plants", "Noun", "", 1, "Object"),
    (9, "the dog bit the man", "the man bit the dog", "Noun", "Pragmatics", 2, "Relation"),
    (11, "fire truck", "truck fire", "Scope", "Symbolic", 1, "Both"),
]
WINOGROUND_KEYS = ("id", "caption_0", "caption_1", "tag", "secondary_tag", "num_main_preds", "collapsed_tag")


def write_winoground(folder: Path) -> Path:
    rows = [
        {
            **dict(zip(WINOGROUND_KEYS, row, strict=True)),
            "image_0": f"ex_{row[0]}_img_0",
            "image_1": f"ex_{row[0]}_img_1",
        }
        for row in WINOGROUND
    ]
    return lines(folder, "data/examples.jsonl", rows)


RIGHT, EQUAL = [[0.9, 0.1], [0.2, 0.8]], [[0.0, 0.0], [0.0, 0.0]]
FIRST_TIED = [[0.5, 0.5], [0.1, 0.9]]  # principled wrong, right where the first of equal scores wins
IMAGE_ONLY = [[0.6, 0.7], [0.5, 0.8]]  # the first picture prefers the other caption; both captions find their picture
WINOGROUND_IDS = ["0", "7", "9", "11"]

# --- SugarCrepe -------------------------------------------------------------------------------------------------------


def write_sugar_crepe(folder: Path) -> Path:
    subsets = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
    for number, name in enumerate(subsets):
        row = {
            "filename": f"{number:012d}.jpg",
            "caption": "A tan toilet and sink combination in a small room.",
            "negative_caption": "A white toilet and sink combination in a small room.",
        }
        # The keys of swap_obj run to 245 with one missing.
        keys = ("0", "2") if name == "swap_obj" else ("0",)
        rows = {key: row for key in keys}
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=4), encoding="utf-8")
    return folder


SUGAR_IDS = [
    "add_att_0",
    "add_obj_0",
    "replace_att_0",
    "replace_obj_0",
    "replace_rel_0",
    "swap_att_0",
    "swap_obj_0",
    "swap_obj_2",
]

# --- VITATECS ---------------------------------------------------------------------------------------------------------

VITATECS = {
    "Direction": ("person connecting something to system", "person disconnecting something from system"),
    "Intensity": ("person is driving his car fast", "person is driving his car slow"),
    "Sequence": ("a woman runs before making music", "a woman makes music before running"),
    "Localization": ("babies at the top of a staircase", "babies at the bottom of a staircase"),
    "Compositionality": ("a woman cooks and a man sets a table", "a man cooks and a woman sets a table"),
    "Type": ("A man cooks burgers.", "A man eats burgers."),
}


def write_vitatecs(folder: Path) -> Path:
    for aspect, (caption, counterfactual) in VITATECS.items():
        row = {
            "src_dataset": "VATEX" if aspect == "Type" else "MSRVTT",
            "video_name": "i0ccSYMl0vo_000027_000037.mp4" if aspect == "Type" else "video9770.mp4",
            "caption": caption,
            "counterfactual": counterfactual,
            "aspect": aspect,
        }
        lines(folder, f"{aspect}.jsonl", [row])
    return folder


VITATECS_IDS = [f"{aspect}_0" for aspect in VITATECS]

# --- MMVP -------------------------------------------------------------------------------------------------------------

MMVP = """Index,Question,Options,Correct Answer
1,Are the butterfly's wings closer to being open or closed?,(a) Open (b) Closed,(a)
2,Are the butterfly's wings closer to being open or closed?,(a) Open (b) Closed,(b)
3,"Is the dog facing left, or right?",(a) Left (b) Right (its own),(b)
4,"Is the dog facing left, or right?",(a) Left (b) Right (its own),(a)
"""
MMVP_VLM = "Question ID,Type,Statement\n" + "".join(
    f'{30 * number + 1},{name},a dog looking left\n{30 * number + 2},{name},"a dog, looking right"\n'
    for number, name in enumerate(
        (
            "Orientation",
            "Presence",
            "State",
            "Quantity",
            "Spatial",
            "Color",
            "Structural Character",
            "Text",
            "Camera Perspective",
        )
    )
)
MMVP_VLM_IDS = [f"{30 * number + 1}_{30 * number + 2}" for number in range(9)]

VINOGROUND = (
    "index,major,minor,pos_cap,neg_cap\n"
    '0,object,,"the watermelon is cut, then turned","the watermelon is turned, then cut"\n'
    "1,action,interaction;cyclical,a man waves at a woman before he talks to her,"
    "a man talks to a woman before he waves at her\n"
)

# --- ARO --------------------------------------------------------------------------------------------------------------


def write_aro(folder: Path) -> Path:
    rows = [
        {
            "image_path": f"{image}.jpg",
            "bbox_x": 1,
            "bbox_y": 2,
            "bbox_w": 30,
            "bbox_h": 40,
            "true_caption": "the door is to the left of the man",
            "false_caption": "the man is to the left of the door",
            "relation_name": relation,
        }
        for image, relation in ((2373554, "to the left of"), (2373554, "to the left of"), (1, "holding"))
    ]
    (folder / "visual_genome_relation.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


# --- VELOCITI ---------------------------------------------------------------------------------------------------------


def write_velociti(folder: Path) -> Path:
    rows = [
        {"test_name": test, "video_id": f"{video}.mp4", "event": "Ev1", "pos": "a man runs", "neg": "a man sits"}
        for test, video in (("action_adv", "v1"), ("action_adv", "v2"), ("coref", "v1"))
    ]
    return lines(folder, "velociti.jsonl", rows)


VELOCITI_IDS = ["action_adv_0", "action_adv_1", "coref_0"]

# --- ActionBench ------------------------------------------------------------------------------------------------------


def write_ssv2(folder: Path) -> Path:
    rows = [
        {
            "label": "Spinning cube that quickly stops spinning",
            "template": "Spinning something that quickly stops spinning",
            "placeholders": ["cube"],
            "template_action_antonym_clip_text": "Spinning something that quickly starts spinning",
            "label_action_antonym_clip_text": "Spinning cube that quickly starts spinning",
            "id": number,
            "label_object_shuffled_clip_text": "spinning feeding lid that quickly stops spinning",
        }
        for number in (74225, 7)
    ]
    (folder / "validation.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


ACTION_IDS = [f"{task}_{number}" for number in (74225, 7) for task in ("antonym", "object_shuffle", "reversal")]
ACTION_PERFECT = flat(ACTION_IDS, [[0.3, 0.2], [[0.3, 0.2]], [[0.3], [0.2]]] * 2)

# --- Test of Time -----------------------------------------------------------------------------------------------------

TEST_OF_TIME = (
    ",index,video_id,sentence,end_time\n"
    "0,0,red_before_blue,A red circle appears before a blue circle,8\n"
    "1,1,red_after_blue,A red circle appears after a blue circle,8\n"
)
TIME_IDS = ["red_before_blue", "red_after_blue"]

# --- Vinoground and TemporalBench -------------------------------------------------------------------------------------

OPTIONS = "\nA. the watermelon is cut, then turned\nB. the watermelon is turned, then cut\nAnswer with the letter."


NUM_PAIRS = 500  # lmms-eval needs them all


def write_vinoground(folder: Path) -> Path:
    for part, place in (("text", "vinoground_videos"), ("video", "vinoground_videos_concated")):
        rows = [
            {
                "idx": f"{pair}_{side}",
                "video_name": f"{place}/{pair}_{side}.mp4",
                "question": f"Which caption best describes this video?{OPTIONS}",
                "GT": answer,
            }
            for pair in range(NUM_PAIRS)
            for side, answer in (("pos", "A"), ("neg", "B"))
        ]
        (folder / f"vinoground_{part}score.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "vinoground.csv").write_text(VINOGROUND, encoding="utf-8")
    return folder


VINOGROUND_IDS = [
    f"{pair}_{side}_{part}" for pair in range(NUM_PAIRS) for part in ("text", "video") for side in ("pos", "neg")
]
VINOGROUND_WRONG = dict.fromkeys(VINOGROUND_IDS, "neither")


def write_temporal_bench(folder: Path) -> Path:
    rows = [
        {
            "idx": f"short_video/Charades/{video}.mp4_{number}",
            "video_name": f"short_video/Charades/{video}.mp4",
            "category": "Action Effector",
            "dataset": "Charades",
            "question": f"Which caption best describes this video?{OPTIONS}",
            "GT": answer,
        }
        for video, answers in (("EEVD3", "AB"), ("XYZ", "BA"))
        for number, answer in enumerate(answers)
    ]
    (folder / "temporalbench_short_qa.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


TEMPORAL_IDS = [f"short_video/Charades/{video}.mp4_{number}" for video in ("EEVD3", "XYZ") for number in (0, 1)]

# --- DCI --------------------------------------------------------------------------------------------------------------


def write_dci(folder: Path) -> Path:
    def mask(number: int, size: int) -> dict[str, Any]:
        bounds = {"topLeft": {"x": 10, "y": 20}, "bottomRight": {"x": 10 + size, "y": 20 + size}}
        return {"idx": number, "bounds": bounds, "label": "pump", "caption": "A pump.", "mask_quality": 0}

    keys = ("base", "m-1-sc", "m-2-sc", "m-3-sc")
    document = {
        "image": "sa_1.jpg",
        "short_caption": "A pump.",
        "mask_data": {"1": mask(1, 300), "2": mask(2, 400), "3": mask(3, 50)},  # the third is too small
        "summaries": {key: [f"summary of {key}", "another"] for key in keys},
        "negatives": {key: {"swaps": [f"not {key}"], "basic": []} for key in keys},
    }
    (folder / "complete").mkdir()
    (folder / "complete" / "sa_1.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "splits.json").write_text(json.dumps({"train": [], "valid": [], "test": ["sa_1.json"]}), encoding="utf-8")
    return folder


DCI_IDS = ["sa_1_base", "sa_1_m-1-sc", "sa_1_m-2-sc"]

EXAMPLES = [
    Example(
        name="winoground",
        write=write_winoground,
        perfect=dict.fromkeys(WINOGROUND_IDS, RIGHT),
        constant=dict.fromkeys(WINOGROUND_IDS, EQUAL),
        expected_constant=0.0,
        compat_values={
            "clip_benchmark": (
                flat(WINOGROUND_IDS, [RIGHT, EQUAL, FIRST_TIED, IMAGE_ONLY]),
                {"group_score": 0.5, "text_score": 0.5, "image_score": 0.75},
            )
        },
    ),
    Example(
        name="vinoground_pairs",
        write=text("vinoground.csv", VINOGROUND),
        perfect={"0": RIGHT, "1": RIGHT},
        constant={"0": EQUAL, "1": EQUAL},
        expected_constant=0.0,
    ),
    Example(
        name="sugar_crepe",
        write=write_sugar_crepe,
        perfect=dict.fromkeys(SUGAR_IDS, [0.3, 0.2]),
        constant=dict.fromkeys(SUGAR_IDS, [0.0, 0.0]),
        expected_constant=0.0,
        compat_values={
            "clip_benchmark": (
                # Ties are right there: three of eight are wrong.
                flat(SUGAR_IDS, [[0, 0], [1, 2], [2, 1], [0, 0], [1, 2], [5, 5], [5, 4], [4, 5]]),
                {"accuracy": 5 / 8, "accuracy_subset_add_obj": 0.0, "accuracy_subset_swap_obj": 0.5},
            )
        },
    ),
    Example(
        name="vitatecs",
        write=write_vitatecs,
        perfect=dict.fromkeys(VITATECS_IDS, [0.3, 0.2]),
        constant=dict.fromkeys(VITATECS_IDS, [0.0, 0.0]),
        expected_constant=0.0,
        compat_values={
            "lmms_eval": (
                # Captions in the response decide; none of the rules reads the last two.
                flat(
                    VITATECS_IDS,
                    [
                        "It shows a Person connecting something to system.",
                        "(A) Person is driving his car slow.",
                        "a woman runs before making music",
                        "babies at the top of a staircase, not babies at the bottom of a staircase",
                        "I do not know.",
                        "",
                    ],
                ),
                {"accuracy": 2 / 6, "accuracy_aspect_direction": 1.0, "accuracy_aspect_intensity": 0.0},
            )
        },
    ),
    Example(
        name="mmvp",
        write=text("Questions.csv", MMVP),
        perfect=flat(["1", "2", "3", "4"], ["(a)", "Closed", [0.1, 0.2], 0]),
        constant=dict.fromkeys(["1", "2", "3", "4"], "(a)"),
        expected_constant=0.0,
        compat_values={
            "lmms_eval": (
                # "a" before a space reads as A, so does "Panda" at its end; question 4 is missing and so is its pair.
                flat(["1", "2", "3"], ["This is a butterfly", "The answer is (B)", "Panda"]),
                {"accuracy": 2 / 3, "pair_accuracy": 1.0},
            )
        },
    ),
    Example(
        name="mmvp_vlm",
        write=text("Questions.csv", MMVP_VLM),
        perfect=dict.fromkeys(MMVP_VLM_IDS, RIGHT),
        constant=dict.fromkeys(MMVP_VLM_IDS, EQUAL),
        expected_constant=0.0,
        compat_values={
            "mmvp": (
                # The second statement wins its tie, the first does not; logits that differ by 1e-9 are equal. The
                # script takes the first fifteen pairs for the first pattern, so nine pairs count as nine right of one.
                flat(
                    MMVP_VLM_IDS,
                    [
                        *[RIGHT] * 6,
                        [[30.0, 20.0], [20.0, 20.0]],
                        [[20.0, 10.0], [20.0, 20.0]],
                        [[20.000000001, 10.0], [20.0, 20.0]],
                    ],
                ),
                {"image_score_pattern_orientation_and_direction": 7.0, "image_score": 7 / 9},
            )
        },
    ),
    Example(
        name="aro",
        write=write_aro,
        perfect=flat(["0", "1", "2"], [[0.1, 0.2], [0.1, 0.3], "The door is to the left of the man."]),
        constant=dict.fromkeys(["0", "1", "2"], [0.0, 0.0]),
        expected_constant=0.0,
        compat_values={
            "aro": (
                # The tie goes to the false caption; two relations, 1/2 and 1.
                flat(["0", "1", "2"], [[0.0, 0.0], [0.1, 0.2], [0.1, 0.2]]),
                {"accuracy": 2 / 3, "accuracy_relation_macro": 0.75, "accuracy_relation_holding": 1.0},
            )
        },
    ),
    Example(
        name="velociti",
        write=write_velociti,
        perfect=flat(VELOCITI_IDS, [[0.9, 0.1], [0.3, 0.2], "a man runs"]),
        constant=dict.fromkeys(VELOCITI_IDS, [0.5, 0.5]),
        expected_constant=0.0,
        compat_values={
            "velociti": (
                flat(VELOCITI_IDS, [[0.9, 0.1], [0.3, 0.3], [0.2, 0.1]]),
                {"accuracy_test_action_adv": 0.5, "accuracy_test_coref": 1.0, "accuracy": 0.75},
            )
        },
    ),
    Example(
        name="action_bench",
        write=write_ssv2,
        perfect=ACTION_PERFECT,
        constant=flat(ACTION_IDS, [[0, 0], [0, 0], [0, 0]] * 2),
        expected_constant=0.0,
        compat_values={
            "paxion": (
                # Ties between captions are right; both reversals are decided by their scores.
                flat(ACTION_IDS, [[0, 0], [0, 1], [0.3, 0.2], [1, 1], [1, 0], [[0.2], [0.3]]]),
                {
                    "accuracy": 4 / 6,
                    "accuracy_task_antonym": 1.0,
                    "accuracy_task_object_shuffle": 0.5,
                    "accuracy_task_reversal": 0.5,
                },
            )
        },
    ),
    Example(
        name="test_of_time",
        write=text("test_v2.0.csv", TEST_OF_TIME),
        perfect=flat(TIME_IDS, [[0.2, 0.1], "a red circle appears after a blue circle"]),
        constant=dict.fromkeys(TIME_IDS, [0.0, 0.0]),
        expected_constant=0.0,
    ),
    Example(
        name="vinoground",
        write=write_vinoground,
        perfect={
            **flat(VINOGROUND_IDS, ["A", "B"] * (2 * NUM_PAIRS)),
            **flat(VINOGROUND_IDS[:8], ["A", "B.", [0.9, 0.1], 1, "(A)", "b", "A", "The answer is B."]),
        },
        constant=dict.fromkeys(VINOGROUND_IDS, "A"),
        expected_constant=0.0,
        compat_values={
            # The first pair is right; the second lacks a text answer, so its right video answers are not looked at.
            "vinoground": (
                VINOGROUND_WRONG | flat(VINOGROUND_IDS[:8], ["a", "B", "A.", "B", "A", "", "A", "B"]),
                {"group_score": 1 / 500, "text_score": 1 / 500, "video_score": 1 / 500},
            ),
            "lmms_eval": (
                VINOGROUND_WRONG | flat(VINOGROUND_IDS[:8], ["a", "B", "A.", "B", "A", "A", "A", "B"]),
                {"group_score": 1 / 500, "text_score": 1 / 500, "video_score": 2 / 500},
            ),
        },
    ),
    Example(
        name="temporal_bench",
        write=write_temporal_bench,
        perfect=flat(TEMPORAL_IDS, ["A", "B", [0.1, 0.2], "(A)"]),
        constant=dict.fromkeys(TEMPORAL_IDS, "A"),
        expected_constant=0.0,
        compat_values={
            "temporal_bench": (
                # The last question has no response and is left out, which makes its video right.
                flat(TEMPORAL_IDS[:3], ["A.", "A", "because"]),
                {"accuracy": 2 / 3, "multiple_binary_accuracy": 0.5, "accuracy_dataset_charades": 2 / 3},
            )
        },
    ),
    Example(
        name="dci",
        write=write_dci,
        perfect=flat(DCI_IDS, [[0.3, 0.2, 0.1], [0, 1, 0], "Summary of m-2-sc"]),
        constant=dict.fromkeys(DCI_IDS, [0, 0, 0]),
        expected_constant=0.0,
    ),
]
