"""Cells that train through a framework: its own argument does what the magic would."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Literal

from accum_magic.cell.effects import path_of, root
from accum_magic.cell.namespace import Lookup
from accum_magic.cell.recognise import calls, last_name


def framework_call(tree: ast.Module, lookup: Lookup, n: int | Literal["auto"] | None) -> str | None:
    """Return what to say of a cell that calls a framework's training loop, None where it calls none.

    `n` is the number of micro-batches that was asked for: the framework's own argument is named with its value, or
    with 4 where none was; Composer has an `auto` of its own.
    """
    count = n if isinstance(n, int) else 4
    for call in calls(tree):
        name, owner = last_name(call.func), path_of(call.func) or ast.unparse(call.func)
        framework = _framework(name, owner, tree, lookup)
        if framework is not None:
            size = _batch_size(call, owner, tree, lookup)
            advice = _composer(4, None) if (framework, n) == ("composer", "auto") else _ADVICE[framework](count, size)
            return f"line {call.lineno}: `{owner}` trains through a framework. {advice}"
    return None


def _batch_size(call: ast.Call, owner: str, tree: ast.Module, lookup: Lookup) -> int | None:
    """Return the batch size that a framework trains with: its own, or that of a loader it is given."""
    makers = [c for c in calls(tree) if last_name(c.func) in {"Trainer", "Learner", last_name(call.func)}]
    given = [a for c in (call, *makers) for a in (*c.args, *(k.value for k in c.keywords))]
    paths = [root(owner), *(p for a in given if (p := path_of(a)) is not None)]
    return next((f.batch_size for p in paths if (f := lookup(p)) is not None and f.batch_size is not None), None)


def _lightning(n: int, size: int | None) -> str:
    loader = (
        "with batches that are smaller by as much"
        if size is None
        else f"with batch_size={_share(size, n)} in the loader"
    )
    return f"Lightning accumulates by itself: Trainer(accumulate_grad_batches={n}), {loader}."


def _transformers(n: int, size: int | None) -> str:
    each = f"<batch size / {n}>" if size is None else str(_share(size, n))
    return (
        f"The Hugging Face Trainer accumulates by itself: TrainingArguments(gradient_accumulation_steps={n}, "
        f"per_device_train_batch_size={each})."
    )


def _fastai(n: int, size: int | None) -> str:
    whole, each = ("<batch size>", f"<batch size / {n}>") if size is None else (str(size), str(_share(size, n)))
    return f"fastai accumulates by itself: Learner(..., cbs=GradientAccumulation(n_acc={whole})), with bs={each}."


def _composer(n: int, size: int | None) -> str:
    each = "'auto'" if size is None else str(_share(size, n))
    return f"Composer accumulates by itself: Trainer(device_train_microbatch_size={each})."


def _share(size: int, n: int) -> int:
    return -(-size // n)


_ADVICE: dict[str, Callable[[int, int | None], str]] = {
    "lightning": _lightning, "transformers": _transformers, "fastai": _fastai, "composer": _composer,
}  # fmt: skip


def _framework(name: str, owner: str, tree: ast.Module, lookup: Lookup) -> str | None:
    fact = lookup(root(owner))
    if name.startswith(("fit", "train", "fine_tune")) and fact is not None and fact.framework is not None:
        return fact.framework
    if name in {"fit_one_cycle", "fine_tune", "fit_flat_cos"} or root(owner) in {"learn", "learner"}:
        return "fastai" if name.startswith("fi") else None
    is_trainer = "trainer" in owner.lower()
    if is_trainer and name == "train":
        return "transformers"
    if is_trainer and name == "fit":
        text = ast.unparse(tree).lower()
        return "composer" if "composer" in text or "max_duration" in text else "lightning"
    return None
