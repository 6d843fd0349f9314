"""The plan of the house: who may import whom, and what only a domain's own folder may speak of."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kdbench

HOME = Path(kdbench.__file__).parent
MODULES = sorted(HOME.rglob("*.py"))

# From the ground up. A room is a folder, or a module beside the folders. It knows the floors below its own and itself.
FLOORS = (
    ("batching", "counted", "display", "errors", "files", "layout", "methods", "plain", "seeding", "source"),
    ("digest", "golden", "hubs", "locks", "parts", "registry", "weights"),
    ("hub_cache", "method"),
    ("data", "nets"),
    ("attention", "takeover"),
    ("text", "vision"),
    ("suite",),
    ("results",),
    ("report", "train"),
    ("grid",),
    ("options",),
    ("gathered",),
    ("api",),
    ("until",),
    ("verify",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}

START = "start-up time: the command may not need it, and it takes a second or more to import"
EXTRA = "an optional package: its absence is an answer"
# (module, what it imports inside a function) -> why
INSIDE = {
    ("grid/ray_cluster.py", "ray"): EXTRA,
    ("grid/ray_node.py", "ray"): EXTRA,
    ("method/onnx_tools.py", "onnx"): EXTRA,
    ("method/onnx_tools.py", "onnxruntime"): EXTRA,
    ("method/onnx_tools.py", "onnxruntime.quantization"): EXTRA,
    ("method/onnx_tools.py", "onnxscript"): EXTRA,
    ("report/write.py", "pyarrow"): EXTRA,
    ("results/store.py", "fsspec"): EXTRA,
    ("report/write.py", "kdbench.report.plots"): START,
    ("results/merge.py", "mlflow"): START,
    ("results/mlflow_runs.py", "mlflow"): START,
    ("results/mlflow_runs.py", "mlflow.entities"): START,
    ("results/mlflow_runs.py", "mlflow.store.tracking.sqlalchemy_store"): START,
    ("train/load.py", "mlflow"): START,
    ("train/probe.py", "sklearn.linear_model"): START,
    ("vision/others.py", "transformers"): EXTRA,
    ("vision/others.py", "transformers.models.auto.modeling_auto"): EXTRA,
    ("vision/hub.py", "timm.data.readers.reader_hfds"): EXTRA,
    ("data.py", "sklearn.model_selection"): START,
    ("method/metric.py", "sklearn.metrics"): START,
    ("vision/builtin.py", "sklearn.datasets"): START,
    ("vision/builtin.py", "sklearn.model_selection"): START,
    ("vision/builtin.py", "torchvision"): START,
    ("suite/checks.py", "kdbench.weights"): START,
    ("golden.py", "torch"): "an expression in NumPy needs none",
    ("suite/check_training.py", "timm.optim"): START,
    ("train/average.py", "timm.utils"): START,
    ("train/optim.py", "timm.optim"): START,
    ("train/optim.py", "timm.scheduler"): START,
    ("weights.py", "safetensors.torch"): START,
    ("vision/policies.py", "torchvision.transforms"): START,
    ("vision/policies.py", "torchvision.transforms.v2"): START,
    ("vision/index.py", "kdbench.vision.nets"): START,
    ("vision/pretrained.py", "timm"): START,
    ("commands/list.py", "kdbench.commands.inventory"): START,
    ("suite/plugins.py", "kdbench.vision.datasets"): "the door for data sets: importing is what registers them",
    ("suite/plugins.py", "kdbench.text.datasets"): "likewise",
    ("text/tables.py", "pandas"): START,
    ("text/nets.py", "kdbench.hub_cache"): START,
    ("text/nets.py", "kdbench.text.encoder"): "a net's code, read when one is built; it imports `transformers` then",
}
# Modules that import by a name known only when they run -> why
BY_NAME = {
    "__init__.py": "kdbench's public names, loaded on first use",
    "cli.py": "a command's module, named by the command",
    "text/extra.py": "an optional package, named in one line where it is not there",
    "nets.py": "families of nets (timm takes seconds), imported when a net is asked for",
}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """`kdbench/suite/load.py` -> kdbench.suite.load"""
    parts = path.relative_to(HOME.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def short(path: Path) -> str:
    return path.relative_to(HOME).as_posix()


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


NAMES = {name_of(path) for path in MODULES}


def imported(node: ast.AST) -> Iterator[str]:
    """The modules that an import statement names; `from kdbench.report import html` names kdbench.report.html."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        for alias in node.names:
            below = f"{node.module}.{alias.name}"
            yield below if below in NAMES else str(node.module)


def imports_of(path: Path) -> set[str]:
    """All modules of kdbench that the module at `path` imports, also inside functions."""
    found = {name for node in ast.walk(tree_of(path)) for name in imported(node)}
    return {name for name in found if name == "kdbench" or name.startswith("kdbench.")}


def inside_functions(path: Path) -> set[str]:
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {name for function in functions for node in ast.walk(function) for name in imported(node)}


def test_every_room_has_its_floor() -> None:
    rooms = {room_of(name_of(path)) for path in MODULES} - {""}
    assert rooms == set(FLOOR)


