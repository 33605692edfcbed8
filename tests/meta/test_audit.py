"""`.ci/audit`: a vulnerability fails, and what no service could be asked about is never called fine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "audit"
SKIPPED = {"name": "a", "skip_reason": "not found"}
FINE = {"name": "b", "version": "1", "vulns": []}
BAD = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1"}]}


@pytest.mark.parametrize(
    "rows, status, words",
    [
        ([SKIPPED, SKIPPED], 0, "audit: could not run: no vulnerability service answered for any of 2 packages"),
        ([SKIPPED, FINE], 0, "audit: 1 of 2 packages looked up, 0 known vulnerabilities"),
        ([FINE, BAD], 1, "c 2 PYSEC-1"),
        (None, 0, "audit: could not run: no network"),
    ],
)
def test_what_the_audit_says(tmp_path, rows, status, words):
    tools = tmp_path / "bin"
    tools.mkdir()
    said = (
        f"print({json.dumps(json.dumps({'dependencies': rows}))})"
        if rows is not None
        else "import sys; sys.exit('no network')"
    )
    bill = "import sys; open(sys.argv[-1], 'w').write('{\"components\": [1, 2]}')"
    for name, code in (("pip-audit", said), ("cyclonedx-py", bill)):
        (tools / name).write_text(f"#!{sys.executable}\n{code}\n")
        (tools / name).chmod(0o755)
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, sys.executable, tmp_path / "new" / "bill.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == status and words in done.stdout, done.stdout + done.stderr
    assert "bill of materials: 2 packages" in done.stdout
