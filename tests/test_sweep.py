"""A sweep: what it reads, what it starts, what a failure or a kill leaves."""

import signal
import subprocess
import threading
from dataclasses import replace

import psutil
import pytest

from atlas_jax import stopping, sweep
from atlas_jax.config import ConfigError, default_config
from atlas_jax.directory import RunError
from tests import forked

ABLATION = '''"""Does it matter?"""
from atlas_jax.config import default_config
from atlas_jax.directory import RunError

def get_config():
  config = default_config()
  config.teacher.path = "{first}/export"
  return config

def shared():
  yield "first", "train", "configs/quickstart.py:student", {"sft.steps": 1}

def sweep():
  yield "base", {}
  yield "more", {"grpo.beta": 0.5, "student.path": "{first}/export"}
'''


@pytest.fixture
def ablation(tmp_path):
  path = tmp_path / "ablation.py"
  path.write_text(ABLATION)
  return sweep.load(str(path))


def test_every_seed_has_its_shared_runs_before_its_rows(ablation, tmp_path):
  jobs = sweep.jobs(ablation, tmp_path, [0, 7], ["--config.grpo.steps=3"])
  assert [job.name for job in jobs] == [
    *("first_seed0", "first_seed7"),
    *("base_seed0", "more_seed0", "base_seed7", "more_seed7"),
  ]
  last = jobs[-1]
  assert last.after == ("first_seed7",)
  shared = f"{tmp_path}/shared/seed7/first/export"
  assert last.flags == (
    "--config.seed=7",
    f"--config.teacher.path={shared}",
    "--config.grpo.steps=3",
    "--config.grpo.beta=0.5",
    f"--config.student.path={shared}",
  )
  assert last.directory == tmp_path / "rows/more_seed7"
  assert jobs[0].flags == ("--config.seed=0", "--config.sft.steps=1")


@pytest.mark.parametrize("key", ["grpo.beta", "seed"])
def test_what_rows_set_is_no_flag_for_all(ablation, tmp_path, key):
  with pytest.raises(ConfigError, match=f"--config.{key} is what row"):
    sweep.jobs(ablation, tmp_path, [0], [f"--config.{key}=1"])


@pytest.mark.parametrize(
  ("text", "wanted"),
  [
    ("x = 1", r"has no get_config\(\)"),
    ("def get_config(): pass", r"has no sweep\(\)"),
    (ABLATION.replace('"more"', '"base"'), "'base' cannot name a row"),
    (ABLATION.replace('"more"', '"a/b"'), "'a/b' cannot name a row"),
    (ABLATION.replace('"base", {}', '"base"'), r"must be \(str, Mapping\)"),
    (ABLATION.replace('"base", {}', "1 / 0, {}"), "ZeroDivisionError.*:14"),
    (ABLATION.replace("default_config()", "1 / 0", 1), "wrong.py:6"),
    (ABLATION.replace("return config", "return 1"), "must return a ConfigDict"),
    (ABLATION.replace('"train", ', ""), r"must be \(str, str, str, Mapping\)"),
  ],
)
def test_a_file_that_is_no_ablation_is_refused(tmp_path, text, wanted):
  path = tmp_path / "wrong.py"
  path.write_text(text)
  with pytest.raises(ConfigError, match=wanted):
    sweep.load(str(path))


def test_a_row_that_is_not_valid_is_named_before_anything_starts(tmp_path):
  path = tmp_path / "ablation.py"
  path.write_text(ABLATION.replace('"grpo.beta": 0.5', '"grpo.beta": -1.0'))
  with pytest.raises(ConfigError, match=r"row more: config\.grpo\.beta=-1\.0"):
    sweep.check(sweep.load(str(path)), default_config())
  path = tmp_path / "early.py"
  early = '{"teacher.path": "{second}/export"}'
  path.write_text(ABLATION.replace('{"sft.steps": 1}', early))
  with pytest.raises(ConfigError, match=r"first: .*valid: none"):
    sweep.check(sweep.load(str(path)), default_config())
  for i, (row, why) in enumerate(
    (
      ('"grpo.betta": 0.5', r"config\.grpo\.betta names no key .*'grpo\.beta'"),
      ('"seed": 3', "config.seed is what --seeds sets"),
      ('"teacher.path": "{last}/export"', "no shared run; valid: first$"),
      ('"evaluate.teachers": ("{last}",)', "no shared run; valid: first$"),
    )
  ):
    path = tmp_path / f"other{i}.py"
    path.write_text(ABLATION.replace('"grpo.beta": 0.5', row))
    with pytest.raises(ConfigError, match=rf"row more: .*{why}"):
      sweep.check(sweep.load(str(path)), default_config())


@pytest.mark.parametrize(
  "name", ["probe_length", "reward_weights", "intervention", "sft_or_not"]
)
def test_the_shipped_ablations_are_valid(name, repo_root, tmp_path):
  found = sweep.load(str(repo_root / f"configs/ablations/{name}.py"))
  assert found.question.splitlines()[0].endswith("?")
  assert len(found.rows) > 2
  tree = default_config()
  tree.update(found.base)
  sweep.check(found, tree)
  names = {job.name for job in sweep.jobs(found, tmp_path, [0])}
  for job in sweep.jobs(found, tmp_path, [0]):
    assert set(job.after) <= names
    assert not any("{" in flag for flag in job.flags)


