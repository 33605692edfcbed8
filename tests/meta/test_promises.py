"""Every promise of docs/trust.md has tests: benchmarks/trust.py would find none under a name that changed."""

import ast
import re
import sys

from tests.meta.test_repository import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import trust


def names(path):
    """Of the tests of a file or folder, with the file's in front as pytest's -k sees it."""
    for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{file.name} {node.name}"


def chosen(test, words):
    """As -k: words are parts of a name, joined by and, or, not."""
    rule = re.sub(r"\w+", lambda m: m[0] if m[0] in ("and", "or", "not") else f"({m[0]!r} in test)", words)
    return not rule or eval(rule, {"test": test})


def test_every_promise_chooses_tests():
    empty = [
        promise
        for promise, (tests, words) in trust.PROMISES.items()
        if not any(chosen(test, words) for path in tests.split() for test in names(ROOT / path))
    ]
    assert empty == []
