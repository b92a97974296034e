"""What a run settles, checks and leaves out before its first phase."""

import dataclasses
import datetime
import json
import logging
import shutil

import jax
import pytest

from atlas_jax import config as config_lib
from atlas_jax import sharding
from atlas_jax.data.problems import DataError
from atlas_jax.directory import RunError
from atlas_jax.errors import AtlasError
from atlas_jax.hub import HubError
from atlas_jax.phases import opening
from atlas_jax.phases.fitting import TooLong
from tests.hub_cache import COMMIT, write_cache
from tests.phases import small_sft

WRONG = "f" * 40


def lines(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def question(i, words=1):
  return {"question": f"{i} + " + "1 " * words + "?", "answer": str(i + 1)}


def example(i, words=1):
  return {
    "problem_text": f"{i} + " + "1 " * words,
    "student_approach": "I add",
    "teacher_diagnosis": "fine",
    "teacher_teaching": "carry",
  }


def written(workdir) -> dict:
  return json.loads((workdir / "config.json").read_text())


def test_a_model_of_the_hub_is_pinned_to_its_commit(
  model,
  hub_cache,
  tmp_path,
):
  names = [file.name for file in model.iterdir()]
  snapshot = write_cache(hub_cache, "org/teacher", files=names)
  for name in names:
    shutil.copyfile(model / name, snapshot / name)
  given = {"teacher__path": "org/teacher", "phases": ("export",)}
  small_sft.run(model, tmp_path / "run", **given)
  assert written(tmp_path / "run")["teacher"]["path"] == f"org/teacher@{COMMIT}"
  exported = small_sft.weights(tmp_path / "run")
  # The name has come to mean something else: the run goes on with its own.
  (hub_cache / "models--org--teacher" / "refs" / "main").write_text(WRONG)
  (hub_cache / "models--org--teacher" / "snapshots" / WRONG).mkdir()
  shutil.rmtree(tmp_path / "run" / "export")
  small_sft.run(model, tmp_path / "run", **given)
  assert small_sft.weights(tmp_path / "run") == exported
  with pytest.raises(HubError, match="org/none is no directory"):
    small_sft.run(
      model, tmp_path / "none", **{**given, "teacher__path": "org/none"}
    )
  assert not (tmp_path / "none" / "config.json").exists()


@pytest.mark.parametrize(
  ("given", "settled"),
  [
    ("org/s", f"org/s@{COMMIT}"),
    ("org/s@main", f"org/s@{COMMIT}"),
    ("org/s@" + WRONG, "org/s@" + WRONG),
    ("org/other", "org/other@" + COMMIT),
  ],
)
def test_what_a_name_means_on_a_resume(monkeypatch, tmp_path, given, settled):
  monkeypatch.setattr(
    opening.hub,
    "pinned",
    lambda name: name if "@" in name else f"{name}@{COMMIT}",
  )
  before = small_sft.config("models/x/y", {})
  before = opening._replaced(before, "student.path", f"org/s@{COMMIT}")
  before = opening._replaced(before, "template_date", "2025-03-04")
  (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(before)))
  now = small_sft.config("models/x/y", {"phases": ("evaluate",)})
  now = opening._replaced(now, "student.path", given)
  found = opening.settled(now, tmp_path)
  assert found.student.path == settled
  assert found.template_date == "2025-03-04"


def test_the_day_is_that_of_the_first_start(model, tmp_path):
  today = datetime.date.today().isoformat()
  given = {"phases": ("export",)}
  small_sft.run(model, tmp_path / "run", **given)
  file = tmp_path / "run" / "config.json"
  assert today <= written(tmp_path / "run")["template_date"]
  file.write_text(
    json.dumps({**written(tmp_path / "run"), "template_date": "2025-03-04"})
  )
  small_sft.run(model, tmp_path / "run", **given)
  assert written(tmp_path / "run")["template_date"] == "2025-03-04"
  with pytest.raises(RunError, match="2026-01-01"):
    small_sft.run(model, tmp_path / "run", **given, template_date="2026-01-01")
  with pytest.raises(config_lib.ConfigError, match="template_date='4 March'"):
    small_sft.config(model, {"template_date": "4 March"})


def test_other_problems_under_the_same_path_are_refused(model, tmp_path):
  path = lines(tmp_path / "a.jsonl", map(question, range(30)))
  given = {"phases": ("export",), "data__source": "jsonl", "data__path": path}
  workdir = tmp_path / "run"
  small_sft.run(model, workdir, **given)
  small_sft.run(model, workdir, **given)
  lines(tmp_path / "a.jsonl", map(question, range(1, 31)))
  with pytest.raises(DataError, match="not those that the run began") as error:
    small_sft.run(model, workdir, **given)
  assert "\n" not in str(error.value)
  # Other phases and another path are changes of the config, and said so.
  with pytest.raises(RunError, match="-phases"):
    small_sft.run(model, workdir, **{**given, "phases": ("sft", "export")})
  given["data__path"] = lines(tmp_path / "b.jsonl", map(question, range(30)))
  with pytest.raises(RunError, match=r"b\.jsonl"):
    small_sft.run(model, workdir, **given)


