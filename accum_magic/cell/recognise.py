"""Small predicates: which call or statement is a backward, a clearing of gradients, an update, a random draw."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from accum_magic.cell.effects import path_of, root

REENTRANT_CONTEXTS = frozenset(
    {
        "autocast", "no_grad", "enable_grad", "set_grad_enabled", "inference_mode", "record_function", "nullcontext",
        "set_detect_anomaly", "detect_anomaly", "sdpa_kernel", "sdp_kernel", "profile", "emit_nvtx", "maybe_autocast",
        "suppress", "catch_warnings", "set_multithreading_enabled", "device",
    }
)  # fmt: skip
DRAWS = frozenset(
    {
        "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli",
        "multinomial", "poisson", "uniform", "random", "choice", "sample", "rsample", "shuffle", "permutation",
        "random_", "normal_", "uniform_", "bernoulli_", "exponential_", "beta", "standard_normal", "gauss",
    }
)  # fmt: skip
_CROSS_SAMPLE = frozenset(
    {
        "mean", "std", "var", "sum", "max", "min", "amax", "amin", "norm", "median", "quantile", "prod", "cumsum",
        "sort", "argsort", "topk", "unique", "std_mean", "var_mean", "count_nonzero", "any", "all", "roll", "flip",
    }
)  # fmt: skip
_INDEX_MAKERS = frozenset({"randperm", "arange", "argsort", "multinomial", "permutation", "choice", "sort"})
FACTORIES = frozenset(
    {"zeros", "ones", "full", "empty", "arange", "eye", "linspace", "new_zeros", "new_ones", "new_full", "new_empty"}
)
_TRANSPARENT_ROOTS = frozenset(
    {
        "torch", "F", "np", "numpy", "math", "random", "functional", "einops", "rearrange", "Variable", "time", "os",
        "len", "range", "int", "float", "bool", "str", "list", "tuple", "dict", "set", "zip", "enumerate", "sum", "max",
        "min", "abs", "round", "sorted", "reversed", "isinstance", "getattr", "hasattr", "print", "type", "map", "next",
        "iter", "tqdm", "repr", "slice",
    }
)  # fmt: skip
_UPDATE_METHODS = frozenset({"step"})


@dataclass(frozen=True, slots=True)
class BackwardCall:
    """`loss.backward()`, `scaler.scale(loss).backward()` or `accelerator.backward(loss)`."""

    statement: ast.Expr
    call: ast.Call
    loss: ast.expr  # the expression whose gradient is taken
    through: ast.expr | None = None  # `accelerator.backward`, where the call goes through such an object

    @property
    def line(self) -> int:
        """Line of the cell, 1-based."""
        return self.statement.lineno


def backward_call(node: ast.stmt) -> BackwardCall | None:
    """Return what a statement back-propagates, None for any other statement."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return None
    call = node.value
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == "backward"):
        return None
    owner = call.func.value
    if call.args and is_wrapper(owner):
        return BackwardCall(node, call, call.args[0], call.func)
    if path_of(call.func) == "torch.autograd.backward" and call.args:
        return BackwardCall(node, call, call.args[0])
    return BackwardCall(node, call, owner)


def is_wrapper(owner: ast.expr) -> bool:
    """Tell `accelerator.backward(loss)` and `fabric.backward(loss)` from `loss.backward(gradient)`."""
    last = (path_of(owner) or "").rpartition(".")[2].lower()
    return any(word in last for word in ("accelerator", "fabric"))


def is_clearing(node: ast.stmt) -> bool:
    """Tell whether all a statement does is to clear gradients: `zero_grad`, `.grad.zero_()`, `.grad = None`."""
    match node:
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr="zero_grad"))):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr="zero_", value=grad))):
            return _is_grad(grad)
        case ast.Assign(targets=targets, value=ast.Constant(value=None)):
            return all(_is_grad(t) for t in targets)
        case ast.For(body=body, orelse=[]) | ast.If(body=body, orelse=[]) | ast.With(body=body):
            return all(is_clearing(s) for s in body)
        case _:
            return False


