"""Cells that train through a framework: its own argument does what the magic would."""

from __future__ import annotations

import ast

from accum_magic.cell.effects import path_of, root
from accum_magic.cell.namespace import Lookup
from accum_magic.cell.recognise import calls, last_name

_ADVICE = {
    "lightning": (
        "Lightning accumulates by itself: Trainer(accumulate_grad_batches=4), with a loader of smaller batches."
    ),
    "transformers": (
        "The Hugging Face Trainer accumulates by itself: TrainingArguments(gradient_accumulation_steps=4, "
        "per_device_train_batch_size=<batch size / 4>)."
    ),
    "fastai": (
        "fastai accumulates by itself: Learner(..., cbs=GradientAccumulation(n_acc=<batch size>)), with a smaller bs."
    ),
    "composer": "Composer accumulates by itself: Trainer(device_train_microbatch_size='auto').",
}


def framework_call(tree: ast.Module, lookup: Lookup) -> str | None:
    """Return what to say of a cell that calls a framework's training loop, None where it calls none."""
    for call in calls(tree):
        name, owner = last_name(call.func), path_of(call.func) or ast.unparse(call.func)
        framework = _framework(name, owner, tree, lookup)
        if framework is not None:
            return f"line {call.lineno}: `{owner}` trains through a framework. {_ADVICE[framework]}"
    return None


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
