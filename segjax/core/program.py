"""What a compiled program says of itself, without being executed: its memory, its operations, its communication.

XLA gives the memory of a device and counts operations; which arrays devices exchange is read from the text of the
optimised program (HLO), in which a computation is a block of instructions, `%name = shape opcode(operands), ...`.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.extend.core import Var

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
BITS = {"pred": 8, "token": 0, "opaque": 0}
"""Of the types whose name does not hold their width, as f32 and bf16 do."""
REDUCERS = ("all-reduce", "reduce", "scatter", "select-and-scatter", "sort", "map", "async-update", "async-done")
"""How the opcodes begin whose computation works on two numbers, or was met before."""

SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) (?:\(.*\) -> .*)?\{$")
INSTRUCTION = re.compile(r"^(?:ROOT )?%([\w.-]+) = (.*?[\]})]) ([a-z][\w-]*)\((.*)$")
CALLED = re.compile(r"\b(?:calls|body|condition|to_apply|true_computation|false_computation)=%([\w.-]+)")
BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
METADATA = re.compile(r'metadata=\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\}')
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      arguments: of what comes in.
      results: of what goes out and does not lie in an argument's place.
      temporary: of all that lives in between, at its largest.
    """

    arguments: int
    results: int
    temporary: int

    @property
    def total(self) -> int:
        return self.arguments + self.results + self.temporary


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction with which devices exchange arrays.

    Attributes:
      kind: of KINDS.
      size: bytes on one device of the larger of what goes in and what comes out: the gathered array of an all-gather,
        the array that a reduce-scatter sums, either of the others.
      group: devices that exchange with each other; of a permutation 2.
      times: how often it runs. In a loop whose length the program does not state it is counted once and `exact` is
        False; so is what stands in a branch, which may not be taken.
      source: where it comes from in the traced program.
    """

    kind: str
    size: int
    group: int
    times: int
    exact: bool
    source: str

    @property
    def sent(self) -> int:
        """Bytes that one device sends, all times together, where a ring of devices does it, as bandwidth asks for."""
        others = self.group - 1
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.times * self.size
        return self.times * self.size * (2 if self.kind == "all-reduce" else 1) * others // self.group


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    rest: str  # after the opening bracket: operands, then attributes

    @property
    def attributes(self) -> str:
        return METADATA.sub("", self.rest)

    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.rest.split(")")[0])


@dataclasses.dataclass
class _Runs:
    times: int = 0
    places: int = 0  # of the program from which it is called, a loop being one
    exact: bool = True


def memory(compiled: jax.stages.Compiled) -> Memory:
    """Of one device, as XLA planned it; the framework and the process need more besides."""
    found = compiled.memory_analysis()
    return Memory(
        arguments=found.argument_size_in_bytes,
        results=found.output_size_in_bytes - found.alias_size_in_bytes,
        temporary=found.temp_size_in_bytes,
    )


def flops(compiled: jax.stages.Compiled, text: str | None = None) -> float:
    """Floating-point operations of one device: XLA's count, in which a multiplication and an addition are two.

    XLA counts what a loop repeats once. The matrix products and convolutions of its further passes are added here, as
    far as the program states how many there are; their elementwise operations are not.

    Args:
      text: `compiled.as_text()`, where it is at hand: it can be long.
    """
    computations, entry = _parse(text or compiled.as_text())
    counted = (compiled.cost_analysis() or {}).get("flops", 0.0)
    for name, runs in _runs(computations, entry).items():
        if runs.times > runs.places:
            shapes = {each.name: each.shape for each in computations[name]}
            counted += (runs.times - runs.places) * sum(_product_flops(each, shapes) for each in computations[name])
    return counted


def collectives(text: str) -> list[Collective]:
    """What the devices of a program exchange, in no particular order; what only one device takes part in is left out.

    Args:
      text: of the optimised program, `compiled.as_text()`.
    """
    computations, entry = _parse(text)
    devices = math.prod(int(n) for n in re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text.split("\n", 1)[0]))
    found = []
    for name, runs in _runs(computations, entry).items():
        for each in computations[name]:
            kind = each.opcode.removesuffix("-start")
            if kind in KINDS and (group := _group_size(each.attributes, devices)) > 1:
                label = re.search(r'op_name="([^"]*)"', each.rest)
                source = label.group(1) if label else each.name
                found.append(Collective(kind, _payload(each, kind, group), group, runs.times, runs.exact, source))
    return found


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """({computation: instructions}, name of the one that the program starts with)."""
    computations, current, entry = {}, None, ""
    for line in text.splitlines():
        line = re.sub(r"/\*.*?\*/", "", line.strip())
        if head := COMPUTATION.match(line):
            current = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif current is not None and (found := INSTRUCTION.match(line)):
            current.append(_Instruction(*found.groups()))
    return computations, entry


def _runs(computations: Mapping[str, list[_Instruction]], entry: str) -> dict[str, _Runs]:
    """Of each computation that the entry leads to."""
    runs = defaultdict(_Runs)

    def visit(name: str, times: int, exact: bool) -> None:
        runs[name].times += times
        runs[name].places += 1
        runs[name].exact &= exact
        for each in computations[name]:
            for called, repeated, known in _calls(each):
                visit(called, times * repeated, exact and known)

    visit(entry, 1, True)
    return runs


def _calls(instruction: _Instruction) -> Iterator[tuple[str, int, bool]]:
    """(computation, how often, whether that is known) of what an instruction runs; reducers are of no interest."""
    if instruction.opcode.startswith(REDUCERS):
        return
    attributes = instruction.attributes
    found = TRIPS.search(attributes)
    repeated, known = (int(found.group(1)) if found else 1), bool(found) or instruction.opcode != "while"
    for name in CALLED.findall(attributes):
        yield name, repeated, known and instruction.opcode != "conditional"
    for names in BRANCHES.findall(attributes):
        for name in re.findall(r"%([\w.-]+)", names):
            yield name, 1, instruction.opcode != "conditional"


def _dimensions(shape: str) -> list[int]:
    """Of the first array in the text of a shape."""
    return [int(length) for length in SHAPE.search(shape).group(2).split(",") if length]


def _bytes(shape: str) -> list[int]:
    """Of each array in the text of a shape, which may be a tuple."""
    sizes = []
    for dtype, lengths in SHAPE.findall(shape):
        bits = BITS[dtype] if dtype in BITS else int(re.search(r"\d+", dtype).group())
        sizes.append(-(-math.prod(int(length) for length in lengths.split(",") if length) * bits // 8))
    return sizes


def _group_size(attributes: str, devices: int) -> int:
    """Of the devices that exchange with each other, in any of the ways in which XLA writes its groups."""
    if "source_target_pairs={" in attributes:
        return 2 if re.search(r"\{(\d+),(?!\1\})\d+\}", attributes) else 1
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        lengths = dict(re.findall(r"'([^']*)'=(\d+)", found.group(1)))
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", found.group(2))  # of an axis all, or a part as 'x':(2)4
        return math.prod(int(part or lengths[axis]) for axis, part in axes)
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
        return int(found.group(2))
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(found.group(1).split(","))
    if "replica_groups=" in attributes and "replica_groups={}" not in attributes:
        raise ValueError(f"the replica_groups of a program must be of a known form; received {attributes[:200]}")
    return devices


def _payload(instruction: _Instruction, kind: str, group: int) -> int:
    """Bytes on one device of the larger of operands and results."""
    sizes = _bytes(instruction.shape)
    total = sum(sizes)
    if instruction.opcode == "all-gather-start":  # (operands, results)
        return total * group // (group + 1)
    if instruction.opcode == "collective-permute-start":  # (operand, result, and maybe two numbers)
        return sizes[0]
    return total * group if kind == "reduce-scatter" else total


def _product_flops(instruction: _Instruction, shapes: Mapping[str, str]) -> float:
    """Of a matrix product or a convolution, by XLA's own formula; 0 for any other instruction."""
    if instruction.opcode == "dot":
        left = _dimensions(shapes[instruction.operands()[0]])
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        summed = [left[int(axis)] for axis in axes.group(1).split(",") if axis] if axes else []
        return 2.0 * math.prod(_dimensions(instruction.shape)) * math.prod(summed)
    if instruction.opcode == "convolution":
        image, kernel = (_dimensions(shapes[name]) for name in instruction.operands()[:2])
        return _convolution_flops(instruction.attributes, image, kernel, _dimensions(instruction.shape))
    return 0.0


