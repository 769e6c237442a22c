"""Who imports whom: the rules of the house, checked by reading the source files."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem for path in ROOT.glob("*.py")} - {"cli", "config"}
OUR_PACKAGES = {"benchmarks", "cli", "config", "datasets", "explorer", "report", "tests", "vae", *SCRIPTS}

# What each module of vae/ imports at run time, besides the standard library. A name stands for all that is in it.
VAE = {
    "vae": set(),
    "vae.likelihoods": {"numpy", "tensorflow"},
    "vae.networks": {"keras"},
    "vae.randomness": {"numpy"},
    "vae.prefetch": set(),
    "vae.model": {"keras", "numpy", "tensorflow", "vae.likelihoods", "vae.networks", "vae.randomness"},
    "vae.cores": {"tensorflow", "vae.networks"},
    "vae.training": {
        "keras",
        "numpy",
        "tensorflow",
        "vae.cores",
        "vae.model",
        "vae.networks",
        "vae.prefetch",
        "vae.randomness",
    },
    "vae.cluster": set(),
    "vae.distribution": {"numpy", "tensorflow", "vae.cluster", "vae.model", "vae.training"},
    "vae.gaussian_fit": {"tensorflow", "vae.likelihoods", "vae.model", "vae.randomness"},
    "vae.importance": {
        "numpy",
        "scipy",
        "tensorflow",
        "vae.gaussian_fit",
        "vae.model",
        "vae.prefetch",
        "vae.randomness",
    },
    "vae.evaluation": {
        "numpy",
        "tensorflow",
        "vae.cores",
        "vae.importance",
        "vae.likelihoods",
        "vae.model",
        "vae.randomness",
    },
    "vae.files": set(),
    "vae.checkpoints": {"tensorflow"},
    "vae.runs": {
        "config",
        "filelock",
        "tensorflow",
        "vae.checkpoints",
        "vae.files",
        "vae.model",
        "vae.training.HistoryRow",
        "vae.training.is_tested",
    },
    "vae.signals": set(),
    "vae.latent": {"numpy", "scipy", "sklearn"},
    "vae.figures": {"matplotlib", "numpy", "vae.latent.LatentPlane"},
}
DATASETS = {"PIL", "config", "datasets", "numpy", "pooch", "scipy", "sklearn", "tqdm"}
FILE_MODULES = {"glob", "io", "os", "pathlib", "shutil", "tempfile"}


class ImportFinder(ast.NodeVisitor):
    """Collects the full names that a source imports at run time: at its top, and inside functions.

    `from vae import runs` is found as "vae.runs". What stands under `if TYPE_CHECKING:` never runs, and is left out.
    """

    def __init__(self, source):
        self.at_top = set()
        self.in_functions = set()
        self._function_depth = 0
        self.visit(ast.parse(source))

    def visit_Import(self, node):
        self._add(alias.name for alias in node.names)

    def visit_ImportFrom(self, node):
        assert node.level == 0, "imports are absolute in this project"
        self._add(f"{node.module}.{alias.name}" for alias in node.names)

    def visit_If(self, node):
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)
            return
        for statement in node.orelse:
            self.visit(statement)

    def visit_FunctionDef(self, node):
        self._function_depth += 1
        self.generic_visit(node)
        self._function_depth -= 1

    def _add(self, names):
        found = self.in_functions if self._function_depth else self.at_top
        found.update(names)


def find_sources(pattern):
    """Returns the paths of source files by the names of their modules."""
    sources = {}
    for path in sorted(ROOT.glob(pattern)):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        sources[module.removesuffix(".__init__")] = path
    return sources


SOURCES = {}
for folder in ("", "vae/", "datasets/", "explorer/", "report/", "benchmarks/", "benchmarks/peers/"):
    SOURCES |= find_sources(f"{folder}*.py")


def imports_of(module):
    return ImportFinder(SOURCES[module].read_text(encoding="utf-8"))


def all_imports_of(module):
    """Returns the full names that a module imports at run time, except those of the standard library."""
    found = imports_of(module)
    return {name for name in found.at_top | found.in_functions if package_of(name) not in sys.stdlib_module_names}


def project_modules_of(module):
    """Returns the modules of this project that a module imports at run time."""
    names = all_imports_of(module)
    parents = {name.rpartition(".")[0] for name in names}
    return (names | parents) & set(SOURCES)


def modules_in(package):
    return [module for module in SOURCES if package_of(module) == package]


def package_of(name):
    return name.split(".")[0]


def packages_of(names):
    return {package_of(name) for name in names}


def is_inside(name, others):
    """Returns whether a name is one of the others, or is below one of them, as "a.b" is below "a"."""
    return any(f"{name}.".startswith(f"{other}.") for other in others)


def names_outside(names, allowed):
    return {name for name in names if not is_inside(name, allowed)}


def test_the_finder_tells_top_functions_and_type_checking_apart():
    found = ImportFinder(
        """
import a.b
from c import d
with context():
    import e
