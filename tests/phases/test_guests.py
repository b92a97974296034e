"""Teachers, prompts and students of elsewhere in an evaluation."""

import dataclasses
import json
import shutil

import jax
import pytest

from atlas_jax import metrics, sharding
from atlas_jax.config import MeshConfig, default_config, resolve
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.directory import RunError
from atlas_jax.errors import AtlasError
from atlas_jax.phases import arms, evaluate, opening
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.guests import Guest
from atlas_jax.reports import reading
from atlas_jax.teaching.prompts import Prompts, load_prompts
from configs import quickstart
from tests.phases import small_sft
from tests.phases.stand_in_run import run
from tests.phases.stand_in_servers import serve

FIRST = 1_000_000  # the version of the first guest


def titles(evaluation):
  return [arm["name"] for arm in evaluation["arms"]]


def arms_without_clocks(evaluation):
  return [
    {k: v for k, v in arm.items() if "seconds" not in k}
    for arm in evaluation["arms"]
  ]


@pytest.fixture
def words(tmp_path):
  path = tmp_path / "best_prompts.json"
  told = quickstart.PROMPTS | {"student_taught": "{question} Do: {teaching}"}
  path.write_text(json.dumps({"prompts": told}))
  return str(path)


@pytest.mark.slow
def test_guests_stand_beside_the_teacher_and_leave_it_as_it_is(
  model, whole, tmp_path, words, monkeypatch
):
  export, met = str(whole / "export"), str(model)
  encode = ChatTokenizer.from_dir(model).encode

  def evaluated(workdir):
    with serve(False, encode) as (url, other):
      *_, state = run(
        model,
        workdir,
        phases=("evaluate", "grpo"),
        grpo__steps=1,
        grpo__evaluate_every=None,
        grpo__optimizer__warmup_steps=0,
        evaluate__teachers=(str(whole), export),
        evaluate__prompts=(words,),
        evaluate__students=(met,),
        evaluate__student_urls=(url,),
      )
    report = json.loads((workdir / "report/0_evaluate.json").read_text())
    return report, state, other

  sampled, sample = [], arms.sample

  def killed(arm, *args, **given):
    sampled.append(arm.name)
    if len(sampled) == 4:
      raise KeyboardInterrupt
    return sample(arm, *args, **given)

  monkeypatch.setattr(arms, "sample", killed)
  with pytest.raises(KeyboardInterrupt):
    evaluated(tmp_path / "run")
  report, state, other = evaluated(tmp_path / "run")
  of_others = [f"teacher of {whole}", f"teacher of {export}"]
  own = [f"teacher, {words}", "teacher"]
  constant = 'constant "Carry the one."'
  mine = [reading.ALONE, constant, *of_others, *own]
  shown = [reading.ALONE, *of_others, *own]
  theirs = [f"{met}: {title}" for title in shown]
  # After the kill, only what was not there yet.
  assert sampled == [*mine[:4], *mine[3:], *theirs]
  assert titles(report) == [mine[0], f"best {constant}", *mine[2:]]
  (student,) = report["students"]
  assert student["name"] == met and titles(student) == shown
  # The first of the two checkpoints was evaluated before the kill.
  guests = [FIRST, FIRST + 1]
  assert state["updates"] == [0, *guests[1:], 0, *guests, 0, 1]
  # A run has what it exported, which is not what this run began with.
  sums = state["sums"]
  assert sums[FIRST] == sums[FIRST + 1] != sums[0]

  lines = list(metrics.lines(tmp_path / "run/episodes/0_evaluate.jsonl"))
  versions = {x["arm"]: x["weight_version"] for x in lines}
  assert [versions[x] for x in mine] == [None, None, *guests, 0, 0]
  assert {x["student"] for x in lines if x["arm"] in theirs} == {met}
  assert {x["student"] for x in lines if x["arm"] in mine} == {None}
  # Alone; probe, solution of each of the four taught arms.
  assert other["requests"] == 3 * (1 + 4 * 2)
  # The same student on the same problems, and the same teachers.
  first, _, *others = arms_without_clocks(report)
  assert arms_without_clocks(student) == [first, *others]

  told = reading.read(tmp_path / "run")
  assert told.arms()[-1] == "teacher"
  page = (tmp_path / "run/report/index.html").read_text()
  assert f"Another student, {met}: 3 problems, split test" in page
  table = (tmp_path / "run/report/0_evaluate.md").read_text()
  assert table.count("| Accuracy [95%] |") == 2