def _is_grad(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(attr="grad"):
            return True
        case ast.Attribute(attr="data", value=value):
            return _is_grad(value)
        case _:
            return False


def is_update(node: ast.stmt) -> bool:
    """Tell whether a statement may change parameters: `optimizer.step()`, `scaler.step(opt)`, `p -= lr * p.grad`."""
    for call in calls(node):
        if isinstance(call.func, ast.Attribute) and call.func.attr in _UPDATE_METHODS:
            return True
    return any(isinstance(n, ast.Attribute) and n.attr == "grad" for n in nodes(node)) and not is_clearing(node)


def steps_optimizer(node: ast.AST) -> bool:
    """Tell whether a statement calls an optimizer's `step` (a scheduler's changes no parameter)."""
    steps = [c for c in calls(node) if isinstance(c.func, ast.Attribute) and c.func.attr in _UPDATE_METHODS]
    return any("sched" not in ast.unparse(c.func).lower() for c in steps)


def trains(node: ast.AST) -> bool:
    """Tell whether a text updates parameters, and does not only ask for gradients as a saliency map does."""
    if steps_optimizer(node):
        return True
    for part in nodes(node):
        match part:
            case ast.AugAssign(value=value):
                given = [value]
            case ast.Assign(targets=[ast.Attribute(attr="data")], value=value):
                given = [value]
            case ast.Call(func=ast.Attribute(attr=attr), args=args) if attr.endswith("_"):
                given = args
            case _:
                continue
        if any(isinstance(n, ast.Attribute) and n.attr == "grad" for value in given for n in nodes(value)):
            return True
    return False


@lru_cache(maxsize=1 << 14)
def nodes(node: ast.AST) -> tuple[ast.AST, ...]:
    """Return a node and all below it, in source order; remembered, since many rules ask for the same ones."""
    return (node, *chain.from_iterable(map(nodes, ast.iter_child_nodes(node))))


def forget_nodes() -> None:
    """Forget what is remembered of trees: one of them has been changed."""
    nodes.cache_clear()
    calls.cache_clear()


@lru_cache(maxsize=4096)
def calls(node: ast.AST) -> tuple[ast.Call, ...]:
    """Return every call in a node."""
    return tuple(n for n in nodes(node) if isinstance(n, ast.Call))


def last_name(node: ast.expr) -> str:
    """Return the last word of a callee: `torch.randn_like` → `randn_like`."""
    match node:
        case ast.Attribute(attr=attr):
            return attr
        case ast.Name(id=name):
            return name
        case _:
            return ""


def contains_draw(node: ast.AST) -> bool:
    """Tell whether an expression draws random numbers by a call that can be seen."""
    return any(last_name(c.func) in DRAWS for c in calls(node))


def contains_cross_sample(node: ast.AST) -> bool:
    """Tell whether an expression has an operation that may look at several samples at once."""
    return any(last_name(c.func) in _CROSS_SAMPLE for c in calls(node))


def is_reduction_over_batch(node: ast.expr) -> bool:
    """Tell whether the outermost call of an expression removes dimension 0: `x.mean(0)`, `torch.sum(x)`."""
    if not (isinstance(node, ast.Call) and last_name(node.func) in _CROSS_SAMPLE):
        return False
    is_function = isinstance(node.func, ast.Attribute) and root(path_of(node.func) or "") in {"torch", "np", "numpy"}
    rest = node.args[1:] if is_function else node.args
    named = [k.value for k in node.keywords if k.arg in {"dim", "axis"}]
    return not (rest or named) or any(isinstance(d, ast.Constant) and d.value == 0 for d in [*rest[:1], *named])


def is_some_rows(node: ast.Subscript) -> bool:
    """Tell whether a subscript takes some of the rows: `x[:4]`, `y[::2]`, `x[1:, 0]`."""
    first = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
    return isinstance(first, ast.Slice) and any((first.lower, first.upper, first.step))


def contains_index_maker(node: ast.AST) -> bool:
    """Tell whether a statement makes positions of samples: `torch.randperm(n)`, `scores.argsort()`."""
    return any(last_name(c.func) in _INDEX_MAKERS for c in calls(node))


def contains_factory(node: ast.AST) -> bool:
    """Tell whether an expression makes a tensor from a size: `torch.ones(batch_size, 1)`."""
    return any(last_name(c.func) in FACTORIES for c in calls(node))


def is_transparent(callee: str) -> bool:
    """Tell whether a function hands on what it is given, by the names everybody imports."""
    return root(callee) in _TRANSPARENT_ROOTS or callee.startswith("nn.functional.")


def is_literal(node: ast.expr) -> bool:
    """Tell whether an expression makes the same fresh value each time: `0`, `[]`, `{}`, `torch.zeros(1)`."""
    match node:
        case ast.Constant():
            return True
        case ast.List(elts=elts) | ast.Tuple(elts=elts):
            return all(is_literal(e) for e in elts)
        case ast.Dict(keys=keys, values=values):
            return all(k is not None and is_literal(k) and is_literal(v) for k, v in zip(keys, values, strict=True))
        case ast.UnaryOp(operand=operand):
            return is_literal(operand)
        case ast.Call(func=func, args=args, keywords=keywords):
            known = path_of(func) in {"torch.zeros", "torch.tensor", "dict", "list", "float", "int"}
            return known and all(is_literal(a) for a in args) and all(k.arg and is_literal(k.value) for k in keywords)
        case _:
            return False


def is_pure_test(node: ast.expr) -> bool:
    """Tell whether a test can be asked twice: names, attributes, constants and comparisons only."""
    allowed = (ast.Name, ast.Attribute, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.expr_context,
               ast.cmpop, ast.boolop, ast.unaryop, ast.BinOp, ast.operator)  # fmt: skip
    return all(isinstance(n, allowed) for n in nodes(node))


def is_reentrant(item: ast.withitem) -> bool:
    """Tell whether a context manager may be entered again for each micro-batch."""
    node = item.context_expr
    return last_name(node.func if isinstance(node, ast.Call) else node) in REENTRANT_CONTEXTS


def returns_jump(node: ast.stmt) -> ast.stmt | None:
    """Return the `break`, `continue` or `return` that leaves a statement, if there is one."""
    if isinstance(node, ast.Break | ast.Continue | ast.Return):
        return node
    loops = (ast.For, ast.AsyncFor, ast.While)
    own = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, own) or not isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            continue
        jump = returns_jump(child)  # type: ignore[arg-type]
        if jump is not None and (isinstance(jump, ast.Return) or not isinstance(node, loops)):
            return jump
    return None


