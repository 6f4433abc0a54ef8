"""`%%accumulate N --check` in a real kernel: what is printed, and that the notebook is what it was."""

from shell.shell_tools import TRAIN

# Plain text of the whole notebook's state: all names that the user has, and the random state.
STATE = (
    "(sorted(k for k in dir() if not k.startswith('_')), [p.tolist() for p in model.parameters()], "
    "str(optimizer.state_dict()), [p.grad for p in model.parameters()], torch.get_rng_state().sum().item())"
)


def check(kernel, body, line="4 --check"):
    return kernel.run(f"%%accumulate {line}\n{body}")


def test_prints_the_table_and_nothing_else(trained):
    trained.run("import torch.nn as nn").ok()
    before = trained.value(STATE)
    reply = check(trained, TRAIN).ok()
    assert trained.value(STATE) == before
    assert reply.out is None
    assert reply.stdout == reply.stderr == ""
    [table] = reply.displays
    heading, line, *rows = table.splitlines()
    assert heading == "accum_magic: same · nothing was trained, all state is as it was"
    assert line.startswith(
        "line 4: same · 8 of 10 samples at once and in 4 micro-batches · largest relative difference "
    )
    assert {row.split()[1] for row in rows} == {
        "model.0.weight",
        "model.0.bias",
        "model.2.weight",
        "model.2.bias",
        "loss",
    }
    assert reply.history == {}  # no line that updates
    trained.run(f"%%accumulate 4\n{TRAIN}").ok()
    assert trained.value("same(parameters(), expected)")


def test_what_the_cell_prints_above_the_step_is_seen_and_the_last_expression_is_no_out(trained):
    reply = check(trained, f"print('above')\n{TRAIN}    print('below')\nloss").ok()
    assert (reply.stdout, reply.out) == ("above\n", None)


def test_a_batch_norm_is_told(trained):
    trained.run(
        "fresh()\nmodel.append(nn.BatchNorm1d(3))\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)"
    ).ok()
    [table] = check(trained, TRAIN).ok().displays
    assert table.startswith("accum_magic: different · nothing was trained")
    assert table.splitlines()[-1].strip() == (
        "approximate: BatchNorm in training mode (3) normalises each micro-batch by itself"
    )
    assert trained.value("model[3].num_batches_tracked.item()") == 0


def test_cells_that_await(trained):
    before = trained.value(STATE)
    reply = check(trained, f"await asyncio.sleep(0)\n{TRAIN}    await asyncio.sleep(0)\n").ok()
    assert reply.displays[0].startswith("accum_magic: same")
    assert reply.out is None
    assert trained.value(STATE) == before


def test_a_function_of_another_cell(trained):
    body = "".join(f"    {line}\n" for line in TRAIN.splitlines())
    trained.run(f"count = 0\ndef train():\n    global count\n    count += 1\n{body}").ok()
    before = trained.value(STATE)
    [table] = check(trained, "train()").ok().displays
    assert "of `train`: same" in table
    assert trained.value("count") == 0
    assert trained.value(STATE) == before
    trained.run("train()").ok()
    assert trained.value("same(parameters(), expected)")


def test_an_iterator_is_refused_at_its_line(trained):
    trained.run("it = iter(loader)").ok()
    reply = check(trained, "x, y = next(it)\nF.cross_entropy(model(x), y).backward()\noptimizer.step()")
    assert reply.traceback.startswith("AccumulateError: line 2: `it` is an iterator (list_iterator).")
    assert trained.value("len(list(it))") == 2
    trained.run("del it").ok()


def test_an_error_of_the_cell_is_shown_at_its_line_and_all_is_put_back(trained):
    before = trained.value(STATE)
    reply = check(trained, TRAIN.replace("model(x), y", "model(x), y + 7"))
    assert reply.ename == "IndexError"
    assert "----> 4     loss = F.cross_entropy(model(x), y + 7)" in reply.traceback
    assert "accum_magic/engine" not in reply.traceback
    assert trained.value(STATE) == before


def test_an_interrupt_puts_all_back(trained):
    before = trained.value(STATE)
    body = TRAIN.replace(
        "    optimizer.zero_grad()", "    optimizer.zero_grad()\n    print('now', flush=True)\n    time.sleep(60)"
    )
    sent = trained.start(f"%%accumulate 4 --check\n{body}")
    reply = trained.finish(sent, until=lambda r: "now" in r.stdout)
    trained.interrupt()
    reply = trained.finish(sent, reply)
    assert reply.ename == "KeyboardInterrupt"
    assert trained.value(STATE) == before


def test_the_last_run_is_the_last_real_one(trained):
    trained.run(f"%%accumulate 5\n{TRAIN}").ok()
    check(trained, TRAIN).ok()
    trained.run("import accum_magic").ok()
    assert trained.value("accum_magic.last_run().micro_batches") == 10
    trained.run("del accum_magic").ok()