@pytest.mark.slow
def test_a_judge_takes_the_place_of_the_checker_in_every_arm(model, tmp_path):
  judge = tmp_path / "judge.py"
  judge.write_text(
    "def judge(question, gold, response):\n"
    "  return None if len(gold) % 2 else 0.75\n"
  )
  # Of a source without a checker of its own.
  rows = [{"question": f"Say {'x' * n}.", "answer": "x" * n} for n in (2, 3, 4)]
  problems = tmp_path / "problems.jsonl"
  problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
  run(
    model,
    tmp_path / "run",
    phases=("evaluate",),
    data__source="jsonl",
    data__path=str(problems),
    data__split_fractions=(0.0, 0.0, 1.0),
    data__verifier=f"{judge}:judge",
    data__own_processes=1,
  )
  folder = tmp_path / "run" / "report"
  report = json.loads((folder / "0_evaluate.json").read_text())
  for arm in report["arms"]:
    assert (arm["problems"], arm["unjudged"], arm["accuracy"]) == (2, 1, 0.75)
  table = (folder / "0_evaluate.md").read_text()
  assert f"3 problems, split test, judged by {judge}:judge" in table
  assert "| Responses without a verdict | 1 | 1 | 1 |" in table
  assert f"judged by {judge}:judge" in (folder / "index.html").read_text()


def test_an_arm_is_kept_while_prompts_and_checkpoint_are_the_same(
  tmp_path, monkeypatch, words
):
  config = small_sft.config(tmp_path, {"phases": ("evaluate",)})
  entry, sampled = PhaseEntry(config, tmp_path, 0), []
  guest = object.__new__(Guest)

  def sample(arm, *_, **__):
    sampled.append(arm.name)
    return [{"arm": arm.name}]

  monkeypatch.setattr(arms, "sample", sample)
  guest.trained = (entry, 3)
  own, others = Prompts(config.prompts), Prompts(load_prompts(words))
  arm = arms.Arm("teacher of b", own, guest)
  for _ in range(2):
    evaluate.sample(entry, arm, [None], evaluate.sampled(entry))
  assert sampled == ["teacher of b"]
  with pytest.raises(RunError, match="the prompts of teacher of b changed"):
    other = dataclasses.replace(arm, prompts=others)
    evaluate.sample(entry, other, [None], evaluate.sampled(entry))
  guest.trained = (entry, 4)
  with pytest.raises(
    RunError, match=r"checkpoint of .*0_evaluate', 3\] to .*4"
  ):
    evaluate.sample(entry, arm, [None], evaluate.sampled(entry))
  assert sampled == ["teacher of b"]


def test_an_arm_that_lost_an_attempt_is_sampled_again(tmp_path, monkeypatch):
  config = small_sft.config(tmp_path, {"phases": ("evaluate",)})
  entry, sampled = PhaseEntry(config, tmp_path, 0), []

  def sample(arm, problems, **_):
    sampled.append(arm.name)
    return [{"arm": arm.name, "id": i} for i in problems]

  monkeypatch.setattr(arms, "sample", sample)
  prompts = Prompts(config.prompts)
  one, other = (arms.Arm(title, prompts) for title in ("one", "other"))
  for arm in (one, other):
    evaluate.sample(entry, arm, [1, 2], evaluate.sampled(entry))
  first, broken, *rest = entry.episodes.read_text().splitlines(True)
  entry.episodes.write_text("".join([first, broken[:9] + "\n", *rest]))
  for arm in (one, other):
    evaluate.sample(entry, arm, [1, 2], evaluate.sampled(entry))
  assert sampled == ["one", "other", "one"]
  found = evaluate.sampled(entry)
  assert {k: [x["id"] for x in v] for k, v in found.items()} == {
    **{"other": [1, 2], "one": [1, 2]}
  }


def test_an_evaluation_before_that_lacks_its_arm_ends_it(tmp_path):
  config = small_sft.config(tmp_path, {"phases": ("evaluate", "evaluate")})
  first, second = (PhaseEntry(config, tmp_path, i) for i in range(2))
  own = Prompts(config.prompts)
  shown = [
    arms.Arm(f"teacher after {kind}", own, "teacher", evaluation=entry.name)
    for kind, entry in (("sft", first), ("grpo", second))
  ]
  first.episodes.parent.mkdir()
  first.episodes.write_text('{"arm": "teacher after sft"}\n')
  evaluate.sampled_before(second, shown)
  first.episodes.write_text("")
  with pytest.raises(RunError, match=r"0_evaluate.jsonl has no .*after sft"):
    evaluate.sampled_before(second, shown)


