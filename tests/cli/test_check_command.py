"""`priorcodec check`: text, JSON, exit status; tier 0 loads no torch."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from priorcodec.cli import app
from priorcodec.core.errors import BackboneError

runner = CliRunner()


def test_tier_0_as_text():
    done = runner.invoke(app, ["check", "sdxl", "--tier", "0"])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "sdxl: 6 passed"


def test_json():
    done = runner.invoke(app, ["check", "sd15", "--tier", "0", "--json"])
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert {c["check"] for c in report["checks"]} == {
        "texts",
        "source",
        "numbers",
        "rules_stated",
        "light_import",
        "quiet_import",
    }


def test_a_failing_check_is_exit_status_1(monkeypatch):
    monkeypatch.setattr("priorcodec.testing._plain.HEAVY", ("sys",))
    done = runner.invoke(app, ["check", "sd15", "--tier", "0"])
    assert done.exit_code == 1
    assert "light_import  failed" in done.stdout


def test_an_unknown_backbone_and_an_unknown_tier():
    done = runner.invoke(app, ["check", "sdlx"])
    assert isinstance(done.exception, BackboneError)
    assert "nearest: sdxl" in str(done.exception)
    assert runner.invoke(app, ["check", "sd15", "--tier", "3"]).exit_code == 2


@pytest.mark.parametrize("command", ["check sd15 --tier 0", "backbones", "plugins"])
def test_loads_no_torch(command):
    code = f"""
import sys
from priorcodec.cli import app
app({command.split()!r}, standalone_mode=False)
assert "torch" not in sys.modules
"""
    environment = {**os.environ, "PRIORCODEC_LOAD_PLUGINS": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL)
