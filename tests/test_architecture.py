"""The order of the rooms: a file imports only from its own room and from those before it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import sapo

SOURCE = Path(sapo.__file__).parent
# As data flows: what stands later knows what stands before, never the other way round.
ROOMS = (
    "core", "models", "tasks", "candidates", "selection", "training", "runs", "sequence", "experiments", "report",
    "integrations", "cli",
)  # fmt: skip
# Users copy the fakes into their own tests: they need the nouns and nothing else of this package.
NARROW = {"integrations/testing.py": {"core"}}


def room(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def imports(code: str) -> Iterator[tuple[int, str]]:
    """Yield (line, room) of every import of this package, wherever it stands in a file."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name.split(".")[1]) for name in names if name.startswith(("sapo.", ".")))


def violations(name: str, code: str) -> list[str]:
    own = room(name)
    allowed = NARROW.get(name, {*ROOMS[: ROOMS.index(own) + 1], "__version__"})
    return [f"{name}:{line} imports {target}" for line, target in imports(code) if target not in allowed]


def test_rooms_import_only_from_rooms_before_them() -> None:
    files = [path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.name != "__init__.py"]
    assert {room(path.relative_to(SOURCE).as_posix()) for path in files} == set(ROOMS)
    found = [v for p in files for v in violations(p.relative_to(SOURCE).as_posix(), p.read_text(encoding="utf-8"))]
    assert found == []


def test_the_check_itself_can_fail() -> None:
    assert violations("models/losses.py", "from sapo.core.types import Encoded\nfrom sapo import __version__") == []
    assert violations("models/losses.py", "def f():\n    from sapo.selection.race import race") != []
    assert violations("models/losses.py", "import sapo.cli as c") != []
    assert violations("models/losses.py", "from sapo import selection") != []
    assert violations("models/losses.py", "from ..selection import race") != []
    assert violations("integrations/testing.py", "from sapo.models.render import Renderer") != []
