"""Where the batch lies in a value: sizes read off it, changes of layout that commute with splitting, moved axes."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping

from accum_magic.cell.effects import overlaps, path_of, root
from accum_magic.cell.recognise import DRAWS, FACTORIES, calls, last_name, nodes

_LAYOUT_METHODS = frozenset(
    {
        "view", "reshape", "flatten", "permute", "transpose", "t", "unsqueeze", "squeeze", "movedim", "swapaxes",
        "contiguous",
    }
)  # fmt: skip
_AXIS_MOVES = frozenset({"permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "rearrange"})
_MOVES = frozenset(
    {"to", "cuda", "cpu", "float", "double", "half", "bfloat16", "long", "int", "bool", "type", "clone", "detach"}
)

_EACH_VALUE = frozenset({"div", "mul", "add", "sub", "div_", "mul_", "add_", "sub_", "clamp", "clamp_"})


def moves_axes(node: ast.AST) -> bool:
    """Tell whether a statement may put the batch into another dimension: `x.permute(1, 0, 2)`, `x.T`."""
    by_attribute = any(isinstance(n, ast.Attribute) and n.attr in {"T", "mT"} for n in nodes(node))
    return by_attribute or any(last_name(c.func) in _AXIS_MOVES for c in calls(node))


def moved_batch_dim(node: ast.AST | None) -> int | None:
    """Return where a single move of axes puts dimension 0, None where that cannot be told."""
    match node:
        case ast.Call(func=ast.Attribute(attr="permute", value=value), args=args) if not moves_axes(value):
            order = [isinstance(a, ast.Constant) and a.value == 0 for a in args]
            return order.index(True) if any(order) else None
        case ast.Call(
            func=ast.Attribute(attr="transpose" | "swapaxes", value=value),
            args=[ast.Constant(int(a)), ast.Constant(int(b))],
        ) if not moves_axes(value):
            return b if a == 0 else a if b == 0 else 0
        case ast.Call(func=ast.Attribute(attr=attr, value=value)) if attr in _MOVES | _EACH_VALUE | {"contiguous"}:
            return moved_batch_dim(value)
        case ast.BinOp(left=left, right=right) if moves_axes(left) != moves_axes(right):
            return moved_batch_dim(left if moves_axes(left) else right)
        case _:
            return None


def keeps_axes(node: ast.AST | None) -> bool:
    """Tell whether an expression has the axes of what it is made of: `torch.randn_like(x)`, `x + noise`, `x.to(d)`."""
    match node:
        case ast.Name() | ast.Attribute() | ast.Constant():
            return True
        case ast.BinOp(left=left, right=right):
            return keeps_axes(left) and keeps_axes(right)
        case ast.Call(func=func, args=[first, *_]) if last_name(func).endswith("_like"):
            return keeps_axes(first)
        case ast.Call(func=ast.Attribute(attr=attr, value=value)) if attr in _MOVES:
            return keeps_axes(value)
        case ast.Subscript(value=value, slice=ast.Slice()):
            return keeps_axes(value)
        case ast.Subscript(value=value, slice=ast.Tuple(elts=elts)):
            return all(isinstance(e, ast.Slice) for e in elts) and keeps_axes(value)
        case _:
            return False


def is_made_of_other_axes(node: ast.AST, dims: Mapping[str, int], fed: Collection[str]) -> bool:
    """Tell whether all that an expression reads of the batch is the size of other axes: a causal mask does.

    `dims` says where the batch lies in a name, `fed` which names come from the batch.
    """
    found = False
    wanted = [node]
    while wanted:
        part = wanted.pop()
        axis = _axis_read(part)
        if axis is not None:
            path, index = axis
            is_batch = overlaps(path, fed)
            if is_batch and index in {dims.get(root(path), 0), None}:
                return False
            found |= is_batch
        elif isinstance(part, ast.expr) and (path_of(part) or "") and overlaps(path_of(part) or "", fed):
            return False
        else:
            wanted += ast.iter_child_nodes(part)
    return found


def _axis_read(node: ast.AST) -> tuple[str, int | None] | None:
    """Return the path and the axis of `x.shape[1]` or `x.size(1)`; no axis where it is counted from the end."""
    match node:
        case ast.Subscript(value=ast.Attribute(value=value, attr="shape"), slice=axis):
            pass
        case ast.Call(func=ast.Attribute(value=value, attr="size"), args=[axis]):
            pass
        case _:
            return None
    path = path_of(value)
    index = axis.value if isinstance(axis, ast.Constant) and isinstance(axis.value, int) else None
    return None if path is None else (path, index)


def size_dim(node: ast.expr, sizes: frozenset[str]) -> int | None:
    """Return which dimension of `torch.randn(1, x.size(0), 8)` has the batch's size, None where none is written."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MOVES:
        node = node.func.value
    if not (isinstance(node, ast.Call) and last_name(node.func) in DRAWS | FACTORIES):
        return None
    shape = next((a.elts for a in node.args if isinstance(a, ast.Tuple | ast.List)), node.args)
    if last_name(node.func) in {"randint", "arange", "linspace"} and shape is node.args:
        return None
    found = [i for i, a in enumerate(shape) if is_shape_read(a) or (isinstance(a, ast.Name) and a.id in sizes)]
    return found[0] if found else None


