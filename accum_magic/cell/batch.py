"""Which names hold the batch: inferred from the loop, the step's own draws, or what the model is called with."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from accum_magic.cell.axes import is_shape_read
from accum_magic.cell.effects import bound_names, overlap, overlaps, path_of, root, sequence_effects, statement_effects
from accum_magic.cell.namespace import Lookup
from accum_magic.cell.parse import Place
from accum_magic.cell.recognise import (
    DRAWS,
    calls,
    contains_draw,
    contains_factory,
    is_literal,
    is_reduction_over_batch,
    last_name,
    nodes,
)
from accum_magic.cell.units import Unit
from accum_magic.errors import Refusal

_WRAPPERS = frozenset(
    {"tqdm", "track", "islice", "iter", "list", "notebook_tqdm", "progress_bar", "trange", "prefetch", "window"}
)
_NOT_DATA = frozenset(
    {"range", "trange", "count", "parameters", "named_parameters", "modules", "children", "items", "keys"}
)
_TARGET_KEYWORDS = frozenset({"target", "targets", "label", "labels", "input", "input_ids", "x", "y"})
_POSITIONS = frozenset({"randperm", "permutation", "choice", "multinomial", "sample", "shuffle"})
_OF_NO_BATCH = frozenset(
    {"parameters", "named_parameters", "train", "eval", "zero_grad", "forward", "encode", "decode", "step", "scale",
     "state_dict"}
)  # fmt: skip
_NEVER_DATA = frozenset({"self", "cls", "device"})
_MOVES = frozenset(
    {"to", "cuda", "cpu", "float", "double", "long", "int", "bool", "half", "type", "contiguous", "clone"}
)


@dataclass(frozen=True, slots=True)
class BatchNames:
    """Paths handed to the micro step, in the order of their first use.

    `strict` ones hold the batch; `loose` ones are split where they have as many rows; `fixed` ones
    are handed over whole, and a user is asked where one has as many rows as the batch.
    """

    strict: tuple[str, ...]
    loose: tuple[str, ...]
    fixed: tuple[str, ...]

    @property
    def split(self) -> tuple[str, ...]:
        """All that may be split."""
        return self.strict + self.loose


def loop_names(loop: ast.For | ast.AsyncFor) -> frozenset[str]:
    """Return the names a `for` binds to a batch; none for `range`, parameters and literal lists."""
    return _data_names(loop.target, loop.iter)


def binds_data(target: ast.expr, source: ast.expr) -> bool:
    """Tell whether a loop over `source` binds a batch; `range`, parameters and literal lists yield none."""
    return bool(_data_names(target, source))


def _data_names(target: ast.expr, source: ast.expr) -> frozenset[str]:
    match source:
        case ast.Call(func=func, args=[first, *_]) if last_name(func) == "enumerate":
            if isinstance(target, ast.Tuple) and len(target.elts) == 2:  # noqa: PLR2004 - index and item
                return _data_names(target.elts[1], first)
            return frozenset()
        case ast.Call(func=func, args=[first, *_]) if last_name(func) in _WRAPPERS:
            return _data_names(target, first)
        case ast.Call(func=func, args=args) if last_name(func) == "zip" and isinstance(target, ast.Tuple):
            pairs = zip(target.elts, args, strict=False)
            return frozenset().union(*(_data_names(t, a) for t, a in pairs))
        case ast.Call(func=func) if last_name(func) in _NOT_DATA:
            return frozenset()
        case ast.List(elts=elts) | ast.Tuple(elts=elts) | ast.Set(elts=elts) if all(map(_is_setting, elts)):
            return frozenset()
        case ast.Constant() | ast.Dict():
            return frozenset()
        case _:
            return bound_names(target)


def _is_setting(node: ast.expr) -> bool:
    """`"train"`, `1e-3`: what a sweep or a phase loop goes over, not a batch."""
    return all(isinstance(n, ast.Constant | ast.UnaryOp | ast.unaryop) for n in nodes(node))


def seeds(inputs: frozenset[str], loops: Sequence[ast.For | ast.AsyncFor], callees: frozenset[str]) -> frozenset[str]:
    """Return the loop targets that feed the slice, of the innermost loop that has any."""
    for loop in loops:
        names = frozenset(n for n in loop_names(loop) if n not in callees and overlaps(n, inputs))
        if names:
            return names
    return frozenset()


def computed_above(places: Sequence[Place]) -> frozenset[str]:
    """Return what the loops around a step have made of the loader's batch: features that an inner loop trains on."""
    fed: set[str] = set()
    loader: set[str] = set()
    for place in places:
        if isinstance(place.owner, ast.For | ast.AsyncFor):
            loader |= loop_names(place.owner)
            fed |= loader
            for effects in map(statement_effects, place.body[: place.index]):
                fed |= effects.writes if overlap(effects.reads, fed) else set()
    return frozenset(fed - loader)


