"""Every command in README.md and docs/ exists, with all the options that the page gives it."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from priorcodec.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^(?:    |\$ )?(priorcodec .*)$|`(priorcodec [^`]*)`", re.MULTILINE)


def commands(page):
    """The words of each command on a page, comments and what a pipe leads to left out."""
    for found in CODE.finditer(page.read_text()):
        line = re.split(r"\s[#|]\s", next(filter(None, found.groups())))[0]
        words = shlex.split(line.replace("[", " ").replace("]", " ").replace("...", " "))
        if len(words) > 1:
            yield words[1:]


def missing(words):
    """What these words of a command name that does not exist."""
    group = typer.main.get_command(app)
    while words and hasattr(group, "commands"):
        if words[0].startswith("-"):
            break
        if words[0] not in group.commands:
            return words[0]
        group, words = group.commands[words[0]], words[1:]
    known = {name for parameter in group.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return next((word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_exist(page):
    assert [(words, wrong) for words in commands(page) if (wrong := missing(words))] == []


def test_the_search_bites():
    assert sum(len(list(commands(page))) for page in PAGES) > 60
    assert missing(["decode", "x.gic", "--seed", "3"]) == "--seed" and missing(["paint"]) == "paint"
    assert missing(["train", "critic"]) == "critic" and missing(["adapters", "list", "--json"]) is None
