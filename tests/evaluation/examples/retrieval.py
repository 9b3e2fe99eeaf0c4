from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.evaluation.examples.base import Example

Pairs = Sequence[tuple[str, Sequence[str]]]


def matrix(text_ids: Sequence[str], video_ids: Sequence[str], values: Any) -> dict[str, Any]:
    return {
        "similarity": np.array(values, dtype=np.float32),
        "text_ids": list(text_ids),
        "video_ids": list(video_ids),
    }


def perfect_of(pairs: Pairs) -> dict[str, Any]:
    """Every correct video first; captions of one video differ, because "averaging" counts ties among them too."""
    videos = list(dict.fromkeys(name for _, names in pairs for name in names))
    values = [[float(video in names) - 0.01 * row for video in videos] for row, (_, names) in enumerate(pairs)]
    return matrix([text for text, _ in pairs], videos, values)


def constant_of(pairs: Pairs) -> dict[str, Any]:
    found = perfect_of(pairs)
    return {**found, "similarity": np.zeros_like(found["similarity"])}


def example(name: str, write: Any, pairs: Pairs, **more: Any) -> Example:
    owner = {text: videos[0] for text, videos in pairs}
    several = any(len(videos) > 1 for _, videos in pairs)
    num_texts = len({text for text, _ in pairs})
    everything = {"t2v_r_at_1": 1.0, "v2t_r_at_1": 1.0}
    compat = {
        "clip4clip": {**everything, "t2v_median_rank": 1.0, "v2t_mean_rank": 1.0},
        "collaborative-experts": {**everything, "t2v_geometric_mean": 1.0},
        "frozen": {**everything, "v2t_mean_rank": 1.0},
        "clip_benchmark": {"t2v_r_at_1": 1.0, "v2t_r_at_1": 1.0},
        "singularity": everything,
    }
    values = {} if several else {key: (perfect_of(pairs), expected) for key, expected in compat.items()}
    assert len(owner) == num_texts
    options = {"recall_k": "1", **more.pop("options", {})}
    return Example(
        name=name,
        write=write,
        perfect=perfect_of(pairs),
        constant=constant_of(pairs),
        expected_constant=0.0,
        compat_values=more.pop("compat_values", values),
        options=options,
        joins_by_id=False,
        unparsable=None,
        **more,
    )


MSRVTT = [("ret0", ["video9770"]), ("ret1", ["video9771"]), ("ret2", ["video7020"])]


def write_msrvtt(folder: Path) -> Path:
    rows = [
        "key,vid_key,video_id,sentence",
        "ret0,msr9770,video9770,a person is connecting something to system",
        'ret1,msr9771,video9771,"a little girl, who does gymnastics"',
        "ret2,msr7020,video7020,a woman creating a fondant baby",
    ]
    (folder / "MSRVTT_JSFUSION_test.csv").write_text("\ufeff" + "\r\n".join(rows) + "\r\n", encoding="utf-8")
    return folder


MSVD = [("mv89_0_9_0", ["mv89_0_9"]), ("mv89_0_9_1", ["mv89_0_9"]), ("fr9_8_14_0", ["fr9_8_14"])]


def write_msvd(folder: Path) -> Path:
    captions = {
        "train_1_2": [["someone", "sings"]],
        "fr9_8_14": [["a", "cat", "jumps"]],
        "mv89_0_9": [["a", "man", "drives"], ["a", "car"]],
    }
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps(captions))
    (folder / "test_list.txt").write_text("mv89_0_9\nfr9_8_14\n")
    (folder / "train_list.txt").write_text("train_1_2\n")
    return folder


DIDEMO = [("54322086@N00_2408598493_274c77d26a.avi", ["54322086@N00_2408598493_274c77d26a.avi"]), ("b.mov", ["b.mov"])]


def write_didemo(folder: Path) -> Path:
    rows = [
        {"video": DIDEMO[0][0], "description": "the cat jumps", "times": [[0, 0], [0, 1]], "annotation_id": 1},
        {"video": "b.mov", "description": "a bus", "times": [[2, 2]], "annotation_id": 2},
        {"video": DIDEMO[0][0], "description": "it leaves", "times": [[3, 4]], "annotation_id": 3},
        {"video": "gone.mov", "description": "not in the list", "times": [[0, 0]], "annotation_id": 4},
    ]
    (folder / "test_data.json").write_text(json.dumps(rows))
    (folder / "test_list.txt").write_text(f"{DIDEMO[0][0]}\nb.mov\n")
    return folder


ACTIVITYNET = [("v_uqiMw7tQ1Cc", ["v_uqiMw7tQ1Cc"]), ("v_bXdq2zI1Ms0", ["v_bXdq2zI1Ms0"])]


def write_activitynet(folder: Path) -> Path:
    document = {
        "v_uqiMw7tQ1Cc": {
            "duration": 55.15,
            "timestamps": [[0.28, 55.15], [13.79, 54.32]],
            "sentences": ["A weight lifting tutorial is given.", "  The coach helps the guy in red."],
        },
        "v_bXdq2zI1Ms0": {"duration": 73.1, "timestamps": [[0, 73.1]], "sentences": ["Three men are standing."]},
    }
    (folder / "val_1.json").write_text(json.dumps(document))
    return folder


LSMDC = [("1004_Juno_00.00.32.161-00.00.35.090", ["1004_Juno_00.00.32.161-00.00.35.090"]), ("x_2", ["x_2"])]


