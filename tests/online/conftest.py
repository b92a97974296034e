"""One undisturbed run, which many tests look at."""

import pytest

from atlas_jax import retries
from tests.online import small_world
from tests.online.stub_server import StubServer
from tests.online.whole_runs import KEYS, SECRET, run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
  """A run that nothing disturbed, with a key, and the calls that it made."""
  folder = tmp_path_factory.mktemp("finished")
  with StubServer(small_world.answer, api_key=SECRET) as stub:
    environ = {"ATLAS_TEST_KEY": SECRET}
    workdir = run(folder, stub.url, environ, **KEYS)
    calls = len(stub.calls)
    # Finished: nothing is asked again.
    run(folder, stub.url, environ, **KEYS)
    assert len(stub.calls) == calls
  return workdir, calls


@pytest.fixture
def short_waits(monkeypatch):
  """Retries wait a tenth as long: for tests of what comes after them."""
  monkeypatch.setattr(retries, "_FIRST_WAIT_S", 0.05)
