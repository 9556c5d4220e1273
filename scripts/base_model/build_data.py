"""Builds the data set of drawings that the bundled model is trained on.

    python scripts/base_model/build_data.py --output runs/base_model/data

Fetches packages of the npm registry (`npm pack`, 33 MB), draws their icons (resvg, about a minute), and writes a data
set of tensorflow-datasets in ArrayRecord files. Wants the extra `[data]`, and npm. Whose drawings they are, and under
which licences: `ti_jax/bundled/NOTICE.md`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path

from dataset import SPLITS, EmojiDrawings, read_dataset
from packages import Packages

_EACH_SEEN = {
    "fluent-3d": 1210,
    "fluent-flat": 1215,
    "fluent-mono": 1215,
    "noto": 1237,
    "twemoji": 1237,
    "emojitwo": 889,
}
EXPECTED = {"train": _EACH_SEEN, "held_out": dict.fromkeys(_EACH_SEEN, 73) | {"blob": 960, "fxemoji": 766}}
"""Drawings in each split, by style: 64 concepts and nine characters are held out in each, and two styles whole."""

logger = logging.getLogger(__name__)


def main() -> int:
    """Builds, and checks the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/base_model/data"))
    parser.add_argument("--packages", type=Path, help="folder of the packages; packages/ in the output if not given")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    packages = Packages(options.packages or options.output / "packages")
    packages.fetch()
    EmojiDrawings(packages=packages, data_dir=str(options.output)).download_and_prepare()
    counts = {
        split: dict(Counter(style for style, _ in read_dataset(options.output, split).images)) for split in SPLITS
    }
    for split, by_style in counts.items():
        logger.info("%s: %s", split, by_style)
    if counts != EXPECTED:
        logger.error("there should be %s", EXPECTED)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
