"""docs/plugins: each hook with its exact signature, each snippet a piece of a tested file, each check in the list."""

import inspect
import re
from pathlib import Path

import pytest

from priorcodec.registry import hookspecs
from priorcodec.registry.plugins import DEFAULT_PLUGINS, HOOKS, Problem

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "plugins"
PAGES = sorted(DOCS.glob("*.md"))
SNIPPET = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```\n", re.DOTALL)
TESTED_BY = {  # file of a snippet -> the test that runs it
    "docs/plugins/hello/pyproject.toml": "tests/registry/test_examples.py",
    "docs/plugins/hello/priorcodec_hello.py": "tests/registry/test_examples.py",
    "docs/plugins/hello/priorcodec_hello_model.py": "tests/registry/test_examples.py",
    "docs/plugins/hello/test_hello.py": "tests/registry/test_examples.py",
    "docs/plugins/plugin-demo/priorcodec_sd3/model.py": "tests/registry/test_examples.py",
    "docs/plugins/upscaler/priorcodec_x4/model.py": "tests/backbones/test_outside.py",
    "tests/registry/adapters_example.py": "tests/registry/test_examples.py",
    "tests/testing/test_kit.py": "tests/testing/test_kit.py",
}


def hooks():
    return [name for name in vars(hookspecs) if name.startswith("priorcodec_")]


def signature_block(name):
    return f"```python\ndef {name}{inspect.signature(getattr(hookspecs, name))}: ...\n```\n".replace("'", "")


def snippets():
    return [(page.name, *match) for page in PAGES for match in SNIPPET.findall(page.read_text())]


def test_the_hooks_are_the_three():
    assert tuple(hooks()) == HOOKS == ("priorcodec_backbones", "priorcodec_weights", "priorcodec_adapters")


@pytest.mark.parametrize("name", hooks())
def test_every_hook_has_a_section_with_its_exact_signature_and_an_example(name):
    page = (DOCS / "hooks.md").read_text()
    section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert signature_block(name) in section
    assert re.search(rf"<!-- file: \S+ -->\n```python\n@hookimpl\ndef {name}\(", section)


@pytest.mark.parametrize("name", hooks())
def test_every_hook_is_tested(name):
    assert any(f"def {name}(" in file.read_text() for file in (ROOT / "tests" / "registry").glob("test_*.py"))


def test_every_snippet_is_a_piece_of_a_tested_file():
    found = snippets()
    assert len(found) > 10
    for page, file, _, text in found:
        if not file:
            assert text in "".join(signature_block(name) for name in hooks()), f"{page}: whose snippet is this?\n{text}"
            continue
        assert text in (ROOT / file).read_text(), f"{page}: not in {file}:\n{text}"
        assert Path(file).name in (ROOT / TESTED_BY[file]).read_text() or file == TESTED_BY[file]


def test_every_check_is_listed_with_its_sentence():
    from priorcodec.testing._run import all_checks

    listed = (DOCS / "testing.md").read_text().split("<!-- checks -->")[1]
    rows = "".join(f"| {check.tier} | `{check.name}` | {check.summary} |\n" for check in all_checks())
    assert listed == f"\n| tier | check | requirement |\n|---|---|---|\n{rows}"


def test_every_reason_and_every_setting_is_explained():
    index = (DOCS / "index.md").read_text()
    for problem in Problem:
        assert f"| `{problem}` |" in index
    code = "".join(file.read_text() for file in (ROOT / "priorcodec" / "registry").glob("*.py"))
    assert {v for v in re.findall(r"PRIORCODEC_[A-Z_]+", code) if v not in index} == set()


def test_each_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (DOCS / target).exists(), f"{page.name}: {target}"


def test_each_command_of_the_docs_exists():
    from priorcodec.cli import app

    known = {c.name or c.callback.__name__ for c in app.registered_commands} | {g.name for g in app.registered_groups}
    said = {
        word for page in PAGES for word in re.findall(r"(?:^    |`)priorcodec ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert {"backbones", "plugins", "check", "decode"} <= said <= known


def test_demo_package_is_short():
    lines = [line for file in (DOCS / "plugin-demo" / "priorcodec_sd3").glob("*.py") for line in file.open()]
    assert 0 < len(lines) <= 85


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "pixart"])
def test_each_backbone_is_one_short_file(name):
    assert DEFAULT_PLUGINS[name] == f"priorcodec.backbones.builtin.{name}"
    assert len((ROOT / "priorcodec" / "backbones" / "builtin" / f"{name}.py").read_text().splitlines()) <= 150
