"""Scoring processes can do nothing but read, compute and answer."""

import contextlib
import logging
import os
import platform
import resource
import signal

import pytest

from atlas_jax import fork_server, seccomp
from atlas_jax.confined import Late, Unanswered
from atlas_jax.teaching import own, verify
from atlas_jax.teaching.verify import VerifierJob, VerifierPool
from tests.teaching import probes

DENIED = "PermissionError|new thread|not allowed|ZeroDivision"
# This one would end the process that shows what can be done without the lock.
ENDS = ("exec",)


def opened(deadline_s=20.0):
  pool = VerifierPool(processes=1, deadline_s=deadline_s)
  return contextlib.closing(pool)


@pytest.fixture(scope="module")
def pool():
  with opened() as pool:
    yield pool


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "file").write_text("whole")
  (tmp_path / "sub").mkdir()
  return tmp_path


def process_of(pool, job):
  (found,) = [p for (_, its), p in pool._processes.items() if its == job]
  return found


def state(folder):
  return sorted(
    (str(p), p.lstat().st_mode, p.lstat().st_mtime_ns, p.lstat().st_size)
    for p in [folder, *folder.rglob("*")]
  )


@pytest.mark.parametrize("name", probes.PROBES)
def test_nothing_is_done(pool, folder, name):
  before = state(folder)
  with pytest.raises(Unanswered, match=DENIED):
    pool.ask(VerifierJob(probes.attempt), name, str(folder))
  assert state(folder) == before


@pytest.mark.parametrize("name", sorted(set(probes.PROBES) - set(ENDS)))
def test_without_the_lock_all_of_it_is_done(pool, folder, name):
  assert pool.ask(VerifierJob(probes.attempt, locked=False), name, str(folder))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86_64's numbers")
@pytest.mark.parametrize("name", probes.RAW)
def test_calls_that_python_has_no_name_for_are_denied(pool, name):
  assert not pool.ask(VerifierJob(probes.raw), name)


def test_reading_goes_on(pool, folder):
  assert pool.ask(VerifierJob(probes.read), str(folder))


def test_nothing_reaches_the_terminal(pool, capfd):
  assert pool.ask(VerifierJob(probes.loud), None)
  assert "heard" not in "".join(capfd.readouterr())


def test_memory_files_and_time_are_bounded(pool):
  with pytest.raises(Unanswered, match="MemoryError"):
    pool.ask(VerifierJob(probes.greedy), 8 << 30)
  assert pool.ask(VerifierJob(probes.greedy), 1 << 20)
  pid = process_of(pool, VerifierJob(probes.greedy)).pid

  def limit(name):
    return resource.prlimit(pid, getattr(resource, f"RLIMIT_{name}"))

  assert limit("FSIZE") == limit("CORE") == limit("NPROC") == (0, 0)
  assert limit("AS") == (6 << 30, 6 << 30)
  # A bound on a comparison, not on the life of its process.
  assert 20 < limit("CPU")[0] < 60


@pytest.mark.parametrize("how", ["exit", "fault", "raise"])
def test_a_process_that_ends_is_no_verdict_and_is_replaced(pool, folder, how):
  with pytest.raises(Unanswered):
    pool.ask(VerifierJob(probes.ended), how)
  assert pool.ask(VerifierJob(probes.read), str(folder))


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize(
  "what, error",
  [
    ("pickle", Unanswered),
    ("pickle_line", Unanswered),
    ("not_json", Unanswered),
    ("not_a_pair", Unanswered),
    ("deep", Unanswered),
    ("endless", Unanswered),
    ("begun", Late),
    ("nothing", Late),
  ],
)
def test_what_a_process_says_is_never_code_nor_endless(
  folder, what, error, locks
):
  job = VerifierJob(probes.forge, locked=locks)
  with opened(0.5) as pool, pytest.raises((error, Late)):
    pool.ask(job, what, str(folder))
  assert not (folder / "new").exists()


def test_only_true_is_true(folder):
  with opened(0.5) as pool:
    asked = ("truth_by_another_name", str(folder))
    assert pool.ask(VerifierJob(probes.forge), *asked) is False


def test_a_process_that_no_longer_reads_is_no_verdict():
  job = VerifierJob(probes.ended)
  with opened(0.5) as pool:
    with pytest.raises(Unanswered, match="division"):
      pool.ask(job, "x")
    os.kill(process_of(pool, job).pid, signal.SIGSTOP)
    with pytest.raises(Late):
      pool.ask(job, "x" * (8 << 20))


def test_one_at_a_time_needs_one_process_and_a_closed_pool_none(folder):
  job = VerifierJob(probes.read)
  with contextlib.closing(VerifierPool(processes=2, deadline_s=5.0)) as pool:
    assert pool.ask(job, str(folder)) and pool.ask(job, str(folder))
    process = process_of(pool, job)
    assert process.alive
  assert not process.alive


def test_a_kernel_without_a_lock_is_told_once(caplog, folder, monkeypatch):
  seccomp.warn_unlocked.cache_clear()
  server = fork_server.ForkServer()  # of its own: what is prepared there stays
  monkeypatch.setattr(fork_server, "_server", server)
  monkeypatch.setattr(fork_server, "_of_process", os.getpid())
  with (
    contextlib.closing(server),
    caplog.at_level(logging.WARNING),
    opened() as pool,
  ):
    for probe in (probes.read, probes.loud):
      assert pool.ask(
        VerifierJob(probe, probes.on_an_unknown_machine), str(folder)
      )
  (record,) = caplog.records
  assert "not locked: no list of system calls for" in record.getMessage()
  seccomp.warn_unlocked.cache_clear()


def test_all_but_what_the_user_wrote_is_locked():
  assert verify.MATH.locked and verify.REASONING_GYM.locked
  assert not own.OWN.locked
