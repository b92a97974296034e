"""Templates and tags."""

import pytest

from atlas_jax.config import PromptsConfig
from atlas_jax.episode_config import TeachConfig
from atlas_jax.teaching.prompts import (
  FIELDS,
  PromptError,
  Prompts,
  extract_teaching,
  prompts_config,
  strip_thinking,
)


def test_braces_inside_values_mean_nothing():
  prompts = Prompts(
    PromptsConfig(student_taught="Q {question} T {teaching} {{x}}")
  )
  text = prompts.render(
    "student_taught",
    {"question": "f{teaching} {x} {0} {{", "teaching": "{question}"},
  )
  assert text == "Q f{teaching} {x} {0} {{ T {question} {x}"


@pytest.mark.parametrize(
  ("template", "text"),
  [
    ("{question} in {tokens} tokens", "Q in 7 tokens"),
    ("{question} in a few", "Q in a few"),
  ],
)
def test_the_prompt_of_a_probe_may_state_its_length(template, text):
  prompts = Prompts(PromptsConfig(student_probe=template), 7)
  assert prompts.render("student_probe", {"question": "Q"}) == text


def test_no_other_template_states_a_length():
  with pytest.raises(PromptError, match=r"\{tokens\} is unknown"):
    Prompts(PromptsConfig(teacher="{question} {probe} {tokens}"))


def test_the_default_prompt_states_the_length_that_is_shown():
  config = TeachConfig(max_probe_tokens=1024, shown_probe_tokens=50)
  assert config.stated_probe_tokens == 50
  prompts = Prompts(PromptsConfig(), TeachConfig(10).stated_probe_tokens)
  text = prompts.render("student_probe", {"question": "Q"})
  assert "at most 10 tokens" in text


@pytest.mark.parametrize("name", list(FIELDS))
def test_a_template_without_its_field_names_it(name):
  with pytest.raises(PromptError, match=rf"{name}.*\{{question\}} is missing"):
    Prompts(PromptsConfig(**{name: "nothing here"}))


@pytest.mark.parametrize(
  ("template", "message"),
  [
    ("{question} {answer}", r"\{answer\} is unknown; valid fields"),
    ("{question} {", "student_baseline"),
    ("{question} {}", "is unknown"),
    ("{question!r}", "without a format"),
    ("{question:>9}", "without a format"),
  ],
)
def test_a_wrong_template_is_refused(template, message):
  with pytest.raises(PromptError, match=message):
    Prompts(PromptsConfig(student_baseline=template))


def test_wrong_fields_and_names_at_rendering():
  prompts = Prompts(PromptsConfig())
  with pytest.raises(PromptError, match=r"\{probe\} is missing"):
    prompts.render("teacher", {"question": "q"})
  with pytest.raises(PromptError, match=r"\{teaching\} is unknown"):
    prompts.render("student_baseline", {"question": "q", "teaching": "t"})
  with pytest.raises(PromptError, match="valid: student_baseline"):
    prompts.render("student_base", {"question": "q"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("he forgets. <teaching> carry the one </teaching> bye",
         ("carry the one", "ok")),
        ("carry the one", (None, "missing")),
        ("carry the one</teaching>", (None, "missing")),
        ("<teaching> \n</teaching>", (None, "empty")),
        ("<teaching>a</teaching><teaching>b</teaching>", (None, "repeated")),
        ("<teaching>a</teaching></teaching>", (None, "repeated")),
        ("<teaching>a <teaching>b</teaching>", (None, "repeated")),
        ("<teaching>carry the", (None, "unclosed")),
        ("</teaching> x <teaching>", (None, "unclosed")),
        ("<think>a <teaching></think><teaching>a</teaching>", ("a", "ok")),
        ("I think</think><teaching>a</teaching>", ("a", "ok")),
        ("<think>for ever <teaching>a</teaching>", (None, "missing")),
    ],
)  # fmt: skip
def test_what_is_a_teaching(text, expected):
  assert extract_teaching(text) == expected


def test_thinking_is_stripped():
  assert strip_thinking("plain") == "plain"
  assert strip_thinking("<think>a</think>b") == "b"
  assert strip_thinking("<think>a</think>b<think>c") is None


def test_all_templates_that_are_missing_are_named_with_the_valid_ones():
  texts = {"student_baseline": "{question}", "teacher": "{question} {probe}"}
  with pytest.raises(PromptError) as error:
    prompts_config(texts, "x.json")
  assert str(error.value) == (
    "x.json: prompts.student_probe is missing; prompts.student_taught is"
    " missing; valid: student_baseline, student_probe, teacher, student_taught"
  )
