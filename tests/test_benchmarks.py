"""Tests of benchmarks/, and of README's table. Peers whose library is not installed are skipped."""

import ast
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, growth, limit, rounds, run, turns, workers
from benchmarks.rounds import Contender
from config import Config
from report.markdown import format_table

ROOT = Path(__file__).parents[1]
PEERS = {"jax_scan": {"jax", "optax"}, "keras_fit": {"keras", "tensorflow"}, "pytorch": {"torch"}}


@pytest.fixture
def one_round(monkeypatch):
    monkeypatch.setattr(rounds, "ROUNDS", 1)
    monkeypatch.setattr(rounds, "WARM_UPS", 1)


def contender(table, name):
    (found,) = [contender for contender in table if contender.name == name]
    return found


def has_library(contender):
    libraries = PEERS.get(contender.module.rpartition(".")[2], ())
    return all(importlib.util.find_spec(library) for library in libraries)


@pytest.mark.slow
def test_this_project_and_the_limit_take_turns(one_round, capfd):
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28, 1), dtype=np.uint8)
    # benchmarks.turns does nothing when it is started as a program. So it ends before it prints a measurement.
    broken = Contender("a peer whose library is missing", "benchmarks.turns", "flat")
    contenders = [contender(compare.FLAT, compare.LIMIT), broken, contender(compare.FLAT, compare.OURS)]
    measurements = rounds.run_rounds(contenders, images, ["--hidden_size", "8"])
    assert "a peer whose library is missing ended early" in capfd.readouterr().err
    assert list(measurements) == [compare.LIMIT, compare.OURS]
    (of_limit,) = measurements[compare.LIMIT]
    (ours,) = measurements[compare.OURS]
    # Three times every multiply-add of the forward pass. The gradient of the images is not computed.
    forward = 784 * 8 + 8 * 8 + 8 * 40 + 20 * 8 + 8 * 8 + 8 * 784
    assert of_limit["seconds"] * of_limit["rate"] == pytest.approx(2 * 200 * (3 * forward - 784 * 8))
    # 784 fair coins have -543 nats.
    assert -600 < ours["elbo"] < -400
    assert ours["seconds"] > 0
    assert f"| this project | {ours['seconds']:.3f} | 1.00 |" in compare.make_table(measurements)


@pytest.mark.slow
@pytest.mark.parametrize("table", [compare.FLAT, compare.CONV3], ids=["flat", "conv3"])
def test_every_row_trains_in_miniature(table, one_round, capfd):
    contenders = [contender for contender in table if contender.name != compare.LIMIT and has_library(contender)]
    if table is compare.FLAT:
        images = np.random.default_rng(0).integers(0, 256, (200, 28, 28, 1), dtype=np.uint8)
    else:
        images = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    measurements = rounds.run_rounds(contenders, images, ["--hidden_size", "8"])
    assert list(measurements) == [contender.name for contender in contenders], capfd.readouterr().err
    # A fair coin for each pixel has log 2 nats. After a few steps, no model is far from it.
    for name, (measurement,) in measurements.items():
        assert -1.1 < measurement["elbo"] / images[0].size / np.log(2) < -0.8, name


ROWS_OF_PEERS = [row for row in (*compare.FLAT, *compare.CONV3) if row.module.startswith("benchmarks.peers.")]


