from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.evaluation.examples.base import Example


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def write_labels(folder: Path) -> Path:
    return write(
        folder,
        {
            # A byte order mark and semicolons, as spreadsheets save them; the last label is an index.
            "labels.csv": "\ufeffid;label;video_id\na;dog;v1\nb;cat;v1\nc;dog;v2\nd;2;v3\n",
            "classes.txt": "cat\ndog\nhot dog\n",
        },
    )


def write_captioned_labels(folder: Path) -> Path:
    write_labels(folder)
    return write(folder, {"captions.txt": "Two dogs play.\nA dog's ball.\nThe cat sleeps on a dog.\nA tree.\n"})


def write_kinetics(folder: Path) -> Path:
    rows = [
        "label,youtube_id,time_start,time_end,split",
        "abseiling,-3B32lodo2M,59,69,val",
        '"air drumming",_dbcJuKJQNs,40,50,val',
        '"air drumming",_dbcJuKJQNs,60,70,val',
    ]
    return write(folder, {"annotations/val.csv": "\n".join(rows) + "\n"})


def write_ucf101(folder: Path) -> Path:
    return write(
        folder,
        {
            "classInd.txt": "1 ApplyEyeMakeup\r\n2 YoYo\r\n",
            "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n"
            "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi\r\nYoYo/v_YoYo_g02_c01.avi\r\n",
        },
    )


def write_hmdb51(folder: Path) -> Path:
    return write(
        folder,
        {
            "splits/brush_hair_test_split1.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \n"
            "April_09_brush_hair_u_nm_np1_ba_goo_1.avi 2 \nBlond_brush_hair_f_nm_np2_ri_med_0.avi 0 \n",
            "splits/wave_test_split1.txt": "20060723_wave_f_nm_np1_ba_med_0.avi 2 \n",
        },
    )


def write_ssv2(folder: Path) -> Path:
    labels = {"Spinning something that quickly stops spinning": "1", "Holding something": "0"}
    rows = [
        {
            "id": "74225",
            "label": "spinning cube that quickly stops spinning",
            "template": "Spinning [something] that quickly stops spinning",
            "placeholders": ["cube"],
        },
        {"id": "116154", "label": "holding a pen", "template": "Holding [something]", "placeholders": ["a pen"]},
    ]
    return write(
        folder,
        {
            "something-something-v2-labels.json": json.dumps(labels),
            "something-something-v2-validation.json": json.dumps(rows),
        },
    )


def write_imagenet(folder: Path) -> Path:
    return write(
        folder,
        {
            "val.txt": "ILSVRC2012_val_00000001.JPEG 1\nILSVRC2012_val_00000002.JPEG 0\n",
            "synset_words.txt": "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n",
        },
    )


MASKS = {
    "ADE_val_00000001": [[0, 1, 1], [2, 2, 255]],
    "ADE_val_00000002": [[1, 1, 1], [1, 1, 1]],
}
RIGHT = {"ADE_val_00000001": [[0, 0, 0], [1, 1, 0]], "ADE_val_00000002": [[0] * 3, [0] * 3]}


def write_segmentation(folder: Path) -> Path:
    import numpy as np
    from PIL import Image

    masks = folder / "validation"
    masks.mkdir()
    for name, rows in MASKS.items():
        Image.fromarray(np.array(rows, dtype=np.uint8)).save(masks / f"{name}.png")
    (folder / "classes.txt").write_text("wall,house wall\nfloor\n", encoding="utf-8")
    return masks


def write_deja_vu(folder: Path) -> Path:
    train = [("t1", ["dog", "Ball"]), ("t2", ["cat"]), ("t3", ["car", "tree", "road"]), ("none", [])]
    public = [("p1", ["dog", "ball"]), ("p2", ["cat", "sofa"]), ("p3", ["tree"]), ("p4", ["car", "road"]), ("p5", [])]
    return write(
        folder,
        {
            name: "".join(json.dumps({"id": key, "objects": objects}) + "\n" for key, objects in rows)
            for name, rows in (("train_objects.jsonl", train), ("public_objects.jsonl", public))
        },
    )


def pictures(target: list[str], reference: list[str]) -> dict[str, list[str]]:
    return {"target": target, "reference": reference}


CHARADES = {
    "3MSZA_0": (24.3, 30.4, "person turn a light on."),
    "3MSZA_1": (0.0, 10.0, "person opens the door."),
    "EDXBD_0": (10.0, 20.0, "a person is cooking."),
}


def write_charades(folder: Path) -> Path:
    lines = [f"{key.split('_')[0]} {start} {end}##{text}" for key, (start, end, text) in CHARADES.items()]
    return write(folder, {"charades_sta_test.txt": "\n".join(lines) + "\n"})


QV = {
    "8737": ([[0, 16]], list(range(8)), [[4, 1, 1]] * 3 + [[2, 3, 2]] * 5),
    "2579": ([[82, 150], [10, 18]], [41, 42, 5], [[1, 1, 2], [3, 3, 4], [4, 4, 4]]),
}