if TYPE_CHECKING:
    import never
else:
    import f
class C:
    def method(self):
        if condition:
            from g.h import i, j
"""
    )
    assert found.at_top == {"a.b", "c.d", "e", "f"}
    assert found.in_functions == {"g.h.i", "g.h.j"}


def test_a_name_is_inside_a_package_only_if_the_parts_agree():
    assert is_inside("vae.runs", {"numpy", "vae"}) and is_inside("vae", {"vae"})
    assert not is_inside("vaes.runs", {"vae"}) and not is_inside("vae", {"vae.runs"})


def test_config_imports_the_standard_library_only():
    assert not all_imports_of("config")


def test_cli_imports_config_at_its_top_and_the_rest_inside_functions():
    assert packages_of(imports_of("cli").at_top) <= sys.stdlib_module_names | {"config"}
    assert packages_of(all_imports_of("cli")) <= {"config", "datasets", "vae"}


def test_every_module_of_vae_has_its_row_in_the_table():
    assert set(modules_in("vae")) == set(VAE)


@pytest.mark.parametrize("module", VAE)
def test_a_module_of_vae_imports_only_what_the_table_has(module):
    assert not names_outside(all_imports_of(module), VAE[module])


def test_likelihoods_and_networks_do_not_import_each_other():
    assert "vae.networks" not in project_modules_of("vae.likelihoods")
    assert "vae.likelihoods" not in project_modules_of("vae.networks")


def test_only_distribution_and_train_know_the_cluster():
    """A run of one process imports neither vae.cluster nor vae.distribution: train.py does inside functions."""
    for module in SOURCES:
        names = {name for name in all_imports_of(module) if is_inside(name, {"vae.cluster", "vae.distribution"})}
        assert not names or module in ("train", "vae.distribution", "benchmarks.replicas"), module
    assert not {name for name in imports_of("train").at_top if is_inside(name, {"vae"})}


def test_training_touches_no_file():
    """Neither it nor a module of the project that it imports, directly or through another.

    vae.cores imports os, but only to count the cores and to read environment variables.
    """
    reached = set()
    remaining = {"vae.training"}
    while remaining:
        module = remaining.pop()
        reached.add(module)
        remaining |= project_modules_of(module) - reached
    assert not reached & {"vae.files", "vae.runs", "vae.checkpoints"}
    for module in reached:
        found = imports_of(module)
        allowed = {"os"} if module == "vae.cores" else set()
        assert packages_of(found.at_top | found.in_functions) & FILE_MODULES <= allowed, module


@pytest.mark.parametrize("module", modules_in("datasets"))
def test_datasets_know_neither_tensorflow_nor_vae(module):
    assert packages_of(all_imports_of(module)) <= DATASETS


@pytest.mark.parametrize("module", modules_in("report"))
def test_the_report_imports_config_vae_and_datasets_only(module):
    assert packages_of(all_imports_of(module)) <= {"config", "datasets", "report", "vae"}


@pytest.mark.parametrize("module", modules_in("explorer"))
def test_the_page_imports_vae_keras_and_numpy_only(module):
    assert packages_of(all_imports_of(module)) <= {"explorer", "keras", "numpy", "vae"}


def test_the_table_of_experiments_imports_config_only():
    assert packages_of(all_imports_of("report.experiments")) == {"config"}


@pytest.mark.parametrize("module", sorted(SCRIPTS))
def test_a_script_imports_cli_config_and_the_standard_library_at_its_top(module):
    """So --help and errors in the flags never wait for TensorFlow."""
    allowed = {"cli", "config"}
    if module == "reproduce":
        allowed.add("report.experiments")  # it imports config only
    assert not names_outside(imports_of(module).at_top, sys.stdlib_module_names | allowed)


@pytest.mark.parametrize("module", sorted(set(SOURCES) - {"reproduce"}))
def test_only_reproduce_imports_scripts(module):
    assert not packages_of(all_imports_of(module)) & SCRIPTS


@pytest.mark.parametrize("module", modules_in("benchmarks"))
def test_the_benchmarks_import_cli_config_vae_datasets_explorer_and_the_tables_of_markdown(module):
    ours = {name for name in all_imports_of(module) if package_of(name) in OUR_PACKAGES}
    if module.startswith("benchmarks.peers"):
        assert not names_outside(ours, {"benchmarks.turns"})
    else:
        assert not names_outside(
            ours, {"benchmarks", "cli", "config", "datasets", "explorer", "report.markdown", "vae"}
        )


def test_the_tables_of_markdown_import_the_standard_library_only():
    assert not all_imports_of("report.markdown")


def test_what_the_peers_import_brings_nothing_of_ours_with_it():
    assert not project_modules_of("benchmarks")
    assert not project_modules_of("benchmarks.turns")


@pytest.mark.parametrize("module", SOURCES)
def test_no_module_edits_the_path_of_imports(module):
    assert "sys.path" not in SOURCES[module].read_text(encoding="utf-8")