def names_with_gradient(tree: ast.AST) -> frozenset[str]:
    """Return the paths of tensors made by hand to be trained: `w.grad` is read, or `requires_grad` is set."""
    found: set[str | None] = set()
    for node in nodes(tree):
        match node:
            case ast.Attribute(value=value, attr="grad"):
                found.add(path_of(value))
            case ast.Call(func=ast.Attribute(value=value, attr="requires_grad_")):
                found.add(path_of(value))
            case ast.Assign(targets=[target], value=value) if _requires_grad(value):
                found.add(path_of(target))
    return frozenset(p for p in found if p is not None)


def _requires_grad(value: ast.expr) -> bool:
    keywords = [k for c in calls(value) for k in c.keywords]
    by_keyword = any(k.arg == "requires_grad" and not isinstance(k.value, ast.Name) for k in keywords)
    return by_keyword or any(last_name(c.func) in {"requires_grad_", "Parameter"} for c in calls(value))


def head_of(statement: ast.stmt) -> str:
    """Return the first line of a statement, for messages."""
    return ast.unparse(statement).splitlines()[0].rstrip(":")


def is_only_detached(name: str, within: Iterable[ast.AST]) -> bool:
    """Tell whether a name is read without its graph wherever it is read: `fake.detach()`, `loss.item()`."""
    loads = detached = 0
    for node in within:
        for part in nodes(node):
            if isinstance(part, ast.Name) and part.id == name and isinstance(part.ctx, ast.Load):
                loads += 1
            elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == name:
                detached += part.attr in {"detach", "data", "item", "size", "shape", "device", "dtype", "numel"}
    return loads == detached