@pytest.mark.parametrize("row", ROWS_OF_PEERS, ids=lambda row: row.name)
def test_the_program_of_a_peer_takes_the_kind_of_its_row(row):
    """The libraries of most peers are not installed where the tests run."""
    source = (ROOT / f"{row.module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert f'"{row.kind}"' in source


def test_the_error_output_of_a_contender_that_fails_is_shown(one_round, monkeypatch, tmp_path, capfd):
    (tmp_path / "print_ones.py").write_text("import sys\nfor _ in sys.stdin: print(1, flush=True)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    contenders = [Contender("ones", "print_ones", "fit"), Contender("missing", "benchmarks.peers.missing", "fit")]
    measurements = rounds.run_rounds(contenders, np.zeros((100, 28, 28, 1), np.uint8))
    assert "No module named benchmarks.peers.missing" in capfd.readouterr().err
    assert measurements == {"ones": [1]}


def test_rounds_go_on_until_no_contender_is_left(one_round, capfd):
    broken = Contender("a broken peer", "benchmarks.turns", "flat")
    assert rounds.run_rounds([broken], np.zeros((100, 28, 28, 1), np.uint8)) == {}
    assert "a broken peer ended early" in capfd.readouterr().err


def test_the_limit_of_conv3_counts_every_multiply_and_add():
    """By hand: kernel area times maps in and out times positions for each layer, three times for all but the first."""
    images = np.zeros((100, 32, 32, 3), np.uint8)
    operations = limit.count_operations(images, Config(vae_type="conv3"))
    first = 9 * 3 * 32 * 32**2
    others = 49 * 32 * 64 * 16**2 + 25 * 64 * 128 * 8**2 + 2048 * 40 + 20 * 2048
    others += 25 * 128 * 64 * 4**2 + 49 * 64 * 32 * 8**2 + 9 * 32 * 3 * 16**2
    assert operations == 2 * 100 * (2 * first + 3 * others)


def test_the_sections_name_the_rate_behind_their_limit(monkeypatch):
    limit = {"seconds": 1.0, "rate": 321e9}
    ours = {"seconds": 2.0, "elbo": -100.0, "peak_memory": 2**30}
    measured = {compare.LIMIT: [limit], compare.OURS: [ours]}
    monkeypatch.setattr(compare, "run_rounds", lambda *args: measured)
    images = np.zeros((100, 28, 28, 1), np.uint8)
    for section in (compare.flat_section(images, hidden_size=8), compare.conv3_section(images)):
        assert "with 321 billion operations per second" in section


def test_numbers_of_a_comparison_are_medians_of_the_rounds():
    limit = [{"seconds": 1.0}, {"seconds": 2.0}, {"seconds": 10.0}]
    ours = [{"seconds": seconds, "elbo": -100.0, "peak_memory": 2**30} for seconds in (2.0, 2.0, 30.0)]
    table = compare.make_table({compare.LIMIT: limit, compare.OURS: ours})
    assert table.splitlines() == [
        "|  | seconds per epoch | relative to this project | relative to the limit | training ELBO | peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
        "| the limit | 2.000 | 0.50 | 1.00 |  |  |",
        "| this project | 2.000 | 1.00 | 2.00 | -100.00 | 1.00 GiB |",
    ]


def test_a_table_in_markdown():
    assert format_table(["a", "b"], [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_each_contender_begins_a_round_in_its_turn(monkeypatch):
    contenders = [Contender(name, "module", "kind") for name in "abc"]
    order = []

    def give_turn(name):
        order.append(name)
        return {"seconds": 1.0}

    monkeypatch.setattr(rounds, "start", lambda contender, arguments: contextlib.nullcontext(contender.name))
    monkeypatch.setattr(rounds, "give_turn", give_turn)
    monkeypatch.setattr(rounds, "PAUSE", 0)
    monkeypatch.setattr(rounds, "WARM_UPS", 1)
    monkeypatch.setattr(rounds, "ROUNDS", 3)
    measurements = rounds.run_rounds(contenders, np.zeros(1))
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert [len(measured) for measured in measurements.values()] == [3, 3, 3]


def test_the_part_of_the_page_that_is_written_by_hand_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "RESULTS", tmp_path / "RESULTS.md")
    run.RESULTS.write_text("old numbers\n\n## Tried\n\n- something ± 1\n", encoding="utf-8")
    run.write_page(["first", "second"], run.read_notes())
    assert run.RESULTS.read_text(encoding="utf-8") == "first\n\nsecond\n\n## Tried\n\n- something ± 1\n"
    assert list(tmp_path.iterdir()) == [run.RESULTS]


def test_the_page_explains_its_numbers_as_the_next_one_will():
    _, _, explanation = run.INTRODUCTION.partition("{machine}")
    text = explanation.format(
        epochs_per_turn=turns.EPOCHS_PER_TURN,
        warm_ups=rounds.WARM_UPS,
        rounds=rounds.ROUNDS,
    )
    assert text in run.RESULTS.read_text(encoding="utf-8")


def test_the_tables_have_the_rows_that_the_next_run_writes():
    results = run.RESULTS.read_text(encoding="utf-8")
    contenders_of_sections = {
        "### Binarized MNIST, encoder 784-200": compare.FLAT,
        "### Binarized MNIST, encoder 784-500": compare.FLAT,
        "### conv3": compare.CONV3,
    }
    for heading, contenders in contenders_of_sections.items():
        assert first_cells(results, heading)[2:] == [contender.name for contender in contenders]
    assert first_cells(results, "## Several workers")[2:] == list(workers.MODELS)
    lines_of_growth = [line for line in lines_of_section(results, "## How the cost grows") if line.startswith("- ")]
    for line, (name, sizes) in zip(lines_of_growth, growth.SIZES.items(), strict=True):
        assert line.startswith(f"- {name.replace('_', ' ')}: ")
        assert re.findall(r"\((\d+)\)", line) == [str(size) for size in sizes]


def first_cells(results, heading):
    """The first cells of the lines of a section's table: the header, the line below it, and the rows."""
    lines = lines_of_section(results, heading)
    return [line.split("|")[1].strip() for line in lines if line.startswith("|")]


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks" / "peers").glob("[!_]*.py")))
def test_a_peer_imports_its_own_library_and_the_turns(name):
    modules = set(imported_modules(ROOT / "benchmarks" / "peers" / f"{name}.py"))
    libraries = {module.split(".")[0] for module in modules - {"benchmarks.turns"}}
    assert libraries - set(sys.stdlib_module_names) <= PEERS[name] | {"numpy"}


def test_the_turns_import_no_library_but_numpy():
    code = "import sys, benchmarks.peers, benchmarks.turns; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "jax", "torch", "cli", "config", "vae", "datasets"} & set(done.stdout.split())


def test_only_this_project_gets_its_own_tuning(monkeypatch):
    """Contenders inherit the environment of benchmarks.run, which loads TensorFlow only after it has started them."""
    environment = {"PATH": "/bin", "XLA_FLAGS": "--some_flag", "TF_ENABLE_ONEDNN_OPTS": "0", "OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(rounds.os, "environ", environment)
    rounds.prepare_environment()
    assert environment == {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "-1"}
    code = "import os, sys; from benchmarks import rounds, run; rounds.prepare_environment(); "
    code += "print('XLA_FLAGS' in os.environ or 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env={})
    assert done.stdout == "False\n"


def lines_of_section(page, heading):
    """The lines of the only section of a page whose heading has this beginning."""
    sections = re.split(r"^(?=#+ )", page, flags=re.MULTILINE)
    (section,) = [section for section in sections if section.startswith(heading)]
    return section.splitlines()


def test_the_rows_in_the_readme_are_those_of_the_default_model_in_the_results():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    names = ("| the limit", "| this project", "| PyTorch", "| JAX", "| Keras")
    rows = [line for line in readme if line.startswith(names)]
    assert len(rows) >= 5
    assert set(rows) <= set(lines_of_section(results, "### Binarized MNIST, encoder 784-200-200-40"))


def test_workers_are_compared_with_one_process_within_each_round():
    seconds = {"1 process, 1 core": [0.1, 0.2, 0.3], "2 workers": [0.06, 0.12, 0.15]}
    assert workers.make_row("conv3", seconds) == ["conv3", "200.0 (1.00)", "120.0 (0.60)"]


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2 or not shutil.which("taskset"), reason="needs Linux and two cores")
@pytest.mark.parametrize("setup", workers.SETUPS)
def test_every_set_up_of_workers_is_timed(setup):
    assert workers.seconds_per_step("H = 500", setup) > 0


def test_growth_has_a_line_for_each_parameter(monkeypatch):
    def seconds_per_epoch(images, config):
        return len(images) / 100 * config.hidden_size / 200

    monkeypatch.setattr(growth, "seconds_per_epoch", seconds_per_epoch)
    monkeypatch.setattr(growth, "SIZES", {"images": (100, 200), "hidden_size": (100, 400)})
    section = growth.section(np.zeros((300, 2, 2, 1), np.uint8))
    assert section.splitlines()[-2:] == [
        "- images: 1.00 (100), 2.00 (200)",
        "- hidden size: 1.50 (100), 6.00 (400)",
    ]
