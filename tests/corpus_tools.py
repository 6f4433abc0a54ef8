"""Read the cases of tests/corpus, run one plainly and accumulated, and compare everything that the two leave.

`python -m tests.corpus_tools`, in the root of the repository, prints how many cases there are per idiom.
"""

import contextlib
import dataclasses
import functools
import io
import random
import re
import types
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import accum_magic
from accum_magic import testing

CORPUS = Path(__file__).parent / "corpus"
SECTIONS = ("setup", "cell", "later", "refused")
HEADERS = ("options", "ignore", "verdict", "rtol", "when", "error", "plain")

Namespace = dict[str, Any]


# ---------------------------------------------------------------- case files


@dataclass(frozen=True)
class Case:
    """One file of the corpus."""

    name: str
    why: str
    idiom: str
    setup: str
    cell: str
    later: str | None = None
    refused: tuple[str, ...] = ()
    """Substrings of the message."""
    options: str = ""
    """Those of the `%%accumulate` line behind N."""
    ignored: frozenset[str] = frozenset()
    """Names that are not compared."""
    verdict: str = "exact"
    rtol: float | None = None
    """Relative to the largest value of a tensor; None: 1e-9, value by value."""
    when: Literal["rewrite", "run"] = "rewrite"
    """Whether the text, or only a running step, shows that the cell has to be refused."""
    error: str = "AccumulateError"
    plain: bool = True
    """Whether Python alone can run the cell."""

    @property
    def is_windowed(self) -> bool:
        """Whether the cell accumulates over several batches of its loader."""
        return "--window" in self.options


def parse_case(name: str, text: str) -> Case:
    """Read a case.

    Raises:
        ValueError: The file is not written as the corpus is; the message names file and line.

    """
    head, sections = _sections(name, text)
    first = re.fullmatch(r"# (?P<why>\S.*?)  idiom: (?P<idiom>[\w-]+)", head[0]) if head else None
    if first is None:
        raise ValueError(f"{name}: the first line is not '# why this case is here.  idiom: its-idiom'")
    if "setup" not in sections or "cell" not in sections:
        raise ValueError(f"{name}: has no '# %% setup' or no '# %% cell'")
    refused = tuple(filter(None, (line.strip("# ") for line in sections.get("refused", "").splitlines())))
    if "refused" in sections and not refused:
        raise ValueError(f"{name}: names nothing that the message must contain")
    fields = _header_fields(dict(_header(name, line) for line in head[1:] if line.strip()))
    return Case(name, first["why"], first["idiom"], sections["setup"], sections["cell"],
                later=sections.get("later"), refused=refused, **fields)  # fmt: skip


def _sections(name: str, text: str) -> tuple[list[str], dict[str, str]]:
    """Return the lines above the first section, and the text of each section."""
    head, *parts = re.split(r"^# %% (\w+)[ \t]*\n", text, flags=re.MULTILINE)
    names = parts[::2]
    if names != sorted(set(names) & set(SECTIONS), key=SECTIONS.index):
        raise ValueError(f"{name}: its sections are {', '.join(names)}, not of {', '.join(SECTIONS)} in this order")
    return head.splitlines(), dict(zip(names, parts[1::2], strict=True))


def _header(name: str, line: str) -> tuple[str, str]:
    found = re.fullmatch(r"# (?P<key>\w+): (?P<value>\S.*)", line)
    if found is None or found["key"] not in HEADERS:
        raise ValueError(f"{name}: {line!r} is not '# key: value' with one of {', '.join(HEADERS)}")
    return found["key"], found["value"].strip()


