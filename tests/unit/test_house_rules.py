"""Rules of the house that a machine can keep: one namespace, imports one way, no transformers
but in its integration."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import kept

SOURCE = Path(kept.__file__).parent

# Lower floors first; a room may import from rooms before its own line, and from itself.
FLOORS = (
    ("errors",),
    ("interrupt", "json_file", "options", "paths", "system"),
    ("gguf",),
    ("batch", "entropy", "exiting", "format", "machine", "text", "turns"),
    ("grammar",),
    ("answers", "sampling"),
    ("ops",),
    ("blocks",),
    ("store",),
    ("cache",),
    ("models",),
    ("engine",),
    ("llm",),
    ("bench",),
    ("explain",),
    ("serve",),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
EXEMPT = {"__init__", "__main__", "_native"}
OUTSIDE = "integrations"  # imports what it likes, and nobody imports it


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py").removesuffix(".pyi")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of(path: Path) -> list[str]:
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_imports_run_one_way():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        room = room_of(path)
        if room in EXEMPT or room == OUTSIDE:
            continue
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] != "kept" or len(parts) == 1 or parts[1] in (room, "_native"):
                continue
            target = parts[1]
            if target == OUTSIDE or FLOOR_OF.get(target, -1) >= FLOOR_OF[room]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in SOURCE.rglob("*.py")} - EXEMPT - {"bundled", OUTSIDE}
    assert rooms <= set(FLOOR_OF)


def test_transformers_is_imported_by_its_integration_alone():
    home = SOURCE / OUTSIDE / "transformers"
    users = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if home not in path.parents
        and any(name.split(".")[0] == "transformers" for name in imports_of(path))
    ]
    assert not users


def test_the_public_names_are_sorted_and_there():
    assert list(kept.__all__) == sorted(kept.__all__, key=lambda n: (n.upper() != n, n))
    assert all(hasattr(kept, name) for name in kept.__all__)


def test_nothing_is_unpickled():
    for path in SOURCE.rglob("*.py"):
        names = imports_of(path)
        assert not any(name.split(".")[0] == "pickle" for name in names), path
        assert "torch.load(" not in path.read_text(encoding="utf-8"), path


# What torch makes by its default dtype and device where it is not told others.
FACTORIES = {
    "arange", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn",
    "randperm", "range", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip
BY_DEFAULT_ALONE = {"Tensor", "FloatTensor", "DoubleTensor", "HalfTensor", "LongTensor"}
# Of these the dtype is that of what they are given.
ON_A_DEVICE = {"as_tensor", "asarray"}


def made_by_default(tree: ast.Module) -> list[tuple[int, str]]:
    """The lines that make tensors of a dtype or on a device that a global setting chooses."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if not isinstance(node.func.value, ast.Name) or node.func.value.id != "torch":
            continue
        name, given = node.func.attr, {keyword.arg for keyword in node.keywords}
        needed = {"dtype", "device"} if name in FACTORIES else set()
        needed |= {"device"} if name in ON_A_DEVICE else set()
        if name in BY_DEFAULT_ALONE or not needed <= given:
            found.append((node.lineno, name))
    return found


def test_no_tensor_is_made_by_a_global_setting():
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}: torch.{name} takes its dtype or device from a default"
        for path in SOURCE.rglob("*.py")
        for line, name in made_by_default(tree_of(path))
    ]
    assert not wrong


def test_what_takes_a_default_is_found():
    lines = (
        "torch.empty(3)",
        "torch.zeros(2, dtype=x)",
        "torch.ones(2, device=y)",
        "torch.Tensor(3)",
    )
    fine = "torch.empty(3, dtype=x, device=y)", "torch.empty_like(x)", "torch.stack(x)"
    assert len(made_by_default(ast.parse("\n".join(lines)))) == len(lines)
    assert not made_by_default(ast.parse("\n".join(fine)))


def imported_at_once(path: Path) -> set[str]:
    """Modules of kept that come with this one: not within functions, nor for types alone."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree_of(path)]
    while waiting:
        node = waiting.pop()
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        waiting.extend(ast.iter_child_nodes(node))
    return found


def test_no_modules_import_each_other():
    paths = {
        ".".join(("kept", *path.relative_to(SOURCE).with_suffix("").parts)): path
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py"  # it only gathers what its folder offers
    }
    graph = {name: imported_at_once(path) & paths.keys() for name, path in paths.items()}
    TopologicalSorter(graph).prepare()  # names the modules of a circle
