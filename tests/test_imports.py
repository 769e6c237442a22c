"""Who imports whom, and how long things may be: the house's rules, held by reading the sources."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = {"config", "datasets", "vae"}
SCRIPTS = [path.stem for path in ROOT.glob("*.py") if path.stem != "config"]
ALLOWED = {  # module: what it may import besides the standard library
    "config": set(),
    "vae.likelihoods": {"numpy", "tensorflow"},
    "vae.networks": {"keras"},
    "vae.model": {"numpy", "tensorflow", "vae.likelihoods", "vae.networks"},
    "vae.training": {"numpy", "tensorflow", "keras", "vae.model", "vae.networks"},
    "vae.evaluation": {"numpy", "scipy", "tensorflow", "vae.model"},
    "vae.checkpoints": {"tensorflow"},
    "vae.runs": {"tensorflow", "filelock", "vae.model", "vae.checkpoints", "config"},
    "vae.signals": set(),
    "vae.experiments": {"config"},
    "vae.results": {"vae.runs", "vae.experiments", "vae.likelihoods", "config"},
    "vae.latent": {"numpy", "scipy", "sklearn"},
    "vae.figures": {"numpy", "matplotlib"},
}
DATASETS_ALLOWED = {"numpy", "scipy", "sklearn", "pooch", "PIL", "datasets"}


def sources():
    files = [*ROOT.glob("*.py"), *ROOT.glob("vae/*.py"), *ROOT.glob("datasets/*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module in ("vae", "datasets"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("module", sources())
def test_imports(module):
    names = {name for name in imported(sources()[module]) if name.split(".")[0] not in sys.stdlib_module_names}
    if module in ALLOWED:
        allowed = ALLOWED[module]
        assert all(any(name == a or name.startswith(f"{a}.") for a in allowed) for name in names), names
    elif module.startswith("datasets"):
        assert {name.split(".")[0] for name in names} <= DATASETS_ALLOWED
    if module != "reproduce":
        assert not {name.split(".")[0] for name in names} & set(SCRIPTS)


@pytest.mark.parametrize("module", sources())
def test_lengths(module):
    text = sources()[module].read_text(encoding="utf-8")
    assert text.count("\n") <= (60 if module in SCRIPTS else 250)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 40, node.name


def test_nothing_heavy_is_imported_by_a_script_at_its_top():
    for script in SCRIPTS:
        tree = ast.parse((ROOT / f"{script}.py").read_text(encoding="utf-8"))
        tops = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name.split(".")[0] for node in tops for name in (a.name for a in node.names)}
        assert names <= set(sys.stdlib_module_names) | {"config"}, script
