"""A process for the calls, in a folder with files of every kind that is read."""

import pytest

from tests.fuzz.isolated import Isolated
from tests.fuzz.readers import make_files


@pytest.fixture(scope="session")
def isolated(tmp_path_factory):
    isolated = Isolated(tmp_path_factory.mktemp("fuzz"))
    assert isolated(make_files) is None
    yield isolated
    isolated.pool.shutdown()
