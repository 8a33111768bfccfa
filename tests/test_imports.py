"""Which module may import which: the layers of the project, checked on the parsed imports of every file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("service", "training", "export", "loadtest", "benchmarks", "distilled_nlu")
MAX_MODULES = 20  # side by side in a folder
TRAINING_LIBRARIES = ("torch", "transformers", "accelerate", "datasets")

# What a package may import of the project besides itself.
ALLOWED = {
    "service": (),
    "training": ("service",),
    "export": ("training", "service"),
    "loadtest": ("training", "service"),
    "benchmarks": ("export", "loadtest", "training", "service", "distilled_nlu"),
    "distilled_nlu": ("export", "loadtest", "training", "service"),
}

# Layers from the lowest to the highest: a module imports its own layer and those before it.
LAYERS = {
    "service": (
        ("errors", "watched_file", "extras"),
        ("student",),
        ("settings",),
        ("monitoring",),
        ("http",),
        ("models",),
        ("experiments",),
        ("endpoints", "app", "ask", "page", "protocols", "wyoming"),
        ("process",),
        ("__main__",),
    ),
    "training": (("data",), ("evaluation",), ("text",), ("models",), ("objectives",), ("runs",), ("studies",)),
    "loadtest": (("load",), ("comparison", "experiments")),
}  # what else stands at the top are commands, above all layers

# What a module does not load, however indirectly, by the packages or modules that it stands for.
WITHOUT = (
    ("service", ("torch", "transformers", "optimum", "onnx", "accelerate", "datasets")),
    ("service.student", ("fastapi", "starlette", "uvicorn", "prometheus_client")),
    ("training.data", TRAINING_LIBRARIES),
    ("training.evaluation", TRAINING_LIBRARIES),
    ("training.check", TRAINING_LIBRARIES),
    ("loadtest", (*TRAINING_LIBRARIES, "optimum", "onnx")),
)


class Import(NamedTuple):
    """An import of a module, and where it stands."""

    module: str
    imported: str
    place: str
    is_lazy: bool  # within a function, or for type checkers only

    def __str__(self) -> str:
        return f"{self.place}: {self.module} imports {self.imported}"


@cache
def modules() -> Mapping[str, Path]:
    """The project's modules and packages, by name."""
    files = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """All imports of a module, those in functions and under TYPE_CHECKING too."""
    file = modules()[module]
    found = [
        Import(module, name, f"{file.relative_to(ROOT)}:{statement.lineno}", is_lazy)
        for statement, is_lazy in _statements(ast.parse(file.read_text(encoding="utf-8")), False)
        for name in _names(statement)
    ]
    return tuple(dict.fromkeys(found))


def _statements(tree: ast.AST, is_lazy: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """All statements below a node, and whether they only run later or for type checkers."""
    for node in ast.iter_child_nodes(tree):
        is_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.stmt):
            yield node, is_lazy
        yield from _statements(node, is_lazy or is_later or is_for_types)


