"""TVBench: ten tasks in MVBench's format that text and single frames do not solve (arXiv 2410.07752)."""

from __future__ import annotations

from vlmvid.evaluation.answers.choice_lmms import tvbench_letter
from vlmvid.evaluation.benchmarks.qa.mvbench import COLUMNS, Task, benchmark_of_tasks, lmms_eval
from vlmvid.evaluation.scoring.base import AnnotationFile
from vlmvid.evaluation.scoring.choices import letter_rating

TASKS = (
    Task("Action Count", "action_count"),
    Task("Object Count", "object_count"),
    Task("Action Sequence", "action_sequence", bound=True),
    Task("Object Shuffle", "object_shuffle"),
    Task("Scene Transition", "scene_transition"),
    Task("Action Localization", "action_localization", bound=True),
    Task("Action Antonym", "action_antonym"),
    Task("Unexpected Action", "unexpected_action"),
    Task("Egocentric Sequence", "egocentric_sequence"),
    Task("Moving Direction", "moving_direction"),
)
FILE = AnnotationFile("action_count.json", COLUMNS, "https://huggingface.co/datasets/FunAILab/TVBench (json)")


BENCHMARK = benchmark_of_tasks(
    "tvbench",
    "TVBench",
    "arXiv 2410.07752",
    TASKS,
    FILE,
    lmms_eval(
        "tvbench",
        "tvbench_acc",
        "the first letter that stands alone in any case, else the first character, so that cat is C, else the only "
        "option whose text occurs",
        lambda raw, item: letter_rating(tvbench_letter(raw, item.choices), item),
    ),
)
