"""A folder of small captioned videos, to try vlmvid on: NAME.mp4, with its captions in NAME.txt, one a line.

    python scripts/make_example_videos.py videos [--count 160] [--seed 0]

Shapes, colours and motions of the synthetic world, two captions each; real H.264 files, the same bytes each time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vlmvid.data.synthetic.dataset import SyntheticDataset, SyntheticOptions

_SIZE = 96  # pixels a side


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the videos; those that are there stay."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--count", type=int, default=160)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args(arguments)
    world = SyntheticOptions(
        seed=asked.seed, num_train=asked.count, num_test_bases=0, num_temporal_pairs=0, image_size=_SIZE
    )
    dataset = SyntheticDataset(world)
    scratch = asked.folder / ".making"
    clips, _ = dataset.clips(scratch)
    for number, clip in enumerate(clips):
        path = asked.folder / f"clip-{number:03d}.mp4"
        if not path.exists():
            dataset.materialise(clip.path, scratch)
            (scratch / clip.path).rename(path)
        path.with_suffix(".txt").write_text("".join(f"{caption}\n" for caption in dict.fromkeys(clip.captions[:2])))
    for folder in (scratch / "train", scratch):
        if folder.is_dir():
            folder.rmdir()
    sys.stderr.write(f"{len(clips)} videos in {asked.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