def write_qvhighlights(folder: Path) -> Path:
    rows = [
        {
            "qid": int(qid),
            "query": "A family plays.",
            "duration": 150,
            "vid": f"video{qid}_0.0_150.0",
            "relevant_windows": moments,
            "relevant_clip_ids": clips,
            "saliency_scores": scores,
        }
        for qid, (moments, clips, scores) in QV.items()
    ]
    return write(folder, {"highlight_val_release.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})


def moments(*rows: list[float], saliency: list[float] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"pred_relevant_windows": list(rows)}
    return found if saliency is None else {**found, "pred_saliency_scores": saliency}


CHARADES_PERFECT = {key: [[start, end, 0.9], [0.0, 1.0, 0.1]] for key, (start, end, _) in CHARADES.items()}
CLASSES = dict(zip("abcd", ["dog", "A photo of a cat.", 1, "2"], strict=True))
KINETICS = ("-3B32lodo2M_000059_000069", "_dbcJuKJQNs_000040_000050", "_dbcJuKJQNs_000060_000070")
UCF = ("v_ApplyEyeMakeup_g01_c01", "v_ApplyEyeMakeup_g01_c02", "v_YoYo_g02_c01")
HMDB = ("April_09_brush_hair_u_nm_np1_ba_goo_1", "20060723_wave_f_nm_np1_ba_med_0")
IMAGENET = ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002")

EXAMPLES = [
    Example(
        name="classification",
        write=write_labels,
        perfect=CLASSES,
        constant=dict.fromkeys("abcd", [0.1, 0.7, 0.2]),
        expected_constant=0.5,
    ),
    Example(
        name="concept_frequency",
        write=write_captioned_labels,
        perfect=CLASSES,
        constant=dict.fromkeys("abcd", [0.5, 0.5, 0.5]),
        expected_constant=0.0,
    ),
    Example(
        name="kinetics",
        write=write_kinetics,
        perfect=dict(zip(KINETICS, ["abseiling", "Air drumming!", [0.1, 0.9]], strict=True)),
        constant=dict.fromkeys(KINETICS, "air drumming"),
        expected_constant=2 / 3,
    ),
    Example(
        name="ucf101",
        write=write_ucf101,
        perfect=dict(zip(UCF, ["ApplyEyeMakeup", "apply eye makeup", "He plays with a yo yo."], strict=True)),
        constant=dict.fromkeys(UCF, 1),
        expected_constant=1 / 3,
    ),
    Example(
        name="hmdb51",
        write=write_hmdb51,
        perfect=dict(zip(HMDB, ["brush_hair", "wave"], strict=True)),
        constant=dict.fromkeys(HMDB, "wave"),
        expected_constant=0.5,
    ),
    Example(
        name="ssv2_labels",
        write=write_ssv2,
        perfect={"74225": "Spinning something that quickly stops spinning", "116154": [0.6, 0.4]},
        constant=dict.fromkeys(("74225", "116154"), 0),
        expected_constant=0.5,
    ),
    Example(
        name="imagenet",
        write=write_imagenet,
        perfect=dict(zip(IMAGENET, [[0.1, 0.6, 0.3], "tench"], strict=True)),
        # Two classes are called crane: the name does not decide.
        constant=dict.fromkeys(IMAGENET, "crane"),
        expected_constant=0.0,
    ),
    Example(
        name="segmentation",
        write=write_segmentation,
        perfect=RIGHT,
        # Class 0 everywhere: 8 of 10 pixels of class 0, none of class 1.
        constant=dict.fromkeys(RIGHT, [[0, 0, 0], [0, 0, 0]]),
        expected_constant=0.4,
        options={"zero": "ignore"},
    ),
    Example(
        name="deja_vu",
        write=write_deja_vu,
        perfect={key: pictures(["p1", "p2"], ["p1", "p2"]) for key in ("t1", "t2", "t3")},
        perfect_value=0.0,
        constant={key: pictures(["p1", "p3"], ["p2", "p5"]) for key in ("t1", "t2", "t3")},
        # t1: precision 2/3 against 0; t2: 0 against 1/2; t3: 1/3 against 0.
        expected_constant=1 / 3,
        options={"k": "2"},
        compat_values={
            "vlm_dejavu": (
                {
                    "t1": pictures(["p1", "p3"], ["p2", "p5"]),
                    "t2": pictures(["p1", "p3"], ["p2", "p5"]),
                    "t3": pictures(["p3", "p4"], ["p1", "p3"]),
                },
                {
                    "population_precision_gap": 1 / 3,
                    "population_recall_gap": 1 / 3,
                    # Recalls 1, 0, 1 and 0, 1, 1/3 in 100 bins: 1 + 99 * 2/3 and 1 + 33 * 2/3 + 66 * 1/3 hundredths.
                    "recall_auc_gap": 0.67 - 0.45,
                    "top_0_1_recall_gap": 1.0,
                    "top_0_1_precision_gap": 2 / 3,
                },
            )
        },
    ),
    Example(
        name="charades_sta",
        write=write_charades,
        perfect=CHARADES_PERFECT,
        constant=dict.fromkeys(CHARADES, [10.0, 20.0]),
        expected_constant=1 / 3,
        unparsable="some time later",
    ),
    Example(
        name="qvhighlights",
        write=write_qvhighlights,
        perfect={
            qid: moments(*[[start, end, 1 - 0.1 * place] for place, (start, end) in enumerate(found)])
            for qid, (found, _, _) in QV.items()
        },
        constant=dict.fromkeys(QV, [0, 16]),
        expected_constant=0.5,
        unparsable=[[9, 1, 1.0]],
        compat_values={
            "qvhighlights": (
                {
                    # The first window is not the one with the highest score.
                    "8737": moments([100, 120, 0.2], [0, 16, 0.9], saliency=[0.9] + [0.1] * 74),
                    "2579": moments([82, 150, 0.5], [0, 5, 0.4], saliency=[0.0] * 41 + [1.0] + [0.0] * 33),
                },
                {
                    "map": 0.75,
                    "map_0_5": 0.75,
                    "map_short": 0.0,
                    "map_middle": 1.0,
                    "map_long": 1.0,
                    "r1_iou_0_5": 0.5,
                    "r1_iou_0_7": 0.5,
                    "hl_fair_hit1": 1.0,
                    "hl_good_hit1": 0.5,
                    "hl_verygood_hit1": 0.5,
                },
            )
        },
    ),
]
