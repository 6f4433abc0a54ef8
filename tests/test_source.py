"""What belongs to an installed package is never rewritten, wherever its folder on `sys.path` comes from."""

import importlib
import sys

import pytest

from accum_magic.source import is_installed, source_of

FIT = """\
def fit(model, optimizer, batches):
    for x in batches:
        loss = model(x).mean()
        loss.backward()
        optimizer.step()
"""


def module_in(folder, name, monkeypatch):
    folder.mkdir(parents=True)
    (folder / f"{name}.py").write_text(FIT, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_a_folder_of_packages_that_a_pth_file_has_added_holds_installed_packages(tmp_path, monkeypatch, folder):
    name = folder.replace("-", "_")
    module = module_in(tmp_path / "elsewhere" / "lib" / folder, f"fit_of_{name}", monkeypatch)
    assert is_installed(module)
    assert source_of(module.fit) == (
        f"belongs to an installed package (`fit_of_{name}`), whose code is never rewritten. Copy the function into the "
        "notebook, or write the training loop in this cell."
    )


def test_a_module_beside_the_notebook_is_the_users_own(tmp_path, monkeypatch):
    module = module_in(tmp_path / "my_site-packages", "fit_of_the_user", monkeypatch)
    assert not is_installed(module)
    assert source_of(module.fit).tree.body[0].name == "fit"
