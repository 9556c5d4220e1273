"""`ti-jax plan`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from ti_jax.cli.common import Common, in_output
from ti_jax.config import InversionConfig

_GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """Compile a run for hardware that is not here: does it fit, what bounds it.

    --model takes an architecture too, without weights: sd-1.5, sd-2.1, sd-2.1-base, sdxl or ldm.
    """

    topology: str
    """What one host has: v5e-1, v5e-4, v5e-8, v6e-1, v6e-4, v6e-8, v4-8, v5p-8, h200, h100, a100, a100-40, l4, t4, or
    h100x8 and the like."""
    slots: int = 8
    """Concepts learned at a time, as of invert-many."""
    quick: bool = False
    """Compile once, and do not look for the most slots that fit."""
    common: Annotated[Common, tyro.conf.arg(name="")] = field(default_factory=Common)
    settings: Annotated[InversionConfig, tyro.conf.arg(name="")] = field(default_factory=InversionConfig)

    def run(self) -> None:
        """Compiles and prints the costs."""
        from ti_jax.files import write_text
        from ti_jax.planning.apart import plan

        costs = plan(
            self.common.model,
            self.topology,
            self.settings,
            slots=self.slots,
            search=not self.quick,
            dtype=self.common.dtype,
            options={
                "variant": self.common.variant,
                "revision": self.common.revision,
                "prediction_type": self.common.prediction_type,
                "config": self.common.model_config,
                "tokenizer": self.common.tokenizer,
            },
            debug=self.common.debug,
        )
        print(json.dumps(costs) if self.common.json else "\n".join(_lines(costs)))
        if self.common.output:
            write_text(in_output(self.common, "plan.json"), json.dumps(costs, indent=2) + "\n")


def _lines(costs: dict[str, Any]) -> list[str]:
    """For people."""
    room, peak = costs["device_bytes"] / _GIB, costs["peak_bytes"]
    used = "more than there is" if peak is None else f"{peak / _GIB:.2f} GiB"
    seconds = {name: _milliseconds(costs[f"{name}_seconds"]) for name in ("arithmetic", "memory", "bound")}
    return [
        f"{costs['model']} on {costs['topology']}: {costs['devices']} device(s), {costs['slots']} slots, batch "
        f"{costs['batch_size']}, {costs['resolution']} pixels, {costs['dtype']}",
        f"fits            {'yes' if costs['fits'] else 'no'}: {used} of {room:.2f} GiB on each device",
        f"a step          {_scaled(costs['flops'], 1e12)} TFLOP and {_scaled(costs['memory_bytes'], 1e9)} GB of its "
        f"memory for each device; {_scaled(costs['bytes_accessed'], 1e9)} GB with what stays on the chip",
        f"at best         {seconds['bound']} a step, bound by {costs['bound'] or 'what is not known'} "
        f"(arithmetic {seconds['arithmetic']}, memory {seconds['memory']})",
        f"collectives     {_exchanged(costs['collectives'])}",
        *([] if costs["slots_that_fit"] is None else [f"slots that fit  {costs['slots_that_fit']}"]),
        f"({costs['source']})",
    ]


def _scaled(number: int | float | None, unit: float) -> str:
    return "?" if number is None else f"{number / unit:.3g}"


def _milliseconds(seconds: float | None) -> str:
    return f"{_scaled(seconds, 1e-3)} ms"


def _exchanged(collectives: dict[str, dict[str, int]] | None) -> str:
    if collectives is None:
        return "?"
    kinds = [f"{entry['count']} {kind} of {entry['bytes']} bytes" for kind, entry in collectives.items()]
    return ", ".join(kinds) or "none"
