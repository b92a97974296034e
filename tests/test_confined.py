"""A process of our own: what it answers, and what it does not run.

The lock and forged answers: tests/teaching/test_seccomp.py.
"""

import math
import os
import time

import pytest

from atlas_jax.confined import Confined, Late, Raised, Unanswered

LIMITS = {"cpu_s": 5, "wall_s": 60}


@pytest.fixture(scope="module")
def process():
  process = Confined()
  yield process
  process.end()


def test_what_is_raised_is_a_type_and_a_line_and_the_process_goes_on(process):
  pid = process.call(os.getpid, **LIMITS)
  with pytest.raises(Raised) as error:
    process.call(int, "a\nb", **LIMITS)
  kind, text = error.value.args
  assert kind == "ValueError" and "\n" not in text
  with pytest.raises(Raised, match="not JSON serializable"):
    process.call(complex, 1, **LIMITS)
  assert process.call(os.getpid, **LIMITS) == pid != os.getpid()


def test_an_answer_has_a_bound():
  process = Confined(answer_bytes=100)
  assert process.call(str.upper, "a" * 50, **LIMITS) == "A" * 50
  with pytest.raises(Unanswered):
    process.call(str.upper, "a" * 200, **LIMITS)
  assert not process.alive


def test_time_and_processor_time_have_a_bound():
  with pytest.raises(Late):
    Confined().call(time.sleep, 60, cpu_s=5, wall_s=1)
  with pytest.raises(Unanswered, match="takes more than 1 s"):
    Confined().call(math.factorial, 10**7, cpu_s=1, wall_s=60)


def fork(at: int) -> bool:
  return os.fork() == 0 or bool(at)  # two processes return


def test_a_copy_that_a_function_forks_answers_nothing(process):
  pid = process.call(os.getpid, **LIMITS)
  assert process.call(fork, 0, **LIMITS) is False
  time.sleep(0.05)
  assert process.call(os.getpid, **LIMITS) == pid


def test_nothing_of_the_current_directory_is_imported(tmp_path, monkeypatch):
  for name in ("json", "socket", "pickle"):
    (tmp_path / f"{name}.py").write_text("open('ran', 'w')")
  monkeypatch.chdir(tmp_path)
  process = Confined()
  assert process.call(abs, -1, **LIMITS) == 1
  process.end()
  assert not (tmp_path / "ran").exists()