def callees(within: Iterable[ast.AST]) -> frozenset[str]:
    """Return the names that are called, or used as a module or optimizer is: they are no batch."""
    found = set()
    for node in within:
        for call in calls(node):
            match call.func:
                case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name)):
                    found.add(name)
                case (
                    ast.Attribute(attr=attr, value=ast.Name(id=name))
                    | ast.Attribute(attr=attr, value=ast.Subscript(value=ast.Name(id=name)))
                ) if attr in _OF_NO_BATCH:
                    found.add(name)
    return frozenset(found)


def data_inputs(inputs: frozenset[str], within: Sequence[ast.AST], lookup: Lookup) -> frozenset[str]:
    """Return the free names that may hold data where no loop binds a batch."""
    called = callees(within)
    values = _used_as_values(within)
    found = set()
    for path in inputs:
        fact = lookup(path)
        if path in _NEVER_DATA or path in called:
            continue
        if fact is not None:
            if fact.kind == "container" or (fact.kind == "tensor" and not fact.reaches and fact.shape):
                found.add(path)
        elif path in values:
            found.add(path)
    return frozenset(found)


def _used_as_values(within: Sequence[ast.AST]) -> frozenset[str]:
    """Names and attributes that stand as an argument, an operand or the base of a subscript or method call."""
    found: set[str] = set()
    for node in within:
        for part in nodes(node):
            match part:
                case ast.Call(func=func, args=args, keywords=keywords):
                    candidates = [*args, *(k.value for k in keywords)]
                    if isinstance(func, ast.Attribute):
                        candidates.append(func.value)
                case ast.BinOp(left=left, right=right):
                    candidates = [left, right]
                case ast.Subscript(value=value):
                    candidates = [value]
                case ast.Assign(value=value):
                    candidates = [value]
                case _:
                    continue
            found |= {p for c in candidates if (p := path_of(c.value if isinstance(c, ast.Starred) else c))}
    return frozenset(found)


def samples_itself(units: Iterable[Unit], inputs: frozenset[str], lookup: Lookup) -> bool:
    """Tell whether a step takes its batch itself: `next(it)`, `get_batch()`, a random index, a slice of the data."""
    data = set(inputs)
    for unit in units:
        if isinstance(unit.node, ast.Assign) and _takes_a_batch(unit.node.value, data, lookup):
            return True
        if not is_literal(getattr(unit.node, "value", ast.Name(id="_"))):
            data |= unit.effects.writes  # `decoder(z)` is no `get_batch("train")`: the step has computed `z`
    return False


def _takes_a_batch(value: ast.expr, inputs: Collection[str], lookup: Lookup) -> bool:
    if any(last_name(c.func) in DRAWS and not (_is_sized_by_data(c, inputs) or _is_coin(c)) for c in calls(value)):
        return True
    for part in nodes(value):
        match part:
            case ast.Call(func=ast.Name(id="next")):
                return True
            case ast.Subscript(value=ast.Name(), slice=ast.Slice(lower=low, upper=up)) if not _is_fixed(low, up):
                return True
            case ast.Subscript(value=ast.Name(), slice=ast.Name()):
                return True
    return _is_source_call(value, inputs, lookup)


def _is_coin(draw: ast.Call) -> bool:
    """Whether a single number is drawn: `random.random()`, `torch.rand(1)`, `np.random.rand()`."""
    of_random = path_of(draw.func) in {f"random.{name}" for name in ("random", "uniform", "gauss", "randint")}
    is_one = [isinstance(a, ast.Constant) and a.value == 1 for a in draw.args] == [True]
    return of_random or (last_name(draw.func) in {"rand", "randn", "random", "uniform"} and (not draw.args or is_one))


def _is_sized_by_data(draw: ast.Call, inputs: Collection[str]) -> bool:
    """Whether values are drawn for data that the step is given: `torch.randn(real.size(0), 8)`, `rand_like(x)`."""
    name = last_name(draw.func)
    if name in _POSITIONS:
        return False
    sized = [k.value for k in draw.keywords if k.arg == "size"]
    sized += draw.args[-1:] if name == "randint" else draw.args[:1] if name.endswith("_like") else draw.args
    parts = [part for a in sized for part in (a.elts if isinstance(a, ast.Tuple | ast.List) else [a])]
    shapes = [p for p in parts if is_shape_read(p) or (name.endswith("_like") and path_of(p))]
    return any(isinstance(n, ast.Name) and n.id in inputs for p in shapes for n in nodes(p))


def slices_inside_calls(units: Iterable[Unit]) -> Iterator[ast.Subscript]:
    """Yield the slices of the data that are a batch without a name: `model(X[i : i + 8])`."""
    for unit in units:
        if isinstance(unit.node, ast.Assign | ast.AnnAssign | ast.Expr):
            arguments = [a for c in calls(unit.node) for a in (*c.args, *(k.value for k in c.keywords))]
            yield from (part for part in arguments if isinstance(part, ast.Subscript) and _is_open_slice(part))


