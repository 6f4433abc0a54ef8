"""`%load_ext`, `%unload_ext`, `%reload_ext`: the shell is what it was before."""

import textwrap

import pytest
from shell.shell_tools import TRAIN

STATE = (
    "(sorted(get_ipython().magics_manager.magics['cell']), sorted(get_ipython().magics_manager.registry), "
    "[getattr(t, '__name__', '') for t in get_ipython().input_transformers_cleanup], "
    "len(get_ipython().input_transformers_post), len(get_ipython().ast_transformers), "
    "{k: len(v) for k, v in get_ipython().events.callbacks.items()})"
)
AWAITING = f"%%accumulate 4\n{TRAIN}await asyncio.sleep(0, 'waited')"


@pytest.fixture
def loaded(kernel):
    yield kernel
    kernel.run("%reload_ext accum_magic").ok()


def test_unload_leaves_the_shell_as_it_was(loaded):
    loaded.run("%unload_ext accum_magic").ok()
    before = loaded.value(STATE)
    assert "accumulate" not in before[0]
    for _ in range(2):
        loaded.run("%load_ext accum_magic").ok()
        assert "accumulate" in loaded.value(STATE)[0]
        loaded.run("%unload_ext accum_magic").ok()
        assert loaded.value(STATE) == before


def test_after_unload_the_magic_is_gone(loaded):
    loaded.run("%unload_ext accum_magic").ok()
    assert "UsageError: Cell magic `%%accumulate` not found." in loaded.run(f"%%accumulate 4\n{TRAIN}").stderr
    # without the input transformer an awaiting cell is an ordinary unknown magic, too
    assert "UsageError: Cell magic `%%accumulate` not found." in loaded.run(AWAITING).stderr


def test_load_again_works(loaded):
    loaded.run("%unload_ext accum_magic").ok()
    loaded.run("%load_ext accum_magic").ok()
    loaded.run(f"fresh()\n%load_ext accum_magic\n{TRAIN}expected = parameters()\nfresh()").ok()
    loaded.run(f"%%accumulate 4\n{TRAIN}").ok()
    assert loaded.value("same(parameters(), expected)")
    assert loaded.run(AWAITING).ok().out == "'waited'"


def test_reload_registers_everything_once(loaded):
    before = loaded.value(STATE)
    loaded.run("%reload_ext accum_magic").ok()
    assert loaded.value(STATE) == before


def test_a_function_rewritten_before_unload_still_trains(loaded):
    loaded.run("%%accumulate 4\ndef train():\n" + textwrap.indent(TRAIN, "    ")).ok()
    loaded.run("%unload_ext accum_magic").ok()
    loaded.run("before = parameters()\ntrain()").ok()
    assert not loaded.value("same(parameters(), before)")


def test_another_magic_whose_name_begins_alike_is_left_alone(loaded):
    loaded.run(
        "from IPython.core.magic import register_cell_magic\n"
        "@register_cell_magic\ndef accumulate_twice(line, cell): return ('theirs', line)"
    ).ok()
    assert loaded.run("%%accumulate_twice 4\nimport asyncio\nawait asyncio.sleep(0)").ok().out == "('theirs', '4')"
