"""A pickle machine that makes plain values only: numbers, texts, tuples, lists, dicts, and what its caller lends it.

It is not Python's: that one calls what the pickle names, makes room for as many values as the pickle says, and hashes
whatever it is told to. Here an opcode that a state dict of PyTorch does not need is an error, a name is looked up among
those that were lent, and keys are texts and integers. Python's `pickletools` takes the bytes apart; it runs nothing.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

from .errors import FormatError

Lent = Mapping[tuple[str, str], Any]
"""What the pickle may name (module, name), and what stands in its place; functions among these may be called."""

_VALUES = frozenset(
    ["BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING",
     "SHORT_BINSTRING"]
)  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PASSED_OVER = frozenset(["PROTO", "FRAME"])
_ACTS = frozenset(
    ["MARK", "TUPLE", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT",
     "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"]
)  # fmt: skip


def load(file: IO[bytes], *, lent: Lent, persistent: Callable[[Any], Any], most: int) -> Any:
    """The next pickle of a file, which is left behind it.

    Args:
        file: it can seek.
        lent: what it may name.
        persistent: value of a persistent id.
        most: bytes that the pickle may have.

    Raises:
        FormatError: it names something else, or does what no state dict needs.
        ValueError, IndexError, KeyError: it is damaged.
    """
    start = file.tell()
    head = file.read(most)
    machine = _Machine(lent, persistent)
    for opcode, argument, place in pickletools.genops(io.BytesIO(head)):
        if opcode.name == "STOP":
            file.seek(start + (place or 0) + 1)
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise ValueError("a pickle without an end")


class _Machine:
    """A stack, marks on it, and the memo of one pickle."""

    def __init__(self, lent: Lent, persistent: Callable[[Any], Any]) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._lent, self._persistent = lent, persistent

    def step(self, name: str, argument: Any) -> None:
        """One opcode."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(self._last(_TUPLES[name])))
        elif name not in _PASSED_OVER:
            if name not in _ACTS:
                raise FormatError(f"its pickle does {name}, which no file of plain tensors does")
            getattr(self, f"_{name.lower()}")(argument)

    def _last(self, count: int) -> list[Any]:
        at = len(self.stack) - count
        if at < (self._marks[-1] if self._marks else 0):
            raise ValueError("a pickle that takes more values than it has")
        taken = self.stack[at:]
        del self.stack[at:]
        return taken

    def _to_mark(self) -> list[Any]:
        at = self._marks.pop()
        taken = self.stack[at:]
        del self.stack[at:]
        return taken

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self.stack))

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._to_mark()))

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _append(self, _: Any) -> None:
        (value,) = self._last(1)
        self._below(list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._to_mark()
        self._below(list).extend(values)

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _setitem(self, _: Any) -> None:
        self._set(self._last(2))

    def _setitems(self, _: Any) -> None:
        self._set(self._to_mark())

    def _set(self, values: list[Any]) -> None:
        into = self._below(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int):  # nested tuples can take years to hash
                raise FormatError(f"its pickle has a key of type {type(key).__name__}; expected texts and integers")
            into[key] = value

    def _below(self, kind: type) -> Any:
        """What is now on top, checked."""
        if not isinstance(self.stack[-1], kind):
            raise FormatError(f"its pickle fills a {type(self.stack[-1]).__name__} as if it were a {kind.__name__}")
        return self.stack[-1]

    def _binput(self, number: int) -> None:
        self._memo[number] = self.stack[-1]

    _long_binput = _binput

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _binget(self, number: int) -> None:
        self.stack.append(self._memo[number])

    _long_binget = _binget

    def _global(self, named: str) -> None:
        module, _, name = named.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: Any) -> None:
        module, name = self._last(2)
        self._name(str(module)[:100], str(name)[:100])

    def _name(self, module: str, name: str) -> None:
        if (module, name) not in self._lent:
            raise FormatError(
                f"the file wants to use {module}.{name}, which is not allowed; only plain tensors are read"
            )
        self.stack.append(self._lent[module, name])

    def _reduce(self, _: Any) -> None:
        called, arguments = self._last(2)
        if not callable(called) or not isinstance(arguments, tuple):  # the lent functions are all that can be called
            raise FormatError("its pickle calls what is no function")
        self.stack.append(called(*arguments))

    def _build(self, _: Any) -> None:
        self._last(1)  # attributes of a dict, which PyTorch sets and nothing here asks for

    def _binpersid(self, _: Any) -> None:
        (pid,) = self._last(1)
        self.stack.append(self._persistent(pid))