def _names(node: ast.AST) -> Iterator[str]:
    """What an import statement imports: modules of the project, or names of others."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        assert node.module
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            yield inside if inside in modules() else node.module


def all_imports() -> Iterator[Import]:
    for module in modules():
        yield from imports_of(module)


def is_within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def loaded_by(start: str) -> Mapping[str, tuple[Import, ...]]:
    """What importing a module loads when it is imported: each name with the chain of imports that leads to it."""
    chains: dict[str, tuple[Import, ...]] = {start: ()}
    waiting = [start]
    while waiting:
        module = waiting.pop()
        for package in _parents(module):
            if package not in chains:
                chains[package] = chains[module]
                waiting.append(package)
        for found in imports_of(module) if module in modules() else ():
            if not found.is_lazy and found.imported not in chains:
                chains[found.imported] = (*chains[module], found)
                waiting.append(found.imported)
    return chains


def _parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    for end in range(1, len(parts)):
        if (parent := ".".join(parts[:end])) in modules():
            yield parent


def said(problems: Collection[object]) -> str:
    return "\n".join(map(str, problems))


@pytest.mark.parametrize("package", [name for name in ALLOWED if (ROOT / name).is_dir()])
def test_packages_import_downwards_only(package: str) -> None:
    allowed = (package, *ALLOWED[package])

    wrong = [
        found
        for found in all_imports()
        if is_within(found.module, package) and is_within(found.imported, *PACKAGES)
        if not is_within(found.imported, *allowed)
    ]

    assert not wrong, f"{package} may import {', '.join(allowed)} alone\n{said(wrong)}"


@pytest.mark.parametrize("package", LAYERS)
def test_layers_of_a_package_import_downwards_only(package: str) -> None:
    heights = {name: height for height, layer in enumerate(LAYERS[package]) for name in layer}

    def height(module: str) -> int | None:
        inside = module.removeprefix(f"{package}.").split(".")[0]
        return None if module == package else heights.get(inside, len(LAYERS[package]))

    wrong = []
    for found in all_imports():
        if is_within(found.module, package) and is_within(found.imported, package):
            low, high = height(found.imported), height(found.module)
            if low is not None and high is not None and low > high:
                wrong.append(found)

    layers = " < ".join("|".join(layer) for layer in LAYERS[package])
    assert not wrong, f"{package}: {layers} < commands\n{said(wrong)}"


def test_the_layers_name_what_there_is() -> None:
    for package, layers in LAYERS.items():
        missing = [name for layer in layers for name in layer if f"{package}.{name}" not in modules()]
        assert not missing, f"{package} has no {', '.join(missing)}"


def test_the_student_is_by_itself() -> None:
    wrong = [
        found
        for found in all_imports()
        if is_within(found.module, "service.student") and is_within(found.imported, *PACKAGES)
        if not is_within(found.imported, "service.student")
    ]

    assert not wrong, f"service.student imports nothing else of the project\n{said(wrong)}"


@pytest.mark.parametrize(("package", "libraries"), WITHOUT)
def test_libraries_that_are_not_loaded(package: str, libraries: tuple[str, ...]) -> None:
    wrong = []
    for module in modules():
        if is_within(module, package):
            wrong += [chain for name, chain in loaded_by(module).items() if is_within(name, *libraries)]

    chains = sorted({" -> ".join(map(str, chain)) for chain in wrong}, key=len)
    assert not chains, f"{package} loads none of {', '.join(libraries)}\n{said(chains[:10])}"


@pytest.mark.parametrize(("package", "libraries"), WITHOUT)
def test_libraries_that_are_not_imported_in_functions_either(package: str, libraries: tuple[str, ...]) -> None:
    if package != "service":
        libraries = tuple(name for name in libraries if name != "datasets")  # only hub:NAME needs it
    wrong = [one for one in all_imports() if is_within(one.module, package) and is_within(one.imported, *libraries)]

    assert not wrong, f"{package} imports none of {', '.join(libraries)}\n{said(wrong)}"


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports in functions and for type checkers count, too."""
    graph = {
        module: {found.imported for found in imports_of(module) if found.imported in modules()} - {module}
        for module in modules()
    }
    while leaves := {module for module, imported in graph.items() if not imported & graph.keys()}:
        for leaf in leaves:
            del graph[leaf]
    while unused := graph.keys() - set().union(*graph.values()):
        for module in unused:
            del graph[module]

    wrong = [one for module in graph for one in imports_of(module) if one.imported in graph]
    assert not wrong, f"modules that import each other in a circle\n{said(wrong)}"


def test_no_folder_has_too_many_modules() -> None:
    files = [file for package in (*PACKAGES, "tests") for file in (ROOT / package).rglob("*.py")]
    counts = {folder: sum(file.parent == folder for file in files) for folder in {file.parent for file in files}}

    wrong = [f"{folder.relative_to(ROOT)}: {count}" for folder, count in counts.items() if count > MAX_MODULES]
    assert not wrong, f"at most {MAX_MODULES} modules side by side\n{said(wrong)}"


def test_each_package_says_what_belongs_there() -> None:
    inits = [file for file in modules().values() if file.name == "__init__.py"]

    wrong = [str(file.relative_to(ROOT)) for file in inits if not ast.get_docstring(ast.parse(file.read_text()))]
    assert not wrong, f"the docstring says what the folder holds\n{said(wrong)}"


def test_the_parsed_imports_are_those_that_python_follows() -> None:
    """The rule of libraries is only as good as `loaded_by`: a name that Python loads must be among its chains."""
    import subprocess

    script = "import sys, loadtest.compare; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name in modules()}

    assert ours == {name for name in loaded_by("loadtest.compare") if name in modules()}
