"""A report page: what it embeds, how little trust it has in texts."""

import json
import re

import numpy as np
import pytest

from atlas_jax.reports import curves, page, reading
from tests.reports import run_files


def read(tmp_path, **options):
  return reading.read(run_files.write_run(tmp_path / "run", **options))


def data_of(text):
  return json.loads(
    re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1)
  )


def test_the_verdict_names_gain_interval_harm_and_cost(tmp_path):
  lines = run_files.attempts(((0, 1), (0, 1), (1, 1), (1, 0)))
  text = page.verdict(run_files.evaluation(lines))
  assert text.startswith(
    "teacher after grpo: 75.0% of 4 problems (test), against 50.0% alone: gain"
    " +25.0 points [15.0, 35.0]. Of the answers right alone 50.0% stayed right."
    " Cost: 2.0 tokens of teaching and 0.50 s a problem"
  )


def test_a_run_without_an_evaluation_has_a_page_of_its_curves(tmp_path):
  path = run_files.write_run(tmp_path / "run")
  for name in ("report/1_evaluate.json", "episodes/1_evaluate.jsonl"):
    (path / name).unlink()
  text = page.page(reading.read(path))
  assert "no evaluation yet" in text
  assert "<svg" in text
  assert 'id="episodes"' not in text


def test_flips_count_all_problems_also_those_left_out(tmp_path):
  run = read(tmp_path)
  text = page.page(run, most_bytes=1)
  data = data_of(text)
  # The broken one is the most telling.
  assert [p["id"] for p in data["problems"]] == ["p1"]
  assert "1 of 4 problems are in this page" in text
  assert data["flips"]["1"]["counts"] == dict.fromkeys(reading.FLIPS, 1)
  assert [k["kind"] for k in data["flips"]["1"]["kinds"]] == ["even", "odd"]


def test_the_reward_of_an_attempt_is_that_of_training(tmp_path):
  attempts = data_of(page.page(read(tmp_path)))["attempts"]
  taught = {a["problem"]: a for a in attempts if a["arm"] == 1}
  assert taught[0]["reward"]["improvement"] == 1.0
  assert taught[1]["reward"]["degradation"] == -2.0
  assert all(a["reward"] is None for a in attempts if a["arm"] == 0)


@pytest.mark.parametrize(
  "evil",
  [
    "</script><script>document.title='x'</script>",
    "<img src=x onerror=alert(1)>",
    "a & b \u2028 \u2029",
    "{{ 7 * 7 }} {% for x in y %}",
  ],
)
def test_what_a_model_wrote_is_data(tmp_path, evil):
  run = read(tmp_path, lines=run_files.attempts(teaching=evil))
  text = page.page(run)
  assert ("<" in evil and evil in text) is False
  assert not set("\u2028\u2029") & set(text)
  assert data_of(text)["attempts"][0]["teaching"] == evil
  assert text.count("</script>") == 2


def test_the_title_of_an_arm_and_a_config_are_text(tmp_path):
  lines = run_files.attempts()
  for line in lines[4:]:
    line["arm"] = 'constant "<b>x</b>"'
  run = read(tmp_path, lines=lines)
  assert "<b>x</b>" not in page.page(run, other=run)


def test_training_problems_that_came_most_often_stand_first(tmp_path):
  training = [
    run_files.training_line(1, 0),
    run_files.training_line(1, 1),
    run_files.training_line(2, 1),
  ]
  text = page.page(read(tmp_path, training=training))
  shown = data_of(text)["training"]
  assert [len(p["episodes"]) for p in shown] == [2, 1]
  assert shown[0]["episodes"][0]["taught_rate"] == 0.5
  text = page.page(
    read(tmp_path / "b", training=training), most_training_bytes=1
  )
  assert len(data_of(text)["training"]) == 1
  assert "1 of the 2 problems" in text


def test_the_page_asks_for_nothing_and_is_the_same_each_time(tmp_path):
  run = read(tmp_path)
  text = page.page(run)
  assert not re.search(r'(?:src|href)="(?!#|data:)', text)
  assert not re.search(r"url\(['\"]?http", text)
  assert page.page(run) == text


def test_a_phase_draws_what_it_has_and_leaves_out_what_stays_zero():
  lines = [run_files.metrics_line(step, reward_leak=0.0) for step in (1, 2)]
  ((phase, figures),) = curves.all_figures([lines])
  assert phase == "0_grpo"
  titles = [re.findall(r">([A-Z][^<]*)</text>", svg)[-1] for svg in figures]
  assert titles == ["Accuracy on training problems", "KL"]


def test_several_seeds_are_a_mean_with_a_band():
  runs = [
    [run_files.metrics_line(step, kl=kl) for step in (1, 2)] for kl in (1, 3)
  ]
  steps, values = curves.series(runs, "0_grpo", "kl")
  assert steps.tolist() == [1, 2]
  assert values.tolist() == [[1, 1], [3, 3]]
  one, two = (curves.all_figures(r)[0][1][1] for r in (runs[:1], runs))
  # A band is one more filled shape.
  assert "PolyCollection" not in one and "FillBetween" in two


def test_a_number_that_no_axis_has_room_for_is_left_out():
  odd = ["high", [1], 1e300, 10**400, float("nan"), None]
  lines = [run_files.metrics_line(i, kl=kl) for i, kl in enumerate([*odd, 2])]
  steps, values = curves.series([lines], "0_grpo", "kl")
  assert (steps.tolist(), values.tolist()) == ([6], [[2.0]])


def test_a_line_of_zeros_has_an_axis_of_ones():
  svg = curves.figure("a", "b", {"c": (np.array([1, 2]), np.zeros((1, 2)))})
  assert ">1.0<" in svg and "0.04" not in svg
