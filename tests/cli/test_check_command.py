"""`priorcodec check`: text, JSON, exit status; tier 0 loads no torch."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from priorcodec.cli import app
from priorcodec.core.errors import BackboneError, ConfigError
from priorcodec.testing._run import Check
from tests.registry.test_registry import GOOD, install

runner = CliRunner()


def test_tier_0_as_text():
    done = runner.invoke(app, ["check", "sdxl", "--tier", "0"])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "sdxl: 5 passed"


def test_json():
    done = runner.invoke(app, ["check", "sd15", "--tier", "0", "--json"])
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert {c["check"] for c in report["checks"]} == {
        "texts",
        "source",
        "rules_stated",
        "light_import",
        "quiet_import",
    }


def test_weights_that_no_tier_would_load_are_refused():
    done = runner.invoke(app, ["check", "sd15", "--tier", "1", "--weights", "models"])
    assert "got --weights for tier 1, which loads none: add --tier 2" in str(done.exception)


def test_a_failing_check_is_exit_status_1(monkeypatch):
    monkeypatch.setattr("priorcodec.testing._plain.HEAVY", ("sys",))
    done = runner.invoke(app, ["check", "sd15", "--tier", "0"])
    assert done.exit_code == 1
    assert "light_import  failed" in done.stdout


def test_expected_failures_are_given_with_a_reason(monkeypatch):
    monkeypatch.setattr("priorcodec.testing._plain.HEAVY", ("sys",))
    done = runner.invoke(app, ["check", "sd15", "--tier", "0", "--expect", "light_import=sys is not heavy"])
    assert done.exit_code == 0
    assert "light_import  failed as expected: sys is not heavy (importing " in done.stdout
    for words, line in (
        ("light_import", "got --expect light_import, wanted CHECK=REASON"),
        ("nope=x", "expected failures name no checks: nope"),
    ):
        done = runner.invoke(app, ["check", "sd15", "--tier", "0", "--expect", words])
        assert isinstance(done.exception, ConfigError) and line in str(done.exception)


@pytest.mark.parametrize("options", [[], ["--traceback"]])
def test_tracebacks_are_printed_on_request(monkeypatch, options):
    def fail(subject):
        raise KeyError("inner")

    checks = [Check(name="builds", tier=0, summary="", run=fail)]
    monkeypatch.setattr("priorcodec.testing.all_checks", lambda *tier: checks)
    done = runner.invoke(app, ["check", "sd15", "--tier", "0", *options])
    assert done.exit_code == 1
    assert "builds  failed: KeyError: 'inner' (test_check_command.py, line " in done.stdout
    assert ("Traceback" in done.stdout) == bool(options)


LOUD = (
    GOOD
    + """
print('{"a": 1}')

@hookimpl
def priorcodec_adapters(spec):
    print("asked")
    return []
"""
)


@pytest.mark.parametrize("words", ["plugins", "backbones", "adapters list", "check toy --tier 0"])
def test_json_is_valid_beside_a_plugin_that_prints(tmp_path, words):
    install(tmp_path, {"loud": LOUD})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "priorcodec.cli", *words.split(), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert json.loads(done.stdout), done.stderr
    assert '{"a": 1}' in done.stderr


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
