import pytest

from tests.unit.release.small_repository import write_repository


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """A clean repository; tests that change it take a clone."""
    return write_repository(tmp_path_factory.mktemp("repository") / "toy")