def test_of_an_arm_in_two_evaluations_the_newest_counts(tmp_path):
  config = small_sft.config(tmp_path, {"phases": ("evaluate", "evaluate")})
  entries = [PhaseEntry(config, tmp_path, i) for i in (0, 1)]
  for entry in entries:
    entry.episodes.parent.mkdir(exist_ok=True)
    line = json.dumps({"arm": "teacher", "id": entry.index})
    entry.episodes.write_text(line + "\n")
  assert evaluate.sampled(entries[1]) == {
    "teacher": [{"arm": "teacher", "id": 1}]
  }


# What is refused, before anything starts.


@pytest.fixture(scope="module")
def opened(model, tmp_path_factory):
  """Opens an evaluation of a tiny model with changes."""

  def make(**changes):
    tree = default_config()
    with tree.ignore_type():
      tree.update_from_flattened_dict(
        {
          "phases": ("evaluate",),
          "teacher.path": str(model),
          "student.path": str(model),
          **{f"evaluate.{key}": value for key, value in changes.items()},
        }
      )
    mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    with jax.set_mesh(mesh):
      return opening.open_run(resolve(tree), tmp_path_factory.mktemp("opened"))

  return make


def test_a_teacher_comes_with_the_prompts_of_its_run(opened, whole, model):
  guests = opened(teachers=(str(whole), str(model))).guests
  (_, one, words), (_, two, plain) = guests.teachers
  asked = {"question": "1+1?"}
  assert words.render("student_baseline", asked) == "Solve: 1+1?"
  assert "step by step" in plain.render("student_baseline", asked)
  assert (one.version, two.version) == (FIRST, FIRST + 1)


def changed(model, path, file, change):
  shutil.copytree(model, path)
  text = (path / file).read_text()
  assert change(text) != text
  (path / file).write_text(change(text))


@pytest.mark.parametrize(
  "case", ["gone", "untrained", "architecture", "template"]
)
def test_a_teacher_that_cannot_stand_in_is_refused_in_one_line(
  opened, model, tmp_path, case
):
  path, says = tmp_path / "guest", "no checkpoint to export"
  match case:
    case "gone":
      path, says = "runs/deep/gone", "runs/deep/gone is neither a directory"
    case "untrained":
      path.mkdir()
      config = dataclasses.asdict(resolve(default_config()))
      (path / "config.json").write_text(json.dumps(config))
    case "architecture":
      says = rf"{path} has another architecture than config\.teacher"

      def one_layer(text):
        key = '"num_hidden_layers": '
        return text.replace(key, f"{key}1")

      changed(model, path, "config.json", one_layer)
    case "template":
      says = f"{path} has another tokenizer or chat template than"
      changed(
        model,
        path,
        "chat_template.jinja",
        lambda text: text.replace("{{", "{{ ' ' }}{{", 1),
      )
  with pytest.raises(AtlasError, match=says) as caught:
    opened(teachers=(str(path),))
  assert "\n" not in str(caught.value)
  assert str(caught.value).startswith("config.evaluate.teachers: ")


@pytest.mark.parametrize(
  ("guest", "says"),
  [
    ({"students": ("a/b/gone",)}, "evaluate.students: a/b/gone is neither"),
    ({"students": ("bare",)}, r"evaluate\.students: bare holds no \*\.safet"),
    (
      {"prompts": ("gone.json",)},
      r"config\.evaluate\.prompts: .*gone\.json cannot be read",
    ),
    ({"teachers": ("a", "a")}, "names one twice"),
    (
      {"students": ("a",), "student_urls": ("http://x", "http://y")},
      "student_urls names 2 servers of 1 students",
    ),
    ({"students": ("a",), "student_urls": ("x",)}, "student_urls: must"),
  ],
)
def test_other_guests_are_refused_in_one_line(
  opened, guest, says, model, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  without = shutil.ignore_patterns("*.safetensors")
  shutil.copytree(model, tmp_path / "bare", ignore=without)
  with pytest.raises(AtlasError, match=says) as caught:
    opened(**guest)
  assert "\n" not in str(caught.value)
