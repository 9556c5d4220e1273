"""Peak memory of the host while a model is loaded, over that of a process that only imports.

    python scripts/bench/random_model.py sd-1.5 FOLDER && python scripts/bench/loading.py FOLDER

Each is measured in a process of its own, as the largest resident set that the system saw. On a CPU the host holds the
model too: the goal is the model and one tensor.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

_IMPORT = """
import json, resource, sys
import jax, ti_jax, ti_jax.pipeline, transformers
jax.numpy.zeros(1).block_until_ready()
facts = {}
"""
_LOAD = """
networks = ti_jax.load(sys.argv[1], dtype=sys.argv[2]).networks
leaves = jax.block_until_ready(jax.tree.leaves(networks))
facts = {"model_bytes": sum(leaf.nbytes for leaf in leaves), "largest_bytes": max(leaf.nbytes for leaf in leaves)}
"""
_PEAK = """
print(json.dumps({**facts, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def main() -> None:
    """Reads the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--output", type=Path, default=Path("loading.json"))
    options = parser.parse_args()
    empty, loaded = (
        _measured(program, options.model, options.dtype) for program in (_IMPORT + _PEAK, _IMPORT + _LOAD + _PEAK)
    )
    over = loaded["peak_bytes"] - empty["peak_bytes"]
    facts = {"dtype": options.dtype, "import": empty, "load": loaded, "over_bytes": over}
    options.output.write_text(json.dumps(facts, indent=2) + "\n")
    sizes = {"model": loaded["model_bytes"], "largest tensor": loaded["largest_bytes"], "peak over import": over}
    print(", ".join(f"{name} {size / 1e9:.3f} GB" for name, size in sizes.items()))


def _measured(program: str, model: Path, dtype: str) -> dict[str, int]:
    command = [sys.executable, "-c", program, str(model), dtype]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