@pytest.fixture
def started(monkeypatch):
  """Runs are small scripts: NAME -> what sh does in place of a launcher."""
  scripts = {}

  def command(job):
    return ["sh", "-c", scripts.get(job.name, "exit 0")]

  monkeypatch.setattr(sweep, "command", command)
  monkeypatch.setattr(sweep, "_LOOK_S", 0.05)
  return scripts


def jobs_of(tmp_path, *names, after=()):
  return [
    sweep.Job(n, n, "train", "x.py", (), tmp_path / "rows" / n, after)
    for n in names
  ]


def test_a_failed_row_is_said_and_the_others_go_on(tmp_path, started):
  started["b"] = "echo why; exit 3"
  wanted = jobs_of(tmp_path, "a", "b", "c")
  assert sweep.run(tmp_path, wanted, 2) == {
    "a": "done",
    "b": "failed",
    "c": "done",
  }
  assert (tmp_path / "logs/b.log").read_text() == "why\n"
  # Run again: what is finished is not repeated, what failed is.
  started.update(a="exit 1", b="exit 0")
  assert sweep.run(tmp_path, wanted, 2) == dict.fromkeys("abc", "done")


def test_rows_of_a_failed_shared_run_are_skipped(tmp_path, started):
  started["first"] = "exit 1"
  wanted = [
    *jobs_of(tmp_path, "first"),
    *jobs_of(tmp_path, "row", after=("first",)),
    *jobs_of(tmp_path, "other"),
  ]
  assert sweep.run(tmp_path, wanted, 1) == {
    "first": "failed",
    "row": "skipped",
    "other": "done",
  }


def test_a_sweep_that_is_stopped_ends_its_runs_and_goes_on_later(
  tmp_path, started, monkeypatch
):
  there, ended = tmp_path / "there", tmp_path / "ended"
  # A shell that is about to become `sleep` can lose any signal but KILL, and
  # what lives holds the lock of the run.
  started["a"] = (
    f"trap 'kill -9 $!; touch {ended}; exit 1' TERM;"
    f" sleep 60 & touch {there}; wait"
  )

  def looked(_):
    if there.exists():
      there.unlink()  # once
      raise stopping.Stopped(signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(sweep.time, "sleep", looked)
    with pytest.raises(stopping.Stopped):
      sweep.run(tmp_path, jobs_of(tmp_path, "a", "b"), 1)
  assert ended.exists() and not (tmp_path / "logs/b.log").exists()
  started["a"] = "exit 0"
  again = sweep.run(tmp_path, jobs_of(tmp_path, "a", "b"), 1)
  assert again == {"a": "done", "b": "done"}


def test_a_run_that_does_not_end_is_killed(tmp_path, started, monkeypatch):
  there, pids = tmp_path / "there", []
  started["a"] = (
    f"trap '' TERM; echo $$ > {there}.new; mv {there}.new {there};"
    " while :; do sleep 0.1; done"
  )

  def looked(_):
    if there.exists():
      pids.append(int(there.read_text()))
      there.unlink()  # once
      raise stopping.Stopped(signal.SIGTERM)

  monkeypatch.setattr(sweep, "_GRACE_S", 0.5)
  monkeypatch.setattr(sweep.time, "sleep", looked)
  with pytest.raises(stopping.Stopped):
    sweep.run(tmp_path, jobs_of(tmp_path, "a"), 1)
  assert not psutil.pid_exists(*pids)


def test_two_sweeps_share_what_both_need_and_run_it_once(tmp_path, started):
  started["a"] = f"echo x >> {tmp_path}/count"
  threads = [
    threading.Thread(
      target=lambda: sweep.run(tmp_path, jobs_of(tmp_path, "a"), 1)
    )
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert (tmp_path / "count").read_text() == "x\n"


def test_a_sweep_of_another_config_is_refused(tmp_path, started):
  first = jobs_of(tmp_path, "a")
  assert sweep.run(tmp_path, first, 1) == {"a": "done"}
  # The same file, named in another way.
  again = [replace(first[0], config="/elsewhere/x.py")]
  assert sweep.run(tmp_path, again, 1) == {"a": "done"}
  other = [replace(first[0], flags=("--config.grpo.steps=3",))]
  with pytest.raises(RunError, match="finished with another config"):
    sweep.run(tmp_path, other, 1)


@pytest.mark.parametrize(
  "flag", [["--config.grpo.steps=3"], ["--config.grpo.steps", "3"]]
)
def test_the_launcher_lists_and_writes_a_job_array(tmp_path, flag):
  config = "configs/ablations/probe_length.py"
  argv = [
    *("launchers.sweep", f"--config={config}"),
    *(f"--workdir={tmp_path / 'sweep'}", "--seeds=0,1,01", *flag),
  ]
  said = forked.run(*argv, "--list")
  assert said.returncode == 0, said.stderr
  rows = [x for x in said.stdout.splitlines() if "probe_" in x]
  assert len(rows) == 8 and "to do" in rows[0]
  assert all("--config.grpo.steps=3" in row for row in rows)
  script = tmp_path / "job.sh"
  assert forked.run(*argv, "--sbatch", str(script)).returncode == 0
  subprocess.run(["bash", "-n", script], check=True)
  text = script.read_text()
  assert "--array=0-7" in text and "--config.grpo.steps=3" in text
  assert "--sbatch" not in text.split("set -euo")[1]