def _is_open_slice(node: ast.Subscript) -> bool:
    match node.slice:
        case ast.Slice(lower=low, upper=up) | ast.Tuple(elts=[ast.Slice(lower=low, upper=up), *_]):
            return path_of(node.value) is not None and not _is_fixed(low, up)
        case _:
            return False


def _is_fixed(*bounds: ast.expr | None) -> bool:
    return all(b is None or isinstance(b, ast.Constant | ast.UnaryOp) for b in bounds)


def _is_source_call(value: ast.expr, inputs: Collection[str], lookup: Lookup) -> bool:
    """`get_batch("train")`: a call that is given no data, so it has its own."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name)):
        return False
    fact = lookup(value.func.id)
    if fact is not None and (fact.kind != "function" or fact.reaches):
        return False
    arguments = [*value.args, *(k.value for k in value.keywords)]
    given = [path_of(a) for a in arguments if not isinstance(a, ast.Constant)]
    return not any(p is None or overlaps(p, inputs) for p in given)


def is_drawn(unit: Unit) -> bool:
    """Tell whether a unit makes per-sample values from a size: `torch.randn(batch_size, 8)`, `torch.ones(n)`."""
    return contains_draw(unit.node) or contains_factory(unit.node)


def is_whole(unit: Unit) -> bool:
    """Tell whether a unit binds a statistic of the whole batch, which must not be split."""
    value = getattr(unit.node, "value", None)
    return isinstance(value, ast.expr) and is_reduction_over_batch(value)


def is_handed_on(unit: Unit, strict: frozenset[str]) -> bool:
    """Tell whether a unit only unpacks or moves the batch, so that its targets are the batch still."""
    value = getattr(unit.node, "value", None)
    return isinstance(value, ast.expr) and _only_moves(value, strict)


def _only_moves(node: ast.expr, strict: frozenset[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name in strict
        case ast.Tuple(elts=elts) | ast.List(elts=elts):
            return bool(elts) and all(_only_moves(e, strict) for e in elts)
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in _MOVES:
            return _only_moves(value, strict)
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant()):
            return name in strict
        case ast.DictComp(value=value, generators=[one]) | ast.ListComp(elt=value, generators=[one]):
            return _only_moves(value, bound_names(one.target)) and bool(strict & _names(one.iter))
        case ast.Call(func=ast.Name(id="tuple" | "list" | "dict"), args=[ast.GeneratorExp(elt=elt, generators=[one])]):
            return _only_moves(elt, bound_names(one.target)) and bool(strict & _names(one.iter))
        case _:
            return False


def _names(node: ast.AST) -> frozenset[str]:
    return frozenset(n.id for n in nodes(node) if isinstance(n, ast.Name))


def is_in_target_position(name: str, within: Iterable[ast.AST]) -> bool:
    """Tell whether a free name stands where inputs and targets stand, not where weights or masks do."""
    for node in within:
        for part in nodes(node):
            match part:
                case ast.Call(args=args, keywords=keywords):
                    if any(_mentions(a, name) for a in args[:2]):
                        return True
                    if any(k.arg in _TARGET_KEYWORDS and _mentions(k.value, name) for k in keywords):
                        return True
                case ast.BinOp(left=left, right=right, op=ast.Sub() | ast.MatMult()):
                    if _mentions(left, name) or _mentions(right, name):
                        return True
    return False


def is_view_of(name: str, unit: Unit) -> bool:
    """Tell whether a unit binds a view of a name: `inputs = ids[:, i : i + 8].to(device)`."""
    return isinstance(unit.node, ast.Assign) and _mentions(unit.node.value, name)


def refuse_attributes(micro: Sequence[Unit], crossing: Collection[str], declared: Collection[str]) -> None:
    """Refuse a batch in attributes of an object that is no batch itself, `self.xb`, unless the user names them."""
    exposed = sequence_effects([u.node for u in micro]).reads
    held = {p for p in crossing if "." in p and root(p) in _NEVER_DATA and root(p) not in crossing}
    read = sorted(p for p in held if any(e == p or e.startswith(f"{p}.") for e in exposed))
    if set(read) - set(declared):
        names = ",".join(read)
        line = next(u.line for u in micro if overlap(u.effects.reads, read))
        message = (
            f"line {line}: the batch is held in attributes (`{read[0]}`), and what else `{root(read[0])}` holds is no "
            f"batch. Name those that are: %%accumulate 4 --batch {names}"
        )
        raise Refusal(message)


def _mentions(node: ast.expr, name: str) -> bool:
    """Whether a value is the name itself, or a view of it."""
    while True:
        path = path_of(node)
        if path is not None:
            return root(path) == name
        match node:
            case ast.Subscript(value=value) | ast.Call(func=ast.Attribute(value=value)):
                node = value
            case ast.BinOp(left=value, right=ast.Constant()):
                node = value
            case _:
                return False
