"""`docs/reference.md` names every public name, argument and field, and states the defaults that the code has."""

import dataclasses
import inspect
import re
from dataclasses import MISSING
from pathlib import Path

import pytest

import priorcodec
from priorcodec import Adapter, Session, list_backbones, open_session

PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")


def documented(name: str) -> bool:
    return re.search(rf"`{name}\b|^#+ .*\b{name}\b|\b{name}\(", PAGE, re.MULTILINE) is not None


@pytest.mark.parametrize("name", priorcodec.__all__)
def test_every_public_name(name):
    assert documented(name)


@pytest.mark.parametrize(
    ("title", "function"),
    [
        ("open_session", open_session),
        ("Session.encode", Session.encode),
        ("Session.decode", Session.decode),
        ("Session.preview", Session.preview),
        ("list_backbones", list_backbones),
        ("Adapter.from_pretrained", Adapter.from_pretrained),
        ("Adapter.push_to_hub", Adapter.push_to_hub),
    ],
)
def test_every_argument_and_default(title, function):
    """The signature printed on the page, evaluated, is the code's."""
    printed = re.search(rf"^(?:def )?{re.escape(title)}\((.*?)\)(?: ->.*)?$", PAGE, re.MULTILINE | re.DOTALL)
    assert printed, f"no signature of {title}"
    given: dict = {}
    exec(f"def f({printed[1]}): ...", given)
    stated, real = inspect.signature(given["f"]).parameters, inspect.signature(function).parameters
    wanted = [(p.name, p.default, p.kind) for p in real.values() if p.name != "self"]
    assert [(p.name, p.default, p.kind) for p in stated.values()] == wanted
    if title not in ("list_backbones", "Session.preview"):
        assert [name for name, *_ in wanted if f"| `{name}` |" not in PAGE] == []


@pytest.mark.parametrize("record", ["BackboneSpec", "LatentSpace", "LoraRule", "FusionSite", "AdapterSource"])
def test_every_field(record):
    section = re.split(r"^#+ ", PAGE.partition(f"### {record}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    fields = dataclasses.fields(getattr(priorcodec, record))
    assert [f.name for f in fields if f"`{f.name}`" not in section] == []
    if record == "BackboneSpec":
        rows = dict(re.findall(r"^\| `(\w+)` \| (?:`(.+?)`)? ?\|", section, re.MULTILINE))
        stated = {name: eval(text, {"API": priorcodec.API}) if text else MISSING for name, text in rows.items()}
        assert stated == {f.name: f.default for f in fields}
