"""What a compiled program moves and exchanges, read in its text: XLA's own count knows neither loops nor GPUs.

The bytes of an instruction are those of its operands and of its result, as XLA counts them: what a fusion or a kernel
keeps inside is free, and of what it only takes a slice of, the slice counts. A loop's body counts as often as it runs.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"(?:ENTRY )?%([\w.-]+) \(.*\{$")
_LINE = re.compile(r"\s+(?:ROOT )?%([\w.-]+) = (.*)")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation|branch_computations)="
    r"(?:%([\w.-]+)|\{([^}]*)\})"
)
_NAME = re.compile(r"%([\w.-]+)")
# These only name what is there already; what is asynchronous is counted where it starts.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
_COLLECTIVES = {
    "all-reduce",
    "all-gather",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
    "reduce-scatter",
}
_SLICES = {"dynamic-slice", "slice", "gather"}


@dataclass(frozen=True)
class Traffic:
    """Bytes moved."""

    total: int = 0
    """Operands and results of all kernels."""
    memory: int = 0
    """Of these, what does not lie in memory on the chip."""

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.total + other.total, self.memory + other.memory)

    def __mul__(self, times: int) -> Traffic:
        return Traffic(self.total * times, self.memory * times)


@dataclass(frozen=True)
class Instruction:
    """A line of a program."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    rest: str
    """Attributes."""

    @property
    def called(self) -> list[str]:
        """Computations that it runs."""
        return [name for one, many in _CALLED.findall(self.rest) for name in ([one] if one else _NAME.findall(many))]

    def computation(self, role: str) -> str:
        """The computation that it runs as `role`, such as `body`."""
        found = re.search(rf"\b{role}=%([\w.-]+)", self.rest)
        assert found is not None, (role, self)
        return found[1]


@dataclass
class Computation:
    """Lines that run one after another."""

    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The last, whose value is that of all."""
        return next(reversed(self.instructions.values()))

    @functools.cached_property
    def users(self) -> Mapping[str, list[Instruction]]:
        """Who reads a value."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                users[operand].append(instruction)
        return users

    @functools.cached_property
    def parameters(self) -> list[Instruction]:
        """In order."""
        found = [i for i in self.instructions.values() if i.operation == "parameter"]
        return sorted(found, key=lambda parameter: int(parameter.rest))


class Program:
    """A compiled module.

    Args:
        text: as `compiled.as_text()` gives it.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, Computation] = {}
        current = Computation()
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations[header[1]] = Computation()
                if line.startswith("ENTRY"):
                    self.entry = header[1]
            elif found := _LINE.match(line):
                instruction = _instruction(found[1], found[2])
                current.instructions[instruction.name] = instruction

    def branch(self, scope: str) -> str:
        """The largest branch of a condition whose instructions come from a named scope of jax.

        Args:
            scope: its name.

        Returns:
            the computation's name.
        """
        label = re.compile(rf'op_name="[^"]*/{re.escape(scope)}[/"]')
        branches = [
            name
            for computation in self.computations.values()
            for instruction in computation.instructions.values()
            if instruction.operation == "conditional"
            for name in instruction.called
            if any(label.search(inner.rest) for inner in self.computations[name].instructions.values())
        ]
        return max(branches, key=lambda name: self.traffic(name).total)

    def traffic(self, computation: str) -> Traffic:
        """What a computation moves, once run; of a condition's branches the one that moves most is taken."""
        total = Traffic()
        for instruction in self.computations[computation].instructions.values():
            total += self._traffic_of(self.computations[computation], instruction)
        return total

    def collectives(self, computation: str) -> dict[str, dict[str, int]]:
        """What devices exchange while a computation runs once.

        Returns:
            `{"count": ..., "bytes": ...}` by kind, the bytes those of a device's results.
        """
        found: dict[str, dict[str, int]] = {}
        for instruction, times in self._all(computation):
            kind = instruction.operation.removesuffix("-start")
            if kind in _COLLECTIVES:
                entry = found.setdefault(kind, {"count": 0, "bytes": 0})
                entry["count"] += times
                entry["bytes"] += times * _size(instruction.shape).total
        return found

    def _all(self, computation: str, times: int = 1) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that runs, and how often."""
        for instruction in self.computations[computation].instructions.values():
            yield instruction, times
            inner = times * (self._trips(instruction) if instruction.operation == "while" else 1)
            for name in instruction.called:
                yield from self._all(name, inner)

    def _traffic_of(self, place: Computation, instruction: Instruction) -> Traffic:
        operation = instruction.operation
        if operation in _FREE or operation.endswith("-done"):
            return Traffic()
        if operation == "while":
            body, condition = (self.traffic(instruction.computation(role)) for role in ("body", "condition"))
            return (body + condition) * self._trips(instruction)
        if operation == "conditional":
            return max(map(self.traffic, instruction.called), key=lambda traffic: traffic.total)
        if operation in ("call", "async-start"):
            return self.traffic(instruction.called[0])
        if operation in ("copy-start", "slice-start"):  # whose result names the operand too
            copy = _elements(instruction.shape)[0 if operation == "copy-start" else 1]
            return _size(copy) + _part(place.instructions[instruction.operands[0]].shape, _size(copy).total)
        if operation in _SLICES:
            return _size(instruction.shape) * 2
        if operation == "dynamic-update-slice":
            return _size(place.instructions[instruction.operands[1]].shape) * 2
        if operation == "fusion":
            return self._traffic_of_fusion(place, instruction)
        return sum((_size(place.instructions[name].shape) for name in instruction.operands), _result(instruction))

    def _traffic_of_fusion(self, place: Computation, instruction: Instruction) -> Traffic:
        inside = self.computations[instruction.called[0]]
        total = self._written(inside, inside.root, instruction.shape)
        for parameter, operand in zip(inside.parameters, instruction.operands, strict=True):
            total += _part(place.instructions[operand].shape, self._read(inside, parameter))
        return total

    def _read(self, inside: Computation, value: Instruction) -> int | None:
        """Bytes of a value that are looked at within a fusion; None for all of them."""
        total = 0
        for user in inside.users[value.name]:
            first = user.operands[0] == value.name
            if user.operation == "bitcast":
                parts = [self._read(inside, user)]
            elif user.operation in _SLICES and first:
                parts = [_size(user.shape).total]
            elif user.operation == "dynamic-update-slice" and first:
                parts = [0]  # it is written into, and not read
            elif user.operation == "fusion":
                nested = self.computations[user.called[0]]
                places = [i for i, operand in enumerate(user.operands) if operand == value.name]
                parts = [self._read(nested, nested.parameters[i]) for i in places]
            else:
                return None
            for part in parts:
                if part is None:
                    return None
                total += part
        return total

    def _written(self, inside: Computation, root: Instruction, shape: str) -> Traffic:
        """Bytes of a fusion's result that are new: all, but where a slice of an operand is replaced."""
        if root.operation == "tuple":
            parts = zip(root.operands, _elements(shape), strict=True)
            return sum((self._written(inside, inside.instructions[name], part) for name, part in parts), Traffic())
        if root.operation == "dynamic-update-slice":
            return _part(shape, _size(inside.instructions[root.operands[1]].shape).total)
        return _size(shape)

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs; once where that is not known, as of a chunk of steps."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known[1])
        inside = [i for i, _ in self._all(loop.computation("condition"))]
        limits = [int(i.rest) for i in inside if i.operation == "constant" and i.rest.isdigit()]
        counts_up = any(i.operation == "compare" and "direction=LT" in i.rest for i in inside)
        return limits[0] if counts_up and len(limits) == 1 else 1