def is_shape_read(node: ast.expr) -> bool:
    """Tell whether an expression only asks for a shape: `x.size(0)`, `len(x)`, `x.shape[0] * x.shape[1]`."""
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr="size" | "numel" | "dim"), args=args):
            return path_of(value) is not None and all(isinstance(a, ast.Constant) for a in args)
        case ast.Call(func=ast.Name(id="len"), args=[value]):
            return path_of(value) is not None
        case ast.Attribute(attr="shape", value=value):
            return path_of(value) is not None
        case ast.Subscript(value=value, slice=ast.Constant() | ast.UnaryOp() | ast.Slice()):
            return is_shape_read(value)
        case ast.BinOp(left=left, right=right):
            sides = [s for s in (left, right) if not isinstance(s, ast.Constant)]
            return bool(sides) and all(is_shape_read(s) for s in sides)
        case ast.Tuple(elts=elts):
            return bool(elts) and all(is_shape_read(e) for e in elts)
        case _:
            return False


def is_size_factory(node: ast.expr, sizes: frozenset[str], helpers: frozenset[str] = frozenset()) -> bool:
    """Tell whether an expression makes a constant tensor from sizes: `torch.zeros(2, x.size(0), 8)`.

    `helpers` are functions that do so: `init_hidden(x.size(0))`.
    """
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MOVES:
        node = node.func.value
    if not (isinstance(node, ast.Call) and last_name(node.func) in FACTORIES | helpers):
        return False
    return all(_is_size(a, sizes) for a in node.args)


def factory_helpers(tree: ast.AST) -> frozenset[str]:
    """Return the functions of a cell that do nothing but make constant tensors: `init_hidden`."""
    allowed = FACTORIES | _MOVES | {"tuple", "list", "device"}
    functions = [n for n in nodes(tree) if isinstance(n, ast.FunctionDef)]
    return frozenset(f.name for f in functions if calls(f) and all(last_name(c.func) in allowed for c in calls(f)))


def _is_size(node: ast.expr, sizes: frozenset[str]) -> bool:
    match node:
        case ast.Constant() | ast.Attribute():
            return True
        case ast.Name():
            return True
        case ast.Tuple(elts=elts) | ast.List(elts=elts):
            return all(_is_size(e, sizes) for e in elts)
        case ast.BinOp(left=left, right=right):
            return _is_size(left, sizes) and _is_size(right, sizes)
        case _:
            return is_shape_read(node)


def is_layout_change(node: ast.expr, sizes: frozenset[str]) -> bool:
    """Tell whether an expression rearranges one value sample by sample, so that it commutes with splitting.

    `sizes` are names known to hold a size of the batch; `x.view(n, -1)` commutes where `n` is one of them.
    """
    found = False
    while True:
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr=attr), args=args) if attr in _LAYOUT_METHODS:
                if attr in {"view", "reshape"} and not (args and _is_open_size(args[0], sizes)):
                    return False
                if not all(_is_plain_argument(a, sizes) for a in args):
                    return False
                found, node = found or attr != "contiguous", value
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in _MOVES:
                node = value
            case ast.Subscript(value=value, slice=ast.Tuple(elts=[ast.Slice(None, None, None), *_])):
                found, node = True, value
            case ast.Tuple(elts=elts):
                changes = [is_layout_change(e, sizes) for e in elts]
                return any(changes) and all(c or path_of(e) is not None for c, e in zip(changes, elts, strict=True))
            case _:
                return found and path_of(node) is not None


def _is_open_size(node: ast.expr, sizes: frozenset[str]) -> bool:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=1)):
            return True
        case ast.Tuple(elts=[first, *_]):
            return _is_open_size(first, sizes)
        case ast.Name(id=name):
            return name in sizes
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _is_open_size(left, sizes) or _is_open_size(right, sizes)
        case _:
            return is_shape_read(node)


def _is_plain_argument(node: ast.expr, sizes: frozenset[str]) -> bool:
    return not any(isinstance(n, ast.Call) for n in nodes(node)) or _is_open_size(node, sizes)