def _convolution_flops(attributes: str, image: list[int], kernel: list[int], result: list[int]) -> float:
    """Twice the products of a value of the image, not of its padding or of the holes between its values."""
    of_image, of_kernel, of_result = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes).groups()
    window = dict(re.findall(r"(\w+)=([\w-]+)", re.search(r"window=\{([^}]*)\}", attributes).group(1)))

    def each(name: str, default: str) -> list[str]:
        return window[name].split("x") if name in window else [default] * (len(of_result) - 2)

    products = 1
    sides = zip(each("stride", "1"), each("pad", "0_0"), each("lhs_dilate", "1"), each("rhs_dilate", "1"), strict=True)
    for axis, (stride, pad, holes, dilation) in enumerate(sides):
        length = image[of_image.index(str(axis))]
        last, low = (length - 1) * int(holes), int(pad.split("_")[0])
        starts = [place * int(stride) - low for place in range(result[of_result.index(str(axis))])]
        taps = [tap * int(dilation) for tap in range(kernel[of_kernel.index(str(axis))])]
        products *= sum(0 <= s + t <= last and (s + t) % int(holes) == 0 for s in starts for t in taps)
    batches = re.search(r"batch_group_count=(\d+)", attributes)
    products *= image[of_image.index("b")] // (int(batches.group(1)) if batches else 1)
    return 2.0 * products * kernel[of_kernel.index("i")] * result[of_result.index("f")]


def kept_for_gradient(function: Callable, *arguments: Any) -> int:
    """Bytes that reverse-mode differentiation of a traced function by its first argument keeps until it needs them.

    Arguments themselves are not counted, an array that is needed twice once. XLA may keep less than that, where it
    computes something again, and lays what is not needed at the same time in one place.

    Args:
      function: (*arguments) -> (scalar, anything else).
      arguments: pytrees of arrays or ShapeDtypeStructs.
    """

    def backward(first, *others):
        return jax.vjp(lambda first: function(first, *others), first, has_aux=True)[1]

    traced = jax.make_jaxpr(backward)(*arguments).jaxpr
    given = {*traced.invars, *traced.constvars}
    kept = {var for var in traced.outvars if isinstance(var, Var) and var not in given}
    return sum(math.prod(var.aval.shape) * var.aval.dtype.itemsize for var in kept)