def _instruction(name: str, text: str) -> Instruction:
    """From what stands behind `=`: shape, operation, operands in brackets, attributes."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].strip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    operation, inside = rest[:opening], rest[opening + 1 : closing]
    # What a parameter or a constant has in brackets is no operand.
    literal = operation in ("parameter", "constant")
    operands = () if literal else tuple(_NAME.findall(inside))
    return Instruction(name, shape, operation, operands, inside if literal else rest[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    """Where the bracket closes that opens at a place."""
    depth = 0
    for place in re.finditer(r"[()]", text[opening:]):
        depth += 1 if place[0] == "(" else -1
        if depth == 0:
            return opening + place.start()
    raise ValueError(f"unbalanced brackets: {text[:200]}")


def _elements(shape: str) -> list[str]:
    """The arrays of a tuple, those of tuples in it too."""
    return [found[0] for found in _ARRAY.finditer(shape)]


def _size(shape: str) -> Traffic:
    """Bytes of an array or a tuple, with the padding to whole tiles that a TPU's layout has."""
    total = memory = 0
    for kind, sides, layout in _ARRAY.findall(shape):
        lengths = [int(side) for side in sides.split(",") if side]
        order = [int(axis) for axis in re.findall(r"\d+", layout.split(":")[0])]
        tile = re.search(r"T\(([\d,]+)\)", layout)
        sizes = [int(side) for side in tile[1].split(",")] if tile else []
        for axis, side in zip(order, reversed(sizes), strict=False):
            lengths[axis] = -(-lengths[axis] // side) * side
        bits = _BITS.get(kind) or int((re.search(r"\d+", kind) or ["0"])[0])
        size = -(-math.prod(lengths) * bits // 8)
        total += size
        memory += 0 if re.search(r"S\(\d+\)", layout) else size
    return Traffic(total, memory)


def _part(shape: str, size: int | None) -> Traffic:
    """So many bytes of an array; all if None."""
    whole = _size(shape)
    if size is None or size >= whole.total:
        return whole
    return Traffic(size, size if whole.memory else 0)


def _result(instruction: Instruction) -> Traffic:
    """Bytes of a result, less the scratch space that a library asks for, the last of several results."""
    arrays = _elements(instruction.shape)
    if instruction.operation == "custom-call" and len(arrays) > 1 and re.match(r"[us]8\[\d+\]", arrays[-1]):
        arrays.pop()
    return sum(map(_size, arrays), Traffic())
