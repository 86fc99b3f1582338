"""Imports run one way: from the file to the model, the fill and the commands; the library never imports the app."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Each may import what stands before it.
ORDER = ["errors", "files", "native", "score", "tokens", "kernels", "model", "engine", "corpus", "training", "style"]
ORDER += ["fill", "sound", "evaluation", "app", "commands"]


def modules() -> Iterator[tuple[str, Path]]:
    for folder, name in (("midi_rwkv", "midi_rwkv"), ("kernels", "midi_rwkv.kernels"), ("app", "midi_rwkv.app")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((name, *(p for p in parts if p != "__init__"))), path


def imported(name: str, path: Path) -> Iterator[str]:
    """What a module imports, inside functions too, but for what only a type checker reads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    skipped = {id(n) for block in checked for n in ast.walk(block)}
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def test_imports_run_one_way():
    graph = {name: {i for i in imported(name, path) if i != name} for name, path in modules()}
    graph = {name: found & graph.keys() for name, found in graph.items()}
    packages = {name: name.split(".")[1] for name in graph if "." in name and not name.endswith("__main__")}
    wrong = [
        f"{name} imports {other}"
        for name, found in graph.items()
        for other in found
        if name in packages and other in packages and ORDER.index(packages[name]) < ORDER.index(packages[other])
    ]
    assert not wrong
    list(TopologicalSorter({n: f - {"midi_rwkv"} for n, f in graph.items() if n != "midi_rwkv"}).static_order())


def test_no_package_is_called_like_a_public_function():
    import midi_rwkv

    folders = {path.parent.name for path in (ROOT / "midi_rwkv").glob("*/__init__.py")}
    assert not folders & set(midi_rwkv.__all__)
