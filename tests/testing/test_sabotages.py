"""Every row of the table in docs/plugins/testing.md: the named check fails, in the words of the table."""

import pytest
import torch
from safetensors.torch import save_file

from priorcodec.testing import Status, Subject
from priorcodec.testing._run import all_checks, run_check
from tests.testing.good import Good
from tests.testing.sabotages import MARKS, PAGE, ROWS, table

CHECKS = {check.name: check for check in all_checks()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "good.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        save_file(Good(16).state_dict(), path)
    return path


@pytest.mark.parametrize("sabotage", ROWS, ids=lambda row: row.kind)
def test_it_is_caught_with_its_cause(sabotage, weights):
    result = run_check(CHECKS[sabotage.check], Subject(spec=sabotage.spec(), weights=weights))
    assert result.status is Status.FAILED, result.message
    assert sabotage.words in result.message


def test_the_table_of_the_docs_is_this_one():
    """Otherwise: python -m tests.testing.sabotages"""
    assert PAGE.read_text().partition(MARKS[0])[2].partition(MARKS[1])[0] == f"\n{table()}\n"
    assert len({row.kind for row in ROWS}) == len(ROWS) >= 49
