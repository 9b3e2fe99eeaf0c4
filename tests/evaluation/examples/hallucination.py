from __future__ import annotations

import json
from pathlib import Path

from tests.evaluation.examples.base import Example

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
EXAMPLES = [
    Example(
        name="pope",
        write=write_pope,
        perfect=dict(zip(POPE_IDS, ["Yes.", "no", "yes", "No, there is none."], strict=True)),
        constant=dict.fromkeys(POPE_IDS, "yes"),
        expected_constant=0.5,
        compat_values={
            "pope": (
                dict(zip(POPE_IDS, ["Yes, there is no doubt.", "Nope.", "Yes. No other.", "NO"], strict=True)),
                # "no doubt" reads as no; Nope and NO read as yes.
                {"accuracy": 0.25, "precision": 1 / 3, "recall": 0.5, "f1": 0.4, "yes_ratio": 0.75},
            )
        },
    ),
]
