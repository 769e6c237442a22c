"""benchmarks/: what runs without the peers' libraries, and the README's table."""

from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import compare

    monkeypatch.setattr(compare, "ROUNDS", 1)
    monkeypatch.setattr(compare, "WARM_UPS", 1)
    return compare


def test_this_project_and_the_limit_take_turns(compare, capfd):
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28, 1), dtype=np.uint8)
    broken = {"a peer whose library is missing": ("peers/turns.py", "flat")}  # ends without a word, as one that fails
    names = {compare.LIMIT: compare.FLAT[compare.LIMIT], **broken, compare.OURS: compare.FLAT[compare.OURS]}
    epochs = compare.take_turns(names, images, ("--hidden_size", "8"))
    assert "a peer whose library is missing ended early" in capfd.readouterr().err
    (limit,), (ours,) = epochs[compare.LIMIT], epochs[compare.OURS]
    assert list(epochs) == [compare.LIMIT, compare.OURS]
    assert limit["limit"] == pytest.approx(
        min(limit[n] for n in ("NumPy", "TensorFlow", "XLA")) + limit["Adam"] + limit["loss"]
    )
    assert -600 < ours["elbo"] < -400 and ours["seconds"] > 0  # 784 fair coins: -543
    assert f"| this project | {ours['seconds']:.3f} | 1.00 |" in compare.table(epochs)


def test_conv3s_limit_counts_each_multiply_and_add(compare):
    """By hand: kernel areas times maps in and out times positions, a layer each; all but the first three times."""
    images = np.zeros((100, 32, 32, 3), np.uint8)
    (row,) = compare.take_turns({compare.LIMIT: compare.CONV3[compare.LIMIT]}, images)[compare.LIMIT]
    first = 9 * 3 * 32 * 32**2
    others = 49 * 32 * 64 * 16**2 + 25 * 64 * 128 * 8**2 + 2048 * 40 + 20 * 2048
    others += 25 * 128 * 64 * 4**2 + 49 * 64 * 32 * 8**2 + 9 * 32 * 3 * 16**2
    assert row["limit"] * row["rate"] == pytest.approx(2 * 100 * (2 * first + 3 * others))


def test_the_readmes_table_is_that_of_the_results():
    results = (FOLDER / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8").splitlines()
    names = ("| the limit", "| this project", "| PyTorch", "| JAX", "| Keras")
    rows = [line for line in readme if line.startswith(names)]
    assert len(rows) >= 5 and set(rows) <= set(results)
