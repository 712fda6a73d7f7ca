"""A machine for the pickles inside PyTorch's files, for those opcodes and names alone that tensors need.

What `torch.save` writes for a state dict takes some 30 of the pickle's opcodes and a dozen names. The machine imports
nothing and calls nothing that a file names: a tensor becomes a `Tensor`, the place of its values in a storage.
"""

import io
import pickletools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAX_STEPS = 5_000_000
"""Opcodes of a pickle; a tensor takes about 40."""

DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
MODULES = ("torch", "torch.cuda")
"""Where those classes lie; files from before PyTorch 0.4 name those of the GPU."""


class Class(NamedTuple):
    """A class or function that a pickle names. It is never looked up, only compared with the names known here."""

    name: str


class Storage(NamedTuple):
    key: str
    dtype: np.dtype
    count: int


class Tensor(NamedTuple):
    """A tensor whose storage may come later in the file."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


ORDERED_DICT, SIZE = "collections OrderedDict", "torch Size"
TENSOR, TENSOR_V1 = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"
PARAMETER = "torch._utils _rebuild_parameter"
STORAGES = {f"{module} {name}": np.dtype(dtype) for module in MODULES for name, dtype in DTYPES.items()}
GLOBALS = {ORDERED_DICT, SIZE, TENSOR, TENSOR_V1, PARAMETER, *STORAGES}


class Machine:
    """Runs the pickles that torch.save writes for tensors, numbers, text, tuples, lists and dicts.

    Work and memory are bounded by MAX_STEPS and the pickle's length: an opcode does one step, or as many as there are
    values that other opcodes have pushed. `storages` holds the storages that were named.
    """

    def __init__(self):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.copied = 0

    def run(self, file: io.BytesIO) -> Any:
        """The value of the pickle that starts here; the file stands after it. Raises ValueError, or whatever a
        damaged pickle leads to (`segjax.convert.read` turns it into a ValueError)."""
        for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if step + self.copied > MAX_STEPS:
                raise ValueError(f"its pickle must take at most {MAX_STEPS} steps")
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name])
            elif opcode.name in LITERALS:
                self.stack.append(argument)
            elif opcode.name in ("PROTO", "FRAME"):
                pass
            elif opcode.name in ACTIONS:
                ACTIONS[opcode.name](self, argument)
            else:
                raise ValueError(f"its pickle uses {opcode.name}, which a file of tensors does not need")
        raise ValueError("its pickle has no end")

    def popped_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("its pickle is damaged")
        self.stack[len(self.stack) - count :] = [tuple(self.stack[len(self.stack) - count :])]

    def update(self, items: list[Any]) -> None:
        """SETITEMS: key, value, key, value, ... into the dict below them."""
        self.fill(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    @staticmethod
    def fill(target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        if type(target) is not dict:
            raise ValueError("its pickle is damaged: items are set of what is no dict")
        for key, value in pairs:
            if type(key) not in (str, int):  # the hash of nested tuples can take for ever
                raise ValueError(f"keys must be text or whole numbers; received a {type(key).__name__}")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("its pickle is damaged: values are appended to what is no list")
        self.stack[-1].extend(items)

    def name(self, module: Any, name: Any) -> None:
        # Text alone: to print nested tuples can take for ever.
        full = f"{module} {name}" if type(module) is type(name) is str else "something without a name"
        if full not in GLOBALS:
            raise ValueError(
                f"it names {full.replace(' ', '.', 1)[:80]!r}, which is no part of a tensor, and nothing of it was run."
                " Only state dicts are read: where you trust the file, open it with PyTorch and save model.state_dict()"
            )
        self.stack.append(Class(full))

    def reduce(self) -> None:
        """A call: of the few names that tensors and their dicts need, each done here."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Class or type(arguments) is not tuple:
            raise ValueError("its pickle is damaged: a call of what is no function")
        name = function.name
        if name == ORDERED_DICT:
            value: Any = {}
            if arguments:  # Python 2 gives its items here
                (items,) = arguments
                self.copied += len(items)  # a step each, since it can be the same list again and again
                self.fill(value, items)
        elif name == SIZE:
            (value,) = arguments
        elif name in (TENSOR, TENSOR_V1):
            storage, offset, shape, strides, *rest = arguments
            # requires_grad, hooks, and since 2.0 flags: conj and neg mean other values than those that are stored.
            if type(storage) is not Storage or any(rest[2:]):
                raise ValueError("a tensor must have a storage, and no flags such as conj or neg")
            value = Tensor(storage, offset, shape, strides)
        elif name == PARAMETER:
            value = arguments[0]
        else:
            raise ValueError(f"{name!r} is not called in a file of tensors")
        self.stack.append(value)

    def persistent(self) -> None:
        """("storage", class, key, device, number of values) and, in old files, a view into it."""
        kind, storage_class, key, _, count, *view = self.stack.pop()
        dtype = STORAGES.get(storage_class.name) if type(storage_class) is Class else None
        if kind != "storage" or dtype is None or any(view) or (type(key), type(count)) != (str, int) or count < 0:
            raise ValueError("a storage must have a known type, a name and a number of values, and be no view")
        storage = Storage(key, dtype, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key[:40]!r} must have one type and size; it has two")
        self.stack.append(storage)

    def build(self) -> None:
        """The state of an object: a state dict's `_metadata`, which is not needed."""
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise ValueError("its pickle gives a state to what is no dict")


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LITERALS = set(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING".split()
)
ACTIONS: dict[str, Callable[[Machine, Any], Any]] = {
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.popped_to_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "SETITEM": lambda m, _: m.update([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.update(m.popped_to_mark()),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.popped_to_mark()),
    "BINPUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "LONG_BINPUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "BINGET": lambda m, index: m.stack.append(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.stack.append(m.memo[index]),
    "GLOBAL": lambda m, argument: m.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(m.stack.pop(-2), m.stack.pop()),
    "REDUCE": lambda m, _: m.reduce(),
    "BINPERSID": lambda m, _: m.persistent(),
    "BUILD": lambda m, _: m.build(),
}
