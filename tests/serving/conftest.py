"""One real teacher and one real student for all tests of this folder."""

import dataclasses
from pathlib import Path

import pytest

from atlas_jax.serving import server
from tests import forked_servers
from tests.serving import tiny_vllm


@dataclasses.dataclass(frozen=True)
class Pair:
  """The student was started on the weights that the teacher will be given."""

  teacher: server.TeacherServer
  student: server.StudentServer
  workdir: Path


@pytest.fixture(scope="session")
def vllm_servers(tmp_path_factory):
  work = tmp_path_factory.mktemp("servers")
  pair = Pair(
    tiny_vllm.teacher(tiny_vllm.save_model(work / "old", seed=0), work),
    tiny_vllm.student(tiny_vllm.save_model(work / "new", seed=1), work),
    work,
  )
  # The teacher by the command that the product builds.
  pair.teacher.spawn()
  with forked_servers.forking():
    server.start(pair.student)
  pair.teacher.wait()
  yield pair
  pair.teacher.end()
  pair.student.end()


@pytest.fixture
def forking():
  """Servers that the test starts are forked."""
  with forked_servers.forking():
    yield