def test_what_is_imported_is_there() -> None:
    assert {name for path in MODULES for name in imports_of(path)} <= NAMES


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_a_module_knows_only_the_floors_below(path: Path) -> None:
    own = room_of(name_of(path))
    if not own:  # kdbench/__init__.py
        assert not imports_of(path)
        return
    wrong = {name for name in imports_of(path) if room_of(name) != own and FLOOR.get(room_of(name), 99) >= FLOOR[own]}
    assert not wrong, f"{short(path)} (floor {FLOOR[own] + 1}) imports {sorted(wrong)}"


def test_there_is_no_circle() -> None:
    """Not between rooms, not inside one, not by an import in a function."""
    graph = {name_of(path): imports_of(path) - {name_of(path)} for path in MODULES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_imports_inside_functions_have_their_reason() -> None:
    found = {(short(path), name) for path in MODULES for name in inside_functions(path)}
    assert found - set(INSIDE) == set(), "import it at the top of the module, or say here why not"
    assert set(INSIDE) - found == set(), "no longer there: take it off the list"


def test_imports_by_name_have_their_reason() -> None:
    def calls(path: Path) -> bool:
        names = {getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(tree_of(path))}
        return bool(names & {"import_module", "__import__"})

    assert {short(path) for path in MODULES if calls(path)} == set(BY_NAME)


def test_a_method_knows_the_contract_alone() -> None:
    """A method file imports kdbench's public names and what is in `kdbench.method`."""
    files = sorted((HOME.parent / "methods").glob("*.py"))
    found = {(path.name, name) for path in files for name in imports_of(path)}
    assert files
    assert not {(file, name) for file, name in found if name != "kdbench" and room_of(name) != "method"}


# --- what belongs to a domain alone ----------------------------------------------------------------------------------

DOMAINS = ("vision", "text")
PICTURES = re.compile(r"pixel|picture|image|img|input_size|channels(?!_last)")  # channels_last is a memory format
OF_PICTURES = {
    "commands/measure.py": "measures what a suite for pictures costs",
    "commands/inventory.py": "its --size is the side of pictures",
}
ALLOWED = {
    ("method/contract.py", "images"): "`Batch.images`: `inputs`, under the name that methods for pictures know",
    ("suite/models.py", "img_size"): "an entry of the suite's format: how a model is built, as timm calls it",
    ("suite/sizes.py", "img_size"): "the same entry, of nets that are built for inputs of one size",
    ("nets.py", "img_size"): "the same entry, handed on to the family of nets",
}


def identifiers(path: Path) -> Iterator[str]:
    """Every name that the code gives or reads; no comments, no texts."""
    for node in ast.walk(tree_of(path)):
        for field in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def speaks_of_pictures(path: Path) -> set[str]:
    """The names in a module that match PICTURES. The channels in `method` are those of feature maps [B, C, H, W]."""
    found = {name for name in identifiers(path) if PICTURES.search(name) and (short(path), name) not in ALLOWED}
    return {name for name in found if "channels" not in name or room_of(name_of(path)) != "method"}


def test_only_a_domain_speaks_of_pictures() -> None:
    """Pixels, pictures, their sizes and channels: the engine trains whatever a domain gives it."""
    rooms = [path for path in MODULES if room_of(name_of(path)) not in DOMAINS and short(path) not in OF_PICTURES]
    assert {short(path): names for path in rooms if (names := speaks_of_pictures(path))} == {}


def test_the_exceptions_are_still_needed() -> None:
    names = {short(path): set(identifiers(path)) for path in MODULES}
    assert all(name in names[file] for file, name in ALLOWED)
    assert all(any(PICTURES.search(name) for name in names[file]) for file in OF_PICTURES)


TEXTS = re.compile(r"token|vocab|bert(?!y)|transformers")
OF_TEXTS = {
    ("kdbench/method/contract.py", "token_logits"): "a vision transformer's token that learns from the teacher (DeiT)",
    ("kdbench/vision/nets.py", "token_logits"): "likewise",
    ("kdbench/vision/nets.py", "token_head"): "likewise",
    ("methods/deit.py", "token_logits"): "likewise",
    ("methods/deit.py", "token"): "likewise",
    ("kdbench/vision/others.py", "transformers"): "the library, which has nets for pictures too",
    ("kdbench/vision/others.py", "Transformers"): "likewise",
    ("kdbench/vision/others.py", "TRANSFORMERS"): "likewise",
    ("kdbench/results/mlflow_runs.py", "page_token"): "MLflow's word for where a page of runs begins",
    ("kdbench/results/mlflow_runs.py", "token"): "likewise",
    ("kdbench/source.py", "generate_tokens"): "Python's own word for the parts of its source",
}


def test_only_the_domain_of_texts_speaks_of_words() -> None:
    """A method may read sequences [B, L, D] with a mask; what stands for what in them it does not know."""
    rooms = [path for path in MODULES if room_of(name_of(path)) != "text"]
    methods = sorted((HOME.parent / "methods").glob("*.py"))
    found = {(path, name) for path in rooms + methods for name in identifiers(path) if TEXTS.search(name.lower())}
    assert {(path.relative_to(HOME.parent).as_posix(), name) for path, name in found} == set(OF_TEXTS)
