"""Describes a notebook's namespace to `cell/`, which knows no torch: modules, tensors, functions that use them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from accum_magic.cell.namespace import Lookup, NameFact

_FRAMEWORKS = {"lightning": "lightning", "pytorch_lightning": "lightning", "transformers": "transformers",
               "fastai": "fastai", "composer": "composer"}  # fmt: skip
_FUNCTIONS_DEEP = 4
MISSING = object()


def describe(namespace: Mapping[str, Any]) -> Lookup:
    """Return a lookup of access paths (`x`, `self.model`, `torch.nn.functional`) in a namespace."""
    known: dict[str, NameFact | None] = {}

    def lookup(path: str) -> NameFact | None:
        if path not in known:
            known[path] = _fact(resolve(namespace, path), namespace)
        return known[path]

    return lookup


def resolve(namespace: Mapping[str, Any], path: str) -> Any:
    """Follow a path through plain attributes, MISSING where it leads nowhere; properties are not run."""
    first, *rest = path.split(".")
    value = namespace.get(first, MISSING)
    for name in rest:
        if value is MISSING:
            return MISSING
        if isinstance(value, torch.nn.Module):
            stores: list[dict[str, Any]] = [value._parameters, value._buffers, value._modules, vars(value)]  # noqa: SLF001 - no property runs
            value = next((s[name] for s in stores if name in s), _static(value, name))
        else:
            value = _static(value, name)
    return value


def _static(value: Any, name: str) -> Any:
    if isinstance(value, torch.Tensor):
        return MISSING
    found = inspect.getattr_static(value, name, MISSING)
    if isinstance(found, FunctionType) and not isinstance(value, type | ModuleType):
        return MethodType(found, value)
    return MISSING if isinstance(found, property) else found


def _fact(value: Any, namespace: Mapping[str, Any]) -> NameFact | None:
    if value is MISSING:
        return None
    if isinstance(value, torch.nn.Module):
        norms = {n: m for n, m in value.named_modules() if isinstance(m, _BatchNorm)}
        now = tuple(n for n, m in norms.items() if m.training or m.running_mean is None)
        hook = _stepping_hook(value)
        return NameFact("module", reaches=True, batch_norms=tuple(norms), training_batch_norms=now, stepping_hook=hook)
    if isinstance(value, torch.Tensor):
        shape = tuple(value.shape)
        rows = shape[0] if shape else None
        has_graph = value.grad_fn is not None
        return NameFact("tensor", reaches=value.requires_grad, rows=rows, shape=shape, has_graph=has_graph)
    if isinstance(value, ModuleType):
        return NameFact("library", reaches=False)
    if isinstance(value, FunctionType | MethodType):
        reaches = _function_reaches(value, namespace, _FUNCTIONS_DEEP)
        return NameFact("function", reaches=reaches, takes_gradients=_takes_gradients(value))
    if isinstance(value, bool | int | float | complex | str | bytes | torch.device | torch.dtype | type(None)):
        return NameFact("value", reaches=False)
    if isinstance(value, dict | list | tuple):
        return NameFact("container", reaches=_container_reaches(value))
    if type(value).__module__ == "numpy":
        return NameFact("tensor", reaches=False, rows=_rows(value), shape=tuple(getattr(value, "shape", ())))
    if isinstance(value, type) or type(value).__module__ == "builtins":
        return NameFact("function", reaches=None if _is_module_class(value) else False)
    framework = next((_FRAMEWORKS[c.__module__.partition(".")[0]] for c in type(value).__mro__
                      if c.__module__.partition(".")[0] in _FRAMEWORKS), None)  # fmt: skip
    size = _batch_size(value) if framework is not None or isinstance(value, DataLoader) else None
    return NameFact("object", reaches=_object_reaches(value), framework=framework, batch_size=size)


def _batch_size(value: Any) -> int | None:
    """Return the batch size of a loader, of a Hugging Face Trainer or of a fastai Learner."""
    for path in ("batch_size", "args.per_device_train_batch_size", "dls.bs"):
        found = value
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, int):
            return found
    return None


def _takes_gradients(function: FunctionType | MethodType) -> bool:
    plain = function if isinstance(function, FunctionType) else function.__func__
    names = function.__code__.co_names
    by_name = "grad" in names and getattr(plain, "__globals__", {}).get("grad") is torch.autograd.grad
    return by_name or {"autograd", "grad"} <= set(names)


def _stepping_hook(module: torch.nn.Module) -> str | None:
    """Return the name of a gradient hook on a module's parameters that calls `step`."""
    for parameter in module.parameters():
        for hooks in (parameter._post_accumulate_grad_hooks, parameter._backward_hooks):  # noqa: SLF001
            for hook in (hooks or {}).values():
                if "step" in getattr(getattr(hook, "__code__", None), "co_names", ()):
                    return str(getattr(hook, "__name__", hook))
    return None


def _rows(value: Any) -> int | None:
    shape = getattr(value, "shape", ())
    return int(shape[0]) if shape else None


def _is_module_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, torch.nn.Module)


def _container_reaches(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return any(isinstance(i, torch.nn.Module) or (isinstance(i, torch.Tensor) and i.requires_grad) for i in items)


def _is_installed(module: str | None) -> bool:
    top = (module or "").partition(".")[0]
    return top in {
        "torch",
        "numpy",
        "math",
        "random",
        "einops",
        "torchvision",
        "torchaudio",
        "PIL",
        "scipy",
        "builtins",
    }


def _object_reaches(value: object) -> bool | None:
    """An object of the user's: anything may be behind it. A tokenizer or transform of a package: no module."""
    if _is_installed(type(value).__module__):
        return False
    held = getattr(value, "__dict__", {})
    if any(isinstance(v, torch.nn.Module) for v in held.values()):
        return True
    return None if type(value).__module__ == "__main__" else False


def _function_reaches(function: Any, namespace: Mapping[str, Any], depth: int) -> bool | None:
    """Whether a function uses a module or a trainable tensor of its globals or closure, directly or by calls."""
    if isinstance(function, MethodType):
        if isinstance(function.__self__, torch.nn.Module):
            return True
        function = function.__func__
    if _is_installed(getattr(function, "__module__", None)):
        return False
    code = getattr(function, "__code__", None)
    if code is None or depth == 0:
        return None
    captured = [c.cell_contents for c in function.__closure__ or () if _is_filled(c)]
    used = [function.__globals__[n] for n in code.co_names if n in function.__globals__] + captured
    verdicts = [_used_reaches(v, namespace, depth) for v in used]
    return True if True in verdicts else None if None in verdicts else False


def _used_reaches(value: Any, namespace: Mapping[str, Any], depth: int) -> bool | None:
    if isinstance(value, FunctionType | MethodType):
        return _function_reaches(value, namespace, depth - 1)
    fact = _fact(value, namespace)
    return None if fact is None else fact.reaches


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True
