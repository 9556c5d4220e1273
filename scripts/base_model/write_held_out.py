"""Writes the held-out concepts as folders of pictures: a catalogue for `ti-jax invert-many` and the benchmarks.

    python scripts/base_model/write_held_out.py --output runs/held_out
    ti-jax invert-many runs/held_out --output runs/held_out_words

Each of the 64 has five drawings by hands that the bundled model knows, and a word to begin with (`initializer.txt`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dataset import read_dataset
from PIL import Image
from subjects import concept_subjects


def main() -> None:
    """Reads the drawings and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("runs/base_model/data"), help="that build_data.py wrote")
    parser.add_argument("--output", type=Path, default=Path("runs/held_out"))
    options = parser.parse_args()
    for subject in concept_subjects(read_dataset(options.data_dir)):
        folder = options.output / subject.name
        folder.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(subject.shown):
            Image.fromarray(picture).save(folder / f"{i}.png")
        (folder / "initializer.txt").write_text(subject.initializer + "\n")


if __name__ == "__main__":
    main()