def test_other_examples_of_sft_are_refused(model, tmp_path):
  path = lines(tmp_path / "sft.jsonl", map(example, range(9)))
  given = {"data__sft_source": "arc_sft", "data__sft_path": path}
  mesh = sharding.make_mesh(small_sft.config(model, {}).mesh)
  with jax.set_mesh(mesh):
    first = make(model, tmp_path, **given).config.data.fingerprint
    lines(tmp_path / "sft.jsonl", map(example, range(1, 10)))
    assert make(model, tmp_path, **given).config.data.fingerprint != first
    with pytest.raises(DataError, match=first):
      make(model, tmp_path, **given, data__fingerprint=first)


def make(model, workdir, **changes) -> opening.Opened:
  changes = {k.replace("__", "."): v for k, v in changes.items()}
  changes = {"student.path": str(model), **changes}
  return opening.open_run(small_sft.config(model, changes), workdir)


def test_weights_that_are_not_needed_are_not_asked_for(
  model, hub_cache, tmp_path
):
  names = {file.name for file in model.iterdir()} - {"model.safetensors"}
  snapshot = write_cache(hub_cache, "org/m", files=names)
  for name in names:
    shutil.copyfile(model / name, snapshot / name)
  given = {
    **{"teacher__path": "org/m", "teacher__random_init": True},
    **{"student__path": "org/m", "serving__student__url": "http://127.0.0.1:9"},
    **{"phases": ("evaluate",), "evaluate__students": ("org/m",)},
    "evaluate__student_urls": ("http://127.0.0.1:8",),
  }
  with jax.set_mesh(sharding.make_mesh(small_sft.config(model, {}).mesh)):
    assert make(model, tmp_path, **given).guests.students
    for needed in (
      {"teacher__random_init": False},
      {"serving__student__url": None},
      {"evaluate__student_urls": ()},
    ):
      with pytest.raises(AtlasError, match=r"org/m@.* is no directory here"):
        make(model, tmp_path, **given | needed)


def test_an_example_that_is_too_long_stops_before_the_first_step(
  model, tmp_path
):
  rows = [example(i, words=300 if i == 4 else 1) for i in range(10)]
  path = lines(tmp_path / "sft.jsonl", rows)
  given = {"data__sft_source": "arc_sft", "data__sft_path": path}
  with pytest.raises(TooLong) as error:
    small_sft.run(model, tmp_path / "run", **given)
  text = str(error.value)
  assert text.startswith(f"1 of 10 SFT examples are too long: {path}:5: ")
  assert "config.sft.row_length is 128" in text and "\n" not in text
  assert not (tmp_path / "run" / "config.json").exists()
  with jax.set_mesh(sharding.make_mesh(small_sft.config(model, {}).mesh)):
    run = make(model, tmp_path, **given, data__max_too_long=0.1)
  assert len(run.sft_sequences) == 9


def test_a_test_question_that_is_too_long_stops_or_is_left_out(
  model, tmp_path, caplog
):
  train = lines(tmp_path / "train.jsonl", map(question, range(8)))
  rows = [question(100 + i, words=500 if i == 3 else 1) for i in range(5)]
  test = lines(tmp_path / "test.jsonl", rows)
  given = {
    "phases": ("evaluate",),
    "data__source": "jsonl",
    "data__path": train,
    "data__test_path": test,
    "serving__teacher__max_model_len": 4000,
    "serving__student__max_model_len": 400,
  }
  with jax.set_mesh(sharding.make_mesh(small_sft.config(model, {}).mesh)):
    with pytest.raises(TooLong) as error:
      make(model, tmp_path, **given)
    assert f"1 of 5 test problems are too long: {test}:4: " in str(error.value)
    assert "student_baseline" in str(error.value)
    assert "config.serving.student.max_model_len is 400" in str(error.value)
    run = make(model, tmp_path, **given, data__max_too_long=0.2)
    assert [p.answer for p in run.splits.test] == ["101", "102", "103", "105"]
    assert "left out" in caplog.text
    # A constant teaching is as long as it is.
    given |= {"evaluate__constant_teachings": ("word " * 300,)}
    with pytest.raises(TooLong, match="5 of 5 test problems"):
      make(model, tmp_path, **given)


def test_fewer_tokens_than_a_step_takes_are_told_of(model, tmp_path, caplog):
  path = lines(tmp_path / "sft.jsonl", map(example, range(3)))
  given = {"data__sft_source": "arc_sft", "data__sft_path": path}
  mesh = sharding.make_mesh(small_sft.config(model, {}).mesh)
  with jax.set_mesh(mesh), caplog.at_level(logging.WARNING):
    make(model, tmp_path, **given)
  assert "less than one step takes" in caplog.text
