"""The file of chosen prompts: what is read, and what is said of a bad one."""

import json

import pytest

from atlas_jax.config import PromptsConfig
from atlas_jax.teaching.prompts import (
  PromptError,
  Prompts,
  load_prompts,
  prompts_config,
)

TEMPLATES = {
  "student_baseline": "A {question}",
  "student_probe": "P {question}",
  "teacher": "T {question} {probe} {{json}}",
  "student_taught": "G {question} {teaching}",
}


def without(name):
  return {key: text for key, text in TEMPLATES.items() if key != name}


def test_the_four_templates_are_read_and_the_rest_is_information(tmp_path):
  path = tmp_path / "best_prompts.json"
  path.write_text(json.dumps({"prompts": TEMPLATES, "score": 0.5, "run": "a"}))
  assert load_prompts(path) == PromptsConfig(**TEMPLATES)
  assert load_prompts(str(path)) == prompts_config(TEMPLATES, "here")


OLD = {
  "student_baseline": "A {question}",
  "student_diagnostic": "P {question}",
  "teacher_adaptive": "T {question} {approach} {{approach}} {{{approach}}}",
  "student_with_teaching": "G {question} {teaching}",
}


def test_a_file_of_an_older_version_is_read(tmp_path):
  path = tmp_path / "best_prompts.json"
  path.write_text(json.dumps({"prompts": OLD, "stage": "chosen"}))
  config = load_prompts(path)
  assert config == PromptsConfig(
    student_baseline="A {question}",
    student_probe="P {question}",
    teacher="T {question} {probe} {{approach}} {{{probe}}}",
    student_taught="G {question} {teaching}",
  )
  fields = {"question": "q", "probe": "{approach}"}
  text = Prompts(config).render("teacher", fields)
  assert text == "T q {approach} {approach} {{approach}}"


def test_an_old_name_beside_the_new_one_is_unknown():
  both = {**TEMPLATES, "teacher_adaptive": "T {question} {approach}"}
  with pytest.raises(
    PromptError, match=r"config key prompts\.teacher_adaptive"
  ):
    prompts_config(both, "here")
  # The field is old only where the name is.
  with pytest.raises(PromptError, match=r"\{probe\} is missing, \{approach\}"):
    prompts_config({**TEMPLATES, "teacher": OLD["teacher_adaptive"]}, "here")


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ("{", "not valid JSON"),
    ("[]", "expected an object"),
    ("{}", "the key 'prompts'"),
    ('{"prompts": "x"}', "the key 'prompts'"),
    ({"prompts": without("student_probe")}, "student_probe is miss"),
    (
      {"prompts": {**TEMPLATES, "coach": "x"}},
      "key prompts.coach; valid keys: stu",
    ),
    (
      {"prompts": {**TEMPLATES, "teacher": 3}},
      "teacher must",
    ),
    (
      {"prompts": {**TEMPLATES, "teacher": "{question}"}},
      r"teacher: \{probe\} is missing",
    ),
    ({"prompts": {**TEMPLATES, "student_baseline": "{question"}}, "baseline:"),
  ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path, content, words):
  path = tmp_path / "best_prompts.json"
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  with pytest.raises(PromptError, match=words) as info:
    load_prompts(path)
  assert str(info.value).startswith(str(path))
  assert "\n" not in str(info.value)


def test_no_file_is_an_error_too(tmp_path):
  with pytest.raises(PromptError, match=r"nowhere.json cannot be read"):
    load_prompts(tmp_path / "nowhere.json")