def _header_fields(header: dict[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {key: header[key] for key in ("options", "verdict", "when", "error") if key in header}
    if "ignore" in header:
        names = header["ignore"].partition("(")[0].split(",")
        fields["ignored"] = frozenset(name.strip() for name in names)
    if "rtol" in header:
        fields["rtol"] = float(header["rtol"])
    if "plain" in header:
        fields["plain"] = not header["plain"].startswith("no")
    return fields


def read_cases(folder: Literal["cells", "refused"]) -> list[Case]:
    """Read the cases that are rewritten (`cells`) or refused."""
    paths = sorted((CORPUS / folder).glob("*.py"))
    return [parse_case(path.stem, path.read_text(encoding="utf-8")) for path in paths]


# ---------------------------------------------------------------- runs


@dataclass(frozen=True)
class Left:
    """What a run leaves: its names, the value of the cell's last expression, what it printed."""

    namespace: Namespace
    out: Any
    printed: str
    summary: Any = None
    """The `RunSummary` of an accumulated run."""


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Make float64 the default dtype for a while, so that rounding cannot hide a difference."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def seed(value: int) -> None:
    """Seed everything that a cell may draw from."""
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 - users' cells draw from the global generator


def set_up(case: Case, window: int = 1) -> Namespace:
    """Run the setup in a fresh namespace; it is `__main__`, as a notebook's is.

    The loaders of a `--window` case have batches of `... * WINDOW` samples: what the plain cell is run with.
    """
    namespace: Namespace = {"__name__": "__main__", "WINDOW": window}
    seed(0)
    with float64(), contextlib.redirect_stdout(io.StringIO()):
        testing.run_plain(case.setup, namespace)
    return namespace


def run_plainly(case: Case, n: int = 1) -> Left:
    """Run a case without the magic; where it accumulates over a window, on batches that are n times larger."""
    return _run(case, testing.run_plain, n if case.is_windowed else 1)


def run_accumulated(case: Case, n: int) -> Left:
    """Run a case under `%%accumulate n`."""
    left = _run(case, functools.partial(testing.run_accumulated, n=n, options=case.options))
    return dataclasses.replace(left, summary=accum_magic.last_run())


def _run(case: Case, run_cell: Callable[[str, Namespace], Any], window: int = 1) -> Left:
    namespace = set_up(case, window)
    printed = io.StringIO()
    seed(1)
    with float64(), contextlib.redirect_stdout(printed):
        out = run_cell(case.cell, namespace)
        if case.later is not None:
            testing.run_plain(case.later, namespace)
    return Left(namespace, out, printed.getvalue())


# ---------------------------------------------------------------- comparison

UNCOMPARED_NAMES = frozenset({"__builtins__", "__name__", "__warningregistry__", "WINDOW"})
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
_VALUES = (type(None), bool, int, bytes, range, slice, set, frozenset, torch.dtype, torch.device, torch.Size)
_NUMBER = re.compile(r"[-+]?\d+(?:\.(?P<decimals>\d*))?(?:[eE](?P<exponent>[-+]?\d+))?|\bnan\b|-?\binf\b")
_GRAPH = re.compile(r",\s*(?:grad_fn=<\w+>|requires_grad=True)")
_RTOL, _ATOL = 1e-9, 1e-12
_SHOWN = 160  # characters of a value in a message

Differences = Iterator[str]
Rule = Callable[[str, Any, Any], Differences]


def is_replayed(left):
    """Whether a step of the cell saw its whole batch, with its modules in chunks."""
    return any("replayed" in note for note in left.summary.notes)


def differences(case: Case, plain: Left, accumulated: Left) -> list[str]:
    """Return where two runs of a case differ, each with its name and both values."""
    compare = Comparison(case.rtol)
    found = list(compare.namespaces(plain.namespace, accumulated.namespace, case.ignored))
    if "<out>" not in case.ignored:
        found += compare.values("<out>", plain.out, accumulated.out)
    if "<stdout>" not in case.ignored:
        found += compare.texts("<stdout>", plain.printed, accumulated.printed)
    return found


class Comparison:
    """Compares what a plain run leaves with what an accumulated run leaves, however deep."""

    def __init__(self, rtol: float | None = None) -> None:
        self._rtol = _RTOL if rtol is None else rtol
        self._is_loose = rtol is not None
        self._seen: dict[tuple[int, int], tuple[Any, Any]] = {}  # the values too: an id is used again
        self._rules: tuple[tuple[type | tuple[type, ...], Rule], ...] = (
            (torch.Tensor, self._tensors),
            (torch.nn.Module, self._modules),
            ((np.ndarray, np.generic), self._arrays),
            ((float, complex), self._numbers),
            (str, self.texts),
            (Mapping, self._mappings),
            ((list, tuple, deque), self._sequences),
            (torch.Generator, self._generators),
            (_VALUES, self._equal),
        )

    def namespaces(self, plain: Namespace, accumulated: Namespace, skip: frozenset[str] = frozenset()) -> Differences:
        """Names that only one of the two has, then the values of all others."""
        skip |= UNCOMPARED_NAMES
        for name in sorted((plain.keys() ^ accumulated.keys()) - skip):
            only, holder = ("plain", plain) if name in plain else ("accumulated", accumulated)
            yield f"{name}: only in the {only} run: {_show(holder[name])}"
        for name in sorted((plain.keys() & accumulated.keys()) - skip):
            yield from self.values(name, plain[name], accumulated[name])

    def values(self, path: str, a: Any, b: Any) -> Differences:
        """Compare a value of the plain run with one of the accumulated run."""
        if isinstance(b, accum_magic.Released):
            if not holds_big_tensor(a):
                yield _differ(path, a, b)
        elif isinstance(a, _CODE) and isinstance(b, _CODE):
            return
        elif type(a).__qualname__ != type(b).__qualname__:
            yield _differ(path, a, b)
        elif (id(a), id(b)) not in self._seen:
            self._seen[id(a), id(b)] = (a, b)
            yield from self._same_type(path, a, b)

    def _same_type(self, path: str, a: Any, b: Any) -> Differences:
        rule = next((rule for types_, rule in self._rules if isinstance(a, types_)), None)
        if rule is not None:
            yield from rule(path, a, b)
        elif has_state_dict(a):
            yield from self.values(f"{path}.state_dict()", a.state_dict(), b.state_dict())
        elif dataclasses.is_dataclass(a) or is_of_the_case(a):
            yield from self._attributes(path, a, b)
        # else a loader, an iterator, an object of a package

    def _equal(self, path: str, a: Any, b: Any) -> Differences:
        if a != b:
            yield _differ(path, a, b)

    def _generators(self, path: str, a: torch.Generator, b: torch.Generator) -> Differences:
        yield from self.values(f"{path}.get_state()", a.get_state(), b.get_state())

    def _arrays(self, path: str, a: Any, b: Any) -> Differences:
        if a.dtype.kind in "biufc":
            yield from self._tensors(path, torch.tensor(a), torch.tensor(b))
        else:
            yield from self.values(f"{path}.tolist()", a.tolist(), b.tolist())

    def _tensors(self, path: str, a: torch.Tensor, b: torch.Tensor) -> Differences:
        if _layout(a) != _layout(b):
            yield _differ(path, a, b)
            return
        x, y = _dense(a), _dense(b)
        if not self._all_close(x, y):
            yield _differ(path, a, b) + _largest_difference(x, y)
        if a.is_leaf and a.requires_grad:
            yield from self.values(f"{path}.grad", a.grad, b.grad if b.is_leaf else None)

    def _all_close(self, a: torch.Tensor, b: torch.Tensor) -> bool:
        if not (a.is_floating_point() or a.is_complex()):
            return torch.equal(a, b)
        atol = _ATOL
        if self._is_loose and a.numel():
            atol += self._rtol * float(a.nan_to_num(0, 0, 0).abs().max())
        return torch.allclose(b, a, rtol=self._rtol, atol=atol, equal_nan=True)

    def _modules(self, path: str, a: torch.nn.Module, b: torch.nn.Module) -> Differences:
        tensors = [dict([*m.named_parameters(), *m.named_buffers()]) for m in (a, b)]
        yield from self._mappings(path, *tensors)
        others = dict(b.named_modules())
        for name, module in a.named_modules():
            if name in others:
                own, other = _public_attributes(module), _public_attributes(others[name])
                yield from self._mappings(f"{path}.{name}" if name else path, own, other)

    def _numbers(self, path: str, a: complex, b: complex) -> Differences:
        dtype = torch.complex128 if isinstance(a, complex) else torch.float64
        if not self._all_close(torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype)):
            yield _differ(path, a, b)

    def texts(self, path: str, a: str, b: str) -> Differences:
        """Compare texts: their numbers by value, to the digits printed, and all else by letter."""
        a, b = _GRAPH.sub("", a), _GRAPH.sub("", b)
        if a == b:
            return
        numbers = zip(_NUMBER.finditer(a), _NUMBER.finditer(b), strict=False)
        if _NUMBER.split(a)[::3] != _NUMBER.split(b)[::3] or not all(self._same_number(x, y) for x, y in numbers):
            yield _differ(path, *_first_lines_that_differ(a, b))

    def _same_number(self, a: re.Match[str], b: re.Match[str]) -> bool:
        if a[0] == b[0]:
            return True
        if a["decimals"] is None and a["exponent"] is None:
            return False  # a count
        last_digit = 10.0 ** (int(a["exponent"] or 0) - len(a["decimals"] or ""))
        return abs(float(a[0]) - float(b[0])) <= 1.001 * last_digit + self._rtol * abs(float(a[0]))

    def _mappings(self, path: str, a: Mapping[Any, Any], b: Mapping[Any, Any]) -> Differences:
        if any(_is_known_by_identity(key) for key in a):  # `{parameter: optimizer}`
            yield from self._sequences(f"{path}.items()", list(a.items()), list(b.items()))
            return
        for key in a.keys() ^ b.keys():
            only, holder = ("plain", a) if key in a else ("accumulated", b)
            yield f"{path}[{key!r}]: only in the {only} run: {_show(holder[key])}"
        for key in a:
            if key in b:
                yield from self.values(f"{path}[{key!r}]", a[key], b[key])

    def _sequences(self, path: str, a: Any, b: Any) -> Differences:
        if len(a) != len(b):
            yield f"{_differ(path, a, b)}: {len(a)} and {len(b)} values"
            return
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from self.values(f"{path}[{index}]", x, y)

    def _attributes(self, path: str, a: Any, b: Any) -> Differences:
        if hasattr(a, "__dict__"):
            yield from self._mappings(f"vars({path})", vars(a), vars(b))
        else:  # a dataclass with slots
            for field in dataclasses.fields(a):
                yield from self.values(f"{path}.{field.name}", getattr(a, field.name), getattr(b, field.name))


def holds_big_tensor(value: Any) -> bool:
    """Tell whether a value is a tensor with more than one element, or a container that holds one."""
    match value:
        case torch.Tensor():
            return value.numel() > 1
        case Mapping():
            return any(map(holds_big_tensor, value.values()))
        case list() | tuple():
            return any(map(holds_big_tensor, value))
        case _:
            return dataclasses.is_dataclass(value) and any(map(holds_big_tensor, vars(value).values()))


def has_state_dict(value: Any) -> bool:
    """Tell optimizers, schedulers, scalers and what else can be saved."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def is_of_the_case(value: Any) -> bool:
    """Tell whether the case itself defines a value's class."""
    return type(value).__module__ == "__main__"


def _is_known_by_identity(key: Any) -> bool:
    return isinstance(key, torch.Tensor | torch.nn.Module) or is_of_the_case(key)


def _public_attributes(module: torch.nn.Module) -> Namespace:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    is_trained = isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad
    return tensor.shape, tensor.dtype, tensor.device, is_trained


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()


def _differ(path: str, a: Any, b: Any) -> str:
    return f"{path}: plain {_show(a)}, accumulated {_show(b)}"


def _show(value: Any) -> str:
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else ""
    text = re.sub(r"\s+", " ", repr(value))
    return f"{text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}{shape}"


def _largest_difference(a: torch.Tensor, b: torch.Tensor) -> str:
    if a.dtype == torch.bool:
        return f" ({int((a != b).sum())} of {a.numel()} values)"
    return f" (by up to {float((a - b).abs().max()):.3g})"


def _first_lines_that_differ(a: str, b: str) -> tuple[str, str]:
    pairs = zip(a.splitlines(), b.splitlines(), strict=False)
    return next(((x, y) for x, y in pairs if x != y), (a, b))


# ---------------------------------------------------------------- counts


def print_counts() -> None:
    """Print how many cases the corpus has per idiom."""
    for folder in ("cells", "refused"):
        cases = read_cases(folder)
        print(f"{folder}: {len(cases)} cases")
        for idiom, count in sorted(Counter(case.idiom for case in cases).items()):
            print(f"  {count:3} {idiom}")


if __name__ == "__main__":
    print_counts()