def write_lsmdc(folder: Path) -> Path:
    rows = [
        f'{LSMDC[0][0]}\t00.00.32.161\t00.00.35.090\t00.00.32.000\t00.00.35.000\tSOMEONE says "no, and leaves.',
        "x_2\t00.01.00.000\t00.01.02.000\t00.01.00.000\t00.01.02.000\tShe nods.",
    ]
    (folder / "LSMDC16_challenge_1000_publictect.csv").write_text("\n".join(rows) + "\n")
    return folder


VATEX = [("a_000001_000011_0", ["a_000001_000011"]), ("a_000001_000011_1", ["a_000001_000011"]), ("b_000002_000012_0", ["b_000002_000012"])]  # fmt: skip  # noqa: E501


def write_vatex(folder: Path) -> Path:
    rows = [
        {"videoID": "a_000001_000011", "enCap": ["A man runs.", "Someone runs."], "chCap": ["一个男人在跑步。"]},
        {"videoID": "b_000002_000012", "enCap": ["A dog."], "chCap": ["一只狗。"]},
        {"videoID": "c_000003_000013", "enCap": ["A cat."], "chCap": ["一只猫。"]},
    ]
    (folder / "vatex_validation_v1.0.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (folder / "val_list_split2.txt").write_text("a_000001_000011\nb_000002_000012\n")
    return folder


SSV2 = [("0", ["62211.webm", "63095.webm"]), ("1", ["174825.webm"]), ("2", ["7.webm"])]


def write_ssv2(folder: Path) -> Path:
    rows = [
        {"video": ["62211.webm", "63095.webm"], "caption": "Spinning [something] that quickly stops spinning"},
        {"video": ["174825.webm"], "caption": "Holding [something]"},
        {"video": ["7.webm"], "caption": "Pushing [something] from left to right"},
    ]
    (folder / "ssv2_ret_template_val_small.json").write_text(json.dumps(rows))
    rows[0]["video"] = ["62211.webm"]
    (folder / "ssv2_ret_label_val_small.json").write_text(json.dumps(rows))
    return folder


KARPATHY = [("770337", ["COCO_val2014_000000391895.jpg"]), ("771687", ["COCO_val2014_000000391895.jpg"]), ("772707", ["COCO_val2014_000000060623.jpg"])]  # fmt: skip  # noqa: E501


def karpathy_writer(name: str) -> Any:
    def write(folder: Path) -> Path:
        def image(filename: str, split: str, captions: Sequence[tuple[int, str]]) -> dict[str, Any]:
            sentences = [{"tokens": text.split(), "raw": text, "imgid": 0, "sentid": key} for key, text in captions]
            return {"filepath": "val2014", "filename": filename, "imgid": 0, "split": split, "sentences": sentences}

        images = [
            image("COCO_val2014_000000391895.jpg", "test", [(770337, "A man on a moped. "), (771687, "A man rides.")]),
            image("COCO_val2014_000000522418.jpg", "restval", [(681330, "A woman with a hair net")]),
            image("COCO_val2014_000000060623.jpg", "test", [(772707, "A child holding a flowered umbrella")]),
        ]
        (folder / name).write_text(json.dumps({"images": images, "dataset": "coco"}))
        return folder

    return write


PAIRS = [("t1", ["v1"]), ("t2", ["v3"]), ("t3", ["v3"]), ("t4", ["v4"])]


def write_pairs(folder: Path) -> Path:
    path = folder / "pairs.jsonl"
    lines = [json.dumps({"text_id": text, "video_id": video}) for text, videos in PAIRS for video in videos]
    path.write_text("\n".join(lines) + "\n\n")
    return path


# Section 8 of the reference: the second matrix of ties, by hand from the scripts' rules.
TIED = matrix(["ret0", "ret1", "ret2"], ["video9770", "video9771", "video7020"], [[0.9, 0.9, 0.1], [0.2, 0.8, 0.8], [0.3, 0.2, 0.7]])  # fmt: skip  # noqa: E501
TIED_COMPAT = {
    "clip4clip": (TIED, {"t2v_r_at_1": 0.6, "t2v_mean_rank": 1.4, "v2t_r_at_1": 1 / 3}),
    "collaborative-experts": (TIED, {"t2v_r_at_1": 0.333, "t2v_median_rank": 1.5, "t2v_mean_rank": 1.3}),
    "frozen": (TIED, {"t2v_r_at_1": 1.0, "t2v_mean_rank": 1.0, "v2t_r_at_1": 1 / 3}),
    # The earlier of tied items first: row 0 hits, row 1 hits, both by chance.
    "clip_benchmark": (TIED, {"t2v_r_at_1": 1.0, "t2v_r_at_1_num_tied": 2.0, "v2t_r_at_1": 1 / 3}),
    # The later of tied items first: both miss.
    "singularity": (TIED, {"t2v_r_at_1": 0.3333, "t2v_r_at_5": 1.0, "v2t_r_at_1": 0.3333}),
}

EXAMPLES = [
    example("msrvtt", write_msrvtt, MSRVTT, compat_values=TIED_COMPAT),
    example("msvd", write_msvd, MSVD),
    example("didemo", write_didemo, DIDEMO),
    example("activitynet_captions", write_activitynet, ACTIVITYNET),
    example("lsmdc", write_lsmdc, LSMDC),
    example("vatex", write_vatex, VATEX, options={"list": "val_list_split2.txt"}),
    example("ssv2", write_ssv2, [(text, videos[:1]) for text, videos in SSV2]),
    example("coco_karpathy", karpathy_writer("dataset_coco.json"), KARPATHY),
    example("flickr30k_karpathy", karpathy_writer("dataset_flickr30k.json"), KARPATHY),
    example("retrieval", write_pairs, PAIRS),
]
