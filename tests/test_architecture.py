"""The order of the rooms: a file imports only from rooms that stand before its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sapo

SOURCE = Path(sapo.__file__).parent
ROOMS = (
    "errors",
    "untrusted",
    "processes",
    "storage",
    "config",
    "types",
    "state",
    "model",
    "tasks",
    "render",
    "paraphrase",
    "text_metrics",
    "score",
    "cache",
    "race",
    "progress",
    "selection",
    "inspection",
    "search",
    "policies",
    "wording",
    "methods",
    "finetune",
    "guard",
    "evaluate",
    "ability",
    "metrics",
    "lessons",
    "results",
    "records",
    "plan",
    "card",
    "formats",
    "record",
    "gathering",
    "given",
    "setup",
    "tracking",
    "live",
    "teaching",
    "steps",
    "findings",
    "sequence",
    "sweep",
    "estimate",
    "stage",
    "export",
    "study",
    "report",
    "integrations",
    "testing",
    "cli",
)
# Rooms that may use less than their place allows: what users copy, and what parses their settings.
NARROW = {"config": {"errors"}, "testing": {"types"}}
FILES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    """The first part of a path below the package, without ending."""
    return path.parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, room) for every import of this package, wherever it stands in the file."""
    return rooms_of(ast.parse(file.read_text(encoding="utf-8")), file.relative_to(SOURCE).parent)


def rooms_of(tree: ast.Module, folder: Path) -> Iterator[tuple[int, str]]:
    package = ["sapo", *folder.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "sapo" or name.startswith("sapo."):
                yield node.lineno, name.split(".")[1] if "." in name else "sapo"


def violations(name: str, imports: Iterator[tuple[int, str]]) -> list[str]:
    own = room(Path(name))
    allowed = NARROW.get(own, set(ROOMS[: ROOMS.index(own)])) | {own, "__version__"}
    return [f"{name}:{line} imports {target}" for line, target in imports if target not in allowed]


def test_every_room_has_its_place_in_the_order() -> None:
    found = {room(Path(name)) for name in FILES} - {"__init__"}
    assert found <= set(ROOMS), f"rooms without a place: {sorted(found - set(ROOMS))}"


@pytest.mark.parametrize("name", [name for name in FILES if name != "__init__.py"])
def test_a_file_imports_only_from_rooms_before_its_own(name: str) -> None:
    assert violations(name, imported_rooms(SOURCE / name)) == []


@pytest.mark.parametrize(
    ("name", "code", "wrong"),
    [
        ("score.py", "from sapo.types import Encoded", 0),
        ("score.py", "from sapo.selection import score_candidates", 1),
        ("score.py", "def f():\n    from sapo import evaluate", 1),
        ("score.py", "import sapo.cli as c", 1),
        ("score.py", "import sapo", 1),
        ("score.py", "from .finetune import finetune", 1),
        ("score.py", "from sapo import __version__", 0),
        ("methods/inc_lora.py", "from .adapters import freeze", 0),
        ("methods/inc_lora.py", "from ..score import Scorer", 0),
        ("methods/inc_lora.py", "from ..evaluate import generate", 1),
        ("methods/inc_lora.py", "from .. import errors, sequence", 1),
        ("config.py", "from sapo.errors import ConfigError", 0),
        ("config.py", "from sapo.types import Task", 1),
        ("testing.py", "from sapo.types import Task", 0),
        ("testing.py", "from sapo.render import Renderer", 1),
        ("cli.py", "import sapophone, torch\nfrom sapo.testing import toy_task", 0),
    ],
)
def test_the_check_itself_tells_right_from_wrong(name: str, code: str, wrong: int) -> None:
    assert len(violations(name, rooms_of(ast.parse(code), Path(name).parent))) == wrong
