"""The contracts of setup.cfg fail for what they forbid, shown on a copy of the package."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")
pytestmark = pytest.mark.skipif(not LINTER.exists(), reason="import-linter is not installed: pip install '.[test]'")


def lint(folder: Path, added: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the linter on a copy of the package whose files `added` end in more lines, or are new."""
    shutil.copy(ROOT / "setup.cfg", folder)
    shutil.copytree(
        ROOT / "priorcodec",
        folder / "priorcodec",
        ignore=lambda _, names: {n for n in names if "." in n and not n.endswith(".py")},
    )
    for name, text in added.items():
        path = folder / "priorcodec" / name
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(f"\n{text}\n")
    command = [LINTER, "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})


def test_modules_outside_the_layers_fail(tmp_path):
    done = lint(tmp_path, {"stray.py": "VALUE = 1", "newroom/__init__.py": "VALUE = 1"})
    assert done.returncode != 0
    assert "not listed as layers:\n\n- priorcodec.newroom\n- priorcodec.stray\n" in done.stdout


def test_every_contract_fails_for_what_it_forbids(tmp_path):
    done = lint(
        tmp_path,
        {
            "core/errors.py": "import priorcodec.session\nimport torch\nimport diffusers",  # layers, core, exact
            "batch/jobs.py": "import priorcodec.batch.runner",  # cycles
            "adapters/rules.py": "import priorcodec.backbones.builtin.toy\nimport pluggy",  # builtin, adapters
            "backbones/builtin/toy.py": "import priorcodec.core.codec",  # plugin_api
            "registry/hookspecs.py": "import torch",
        },
    )
    names = re.findall(r"^name = (.*)", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert len(names) == 8
    assert [name for name in names if f"{name} BROKEN" not in done.stdout] == []
