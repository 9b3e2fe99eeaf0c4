from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

from tests.evaluation.examples.base import Example

# With one reference per item that says the same, a perfect caption has CIDEr-D 10.
GUITAR, DOG = "A man is playing a guitar.", "A dog runs on the grass!"
PERFECT = {"1": "a man is playing a guitar", "2": "a dog runs on the grass"}
# Section 8 of the reference: CIDEr-D, BLEU-1 to 4, ROUGE-L of these two candidates.
VECTOR_REFERENCES = {
    "1": ["A man plays a guitar.", "a man is playing the guitar"],
    "2": ["A dog is running on grass.", "The dog runs across the grass"],
}
VECTOR = {
    "cider_d[pyptb-1]": (4.4148124653 + 2.625) / 2,
    "bleu_1[pyptb-1]": 1.0,
    "bleu_2[pyptb-1]": 0.8366600265,
    "bleu_3[pyptb-1]": 0.5593444710,
    "bleu_4[pyptb-1]": 0.4132584138,
    "rouge_l[pyptb-1]": 0.75,
}


def dump(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return path


def coco_document(references: dict[str, list[str]]) -> dict[str, Any]:
    pairs = [(image, text) for image, texts in references.items() for text in texts]
    return {
        "info": {"year": 2014},
        "images": [{"id": int(image), "file_name": f"COCO_val2014_{int(image):012}.jpg"} for image in references],
        "annotations": [
            {"image_id": int(image), "id": number, "caption": text} for number, (image, text) in enumerate(pairs)
        ],
    }


def write_own(folder: Path) -> Path:
    return dump(folder / "references.json", coco_document(VECTOR_REFERENCES))


def write_coco(folder: Path) -> Path:
    rows = [(1, "test", GUITAR), (2, "test", DOG), (3, "train", "not asked"), (4, "restval", "not asked")]
    images = [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{number:012}.jpg",
            "imgid": number - 1,
            "cocoid": number,
            "split": split,
            "sentids": [number],
            "sentences": [{"tokens": text.lower().split(), "raw": text, "imgid": number - 1, "sentid": number}],
        }
        for number, split, text in rows
    ]
    dump(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return folder


def write_msrvtt(folder: Path) -> Path:
    videos = [{"video_id": f"video{number}", "split": "test", "category": 9} for number in (7010, 7011)]
    # The archive of 2017 holds the training sentences too; a blank caption beside a good one is the crowd's.
    sentences = [
        {"caption": GUITAR.lower(), "video_id": "video7010", "sen_id": 1},
        {"caption": " ", "video_id": "video7011", "sen_id": 2},
        {"caption": DOG, "video_id": "video7011", "sen_id": 3},
        {"caption": "not asked", "video_id": "video12", "sen_id": 4},
    ]
    document = {"info": {}, "videos": [*videos, {"video_id": "video12", "split": "train"}], "sentences": sentences}
    dump(folder / "test_videodatainfo.json", document)
    return folder


def write_msvd(folder: Path) -> Path:
    names = ["mv89psg6zh4_33_46", "-wa0umYJVGg_271_276"]
    (folder / "test_list.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    captions = {names[0]: [GUITAR[:-1].split()], names[1]: [DOG[:-1].split()], "elsewhere": [["not", "asked"]]}
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps(captions, protocol=2))
    return folder


def write_vatex(folder: Path) -> Path:
    rows = [
        {"videoID": "Ptf_2VRj-V0_000122_000132", "enCap": [GUITAR], "chCap": ["一个男人在弹吉他"]},
        {"videoID": "jRCr_Sxzj1k_000002_000012", "enCap": [DOG], "chCap": []},
    ]
    dump(folder / "vatex_public_test_english_v1.1.json", rows)
    return folder


def perfect_for(*names: str) -> dict[str, str]:
    return dict(zip(names, PERFECT.values(), strict=True))


def compat(names: tuple[str, ...], cider: float = 10.0) -> dict[str, tuple[dict[str, Any], dict[str, float]]]:
    best = {"cider_d[pyptb-1]": cider, "bleu_4[pyptb-1]": 1.0, "rouge_l[pyptb-1]": 1.0}
    return {"coco-caption": (perfect_for(*names), best)}


MSRVTT = ("video7010", "video7011")
MSVD = ("mv89psg6zh4_33_46", "-wa0umYJVGg_271_276")
VATEX = ("Ptf_2VRj-V0_000122_000132", "jRCr_Sxzj1k_000002_000012")
# By the raw strings "guitar." is not "guitar", "A" not "a" and "grass!" not "grass": 4 of 6 and 4 of 6 words match.
RAW = {"bleu_1[whitespace]": 8 / 12, "rouge_l[whitespace]": 8 / 12}
NO_JAVA = {"java": "no"}  # starting METEOR takes seconds
SILENT: dict[str, Any] = {"constant": {"1": "xylophone", "2": "xylophone"}, "expected_constant": 0.0}

EXAMPLES = [
    Example(
        name="caption",
        write=write_own,
        perfect=PERFECT,
        perfect_value=VECTOR["cider_d[pyptb-1]"],
        options=NO_JAVA,
        compat_values={
            "coco-caption": (PERFECT, VECTOR),
            # No raw reference has "a" twice or begins with "a dog": 5 of 6 words match in both.
            "vlmevalkit": (PERFECT, {"bleu_1[whitespace]": 10 / 12}),
        },
        unparsable=None,
        **SILENT,
    ),
    Example(
        name="coco_caption",
        write=write_coco,
        perfect=PERFECT,
        perfect_value=10.0,
        compat_values={**compat(("1", "2")), "vlmevalkit": (PERFECT, RAW)},
        options=NO_JAVA,
        unparsable=None,
        **SILENT,
    ),
    *(
        Example(
            name=name,
            write=write,
            perfect=perfect_for(*ids),
            perfect_value=10.0,
            constant=dict.fromkeys(ids, "xylophone"),
            expected_constant=0.0,
            compat_values=compat(ids, cider),
            options=NO_JAVA,
            unparsable=None,
        )
        for name, write, ids, cider in (
            # COCO's scorer takes the blank reference of video7011 for one: that video has half of 10.
            ("msrvtt_caption", write_msrvtt, MSRVTT, 7.5),
            ("msvd_caption", write_msvd, MSVD, 10.0),
            ("vatex_caption", write_vatex, VATEX, 10.0),
        )
    ),
]


def write_chair(folder: Path) -> Path:
    """Two pictures of COCO's val2014 with the authors' names for seven objects, two spaces in a line included."""
    (folder / "synonyms.txt").write_text(
        "person, girl, man, woman, people\nmotorcycle, scooter,  motor bike, motor cycle\nbus, minibus\n"
        "dog, puppy, hound\ncell phone, phone, iPhone\nwine glass\nchair, seat\ntoilet\n",
        encoding="utf-8",
    )
    names = ["person", "motorcycle", "bus", "dog", "cell phone", "wine glass", "chair", "toilet"]
    found = [(42, "dog"), (42, "dog"), (73, "motorcycle"), (73, "person")]
    images = [{"id": image, "file_name": f"COCO_val2014_{image:012}.jpg"} for image in (42, 73)]
    dump(
        folder / "instances_val2014.json",
        {
            "images": images,
            "categories": [{"id": 10 + number, "name": name} for number, name in enumerate(names)],
            "annotations": [{"image_id": image, "category_id": 10 + names.index(name)} for image, name in found],
        },
    )
    captions = [
        {"image_id": 42, "id": 1, "caption": "A puppy beside some wine glasses."},
        {"image_id": 73, "id": 2, "caption": "A man parks his bike near a phone."},
    ]
    dump(folder / "captions_val2014.json", {"images": images, "annotations": captions})
    return folder


CHAIR_ANSWERS = {"42": "A dog, two puppies and a bus.", "73": "People on scooters with an iPhone and a wine glass."}
EXAMPLES += [
    Example(
        name="chair",
        write=write_chair,
        perfect={"42": "A dog near a wine glass.", "73": "A woman and her motor bike."},
        perfect_value=0.0,
        # 42 has no person, 73 has one.
        constant={"42": "a man", "73": "a man"},
        expected_constant=0.5,
        compat_values={
            # The script reads "bus" as "bu" and knows no "iphone": of dog, dog, person, motorcycle and wine glass one,
            # the glass of 73, is not there. There are 2 + 3 objects, all but the phone and the glass of 42 are named.
            "chair": (CHAIR_ANSWERS, {"chair_s": 0.5, "chair_i": 1 / 5}),
            "chair-standalone": (CHAIR_ANSWERS, {"chair_s": 0.5, "chair_i": 1 / 5, "recall": 3 / 5}),
        },
        unparsable=None,
    ),
]
