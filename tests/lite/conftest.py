import sys

import pytest

from tests.lite.assembled import assemble


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """On the path of modules: holds priorcodec_lite."""
    found = assemble(tmp_path_factory.mktemp("lite"))
    sys.path.insert(0, str(found))
    yield found
    sys.path.remove(str(found))
    for name in [name for name in sys.modules if name.partition(".")[0] == "priorcodec_lite"]:
        del sys.modules[name]
