"""Scoring processes can do nothing but read, compute and answer."""

import logging
import os
import platform
import resource
import signal

import pytest

from atlas_jax import lock
from atlas_jax.confined import Late, NoAnswer
from atlas_jax.teaching import verify
from atlas_jax.teaching.verify import Job, VerifierPool
from tests.teaching import probes

REAL = verify._JOBS
PROBES = ("attempt", "raw", "read", "loud", "greedy", "ended", "forge")
LOCKED = {name: Job(getattr(probes, name), probes.nothing) for name in PROBES}
FREE = {f"free_{n}": Job(j.right, j.prepare, False) for n, j in LOCKED.items()}
DENIED = "PermissionError|new thread|not allowed|ZeroDivision"
# This one would end the process that shows what can be done without the lock.
ENDS = ("exec",)


def pool_of(jobs, **options):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(verify, "_JOBS", jobs)
    with VerifierPool(**{"processes": 1, "deadline_s": 20.0} | options) as pool:
      yield pool


@pytest.fixture(scope="module")
def pool():
  """Asks each probe under the lock, and as free_NAME without."""
  yield from pool_of(LOCKED | FREE)


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "file").write_text("whole")
  (tmp_path / "sub").mkdir()
  return tmp_path


def state(folder):
  return sorted(
    (str(p), p.lstat().st_mode, p.lstat().st_mtime_ns, p.lstat().st_size)
    for p in [folder, *folder.rglob("*")]
  )


@pytest.mark.parametrize("name", probes.PROBES)
def test_nothing_is_done(pool, folder, name):
  before = state(folder)
  with pytest.raises(NoAnswer, match=DENIED):
    pool._ask("attempt", (name, str(folder)))
  assert state(folder) == before


@pytest.mark.parametrize("name", sorted(set(probes.PROBES) - set(ENDS)))
def test_without_the_lock_all_of_it_is_done(pool, folder, name):
  assert pool._ask("free_attempt", (name, str(folder)))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86_64's numbers")
@pytest.mark.parametrize("name", probes.RAW)
def test_calls_that_python_has_no_name_for_are_denied(pool, name):
  assert not pool._ask("raw", (name,))


def test_reading_goes_on(pool, folder):
  assert pool._ask("read", (str(folder),))


def test_nothing_reaches_the_terminal(pool, capfd):
  assert pool._ask("loud", (None,))
  assert "heard" not in "".join(capfd.readouterr())


def test_memory_files_and_time_are_bounded(pool):
  with pytest.raises(NoAnswer, match="MemoryError"):
    pool._ask("greedy", (8 << 30,))
  assert pool._ask("greedy", (1 << 20,))
  worker = pool._places["greedy"].get()
  pool._places["greedy"].put(worker)
  pid = worker._process.pid

  def limit(name):
    return resource.prlimit(pid, getattr(resource, f"RLIMIT_{name}"))

  assert limit("FSIZE") == limit("CORE") == limit("NPROC") == (0, 0)
  assert limit("AS") == (6 << 30, 6 << 30)
  # A bound on a comparison, not on the life of its process.
  assert 20 < limit("CPU")[0] < 60


@pytest.mark.parametrize("how", ["exit", "fault", "raise"])
def test_a_process_that_ends_is_no_verdict_and_is_replaced(pool, folder, how):
  with pytest.raises(NoAnswer):
    pool._ask("ended", (how,))
  assert pool._ask("read", (str(folder),))


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize(
  "what, error",
  [
    ("pickle", NoAnswer),
    ("pickle_line", NoAnswer),
    ("not_json", NoAnswer),
    ("not_a_pair", NoAnswer),
    ("deep", NoAnswer),
    ("endless", NoAnswer),
    ("begun", Late),
    ("nothing", Late),
  ],
)
def test_what_a_process_says_is_never_code_nor_endless(
  folder, what, error, locks
):
  jobs = {"forge": Job(probes.forge, probes.nothing, locks)}
  for pool in pool_of(jobs, deadline_s=0.5):
    with pytest.raises((error, Late)):
      pool._ask("forge", (what, str(folder)))
  assert not (folder / "new").exists()


def test_only_true_is_true(folder):
  jobs = {"forge": Job(probes.forge, probes.nothing)}
  for pool in pool_of(jobs, deadline_s=0.5):
    answer = ("truth_by_another_name", str(folder))
    assert pool._ask("forge", answer) is False


def test_a_process_that_no_longer_reads_is_no_verdict():
  jobs = {"ended": Job(probes.ended, probes.nothing)}
  for pool in pool_of(jobs, deadline_s=0.5):
    worker = verify._start(jobs["ended"])
    os.kill(worker._process.pid, signal.SIGSTOP)
    pool._places["ended"].get()
    pool._places["ended"].put(worker)
    with pytest.raises(Late):
      pool._ask("ended", ("x" * (8 << 20),))


def test_a_kernel_without_a_lock_is_told_once(caplog, folder):
  lock.warn.cache_clear()
  job = Job(probes.read, probes.on_an_unknown_machine)
  with caplog.at_level(logging.WARNING):
    for pool in pool_of({"a": job, "b": job}):
      assert pool._ask("a", (str(folder),))
      assert pool._ask("b", (str(folder),))
  (record,) = caplog.records
  assert "not locked: no list of system calls for" in record.getMessage()
  lock.warn.cache_clear()


def test_all_but_what_the_user_wrote_is_locked():
  locked = {kind: job.locked for kind, job in REAL.items()}
  assert locked == {"math": True, "reasoning_gym": True, "own": False}
