"""The four templates, their file, and what stands in <teaching> tags.

The file of chosen prompts, best_prompts.json, is a JSON object. Its key
"prompts" holds the four templates by name, all of them and nothing else; other
keys (its candidate, score and spend) are information for a person. Names and
the field of an older version are read as those of today (`_OLD_NAMES`).
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from atlas_jax import files
from atlas_jax.config_tree import ConfigError, build
from atlas_jax.episode_config import TeachConfig
from atlas_jax.errors import AtlasError

# template -> the fields that it must hold, each at least once; student_probe
# may also hold {tokens}, the length that a probe may have, and no other may.
FIELDS = {
  "student_baseline": ("question",),
  "student_probe": ("question",),
  "teacher": ("question", "probe"),
  "student_taught": ("question", "teaching"),
}
_LENGTH = ("student_probe", "tokens")
_OLD_NAMES = {
  "student_diagnostic": "student_probe",
  "teacher_adaptive": "teacher",
  "student_with_teaching": "student_taught",
}
# What fills {probe} where the student stated nothing.
NO_PROBE = "(no plan stated)"
STATUSES = ("ok", "missing", "empty", "repeated", "unclosed")


class PromptError(AtlasError):
  """A template or the fields given to it are wrong; the text names both."""


@dataclass(frozen=True)
class PromptsConfig:
  """The four templates. Each must hold exactly the fields named here."""

  # {question}
  student_baseline: str = (
    "{question}\n\nSolve the problem step by step. Give your final answer"
    " inside <solution></solution> tags."
  )
  # {question}, and {tokens} if you like: how long the plan may be
  student_probe: str = (
    "{question}\n\nBefore you solve it, outline in at most {tokens} tokens how"
    " you would approach this problem. Do not solve it yet."
  )
  # {question} {probe}
  teacher: str = (
    "A student was given this problem:\n{question}\n\nThe student's planned"
    " approach:\n{probe}\n\nDecide how much help this student needs. Then"
    " write the guidance for the student inside <teaching></teaching> tags:"
    " as little as possible for a sound approach, concrete steps for a weak"
    " one. Never state the final answer."
  )
  # {question} {teaching}
  student_taught: str = (
    "{question}\n\nA teacher gives you this guidance:\n{teaching}\n\nSolve"
    " the problem step by step. Give your final answer inside"
    " <solution></solution> tags."
  )

  def conflicts(self) -> Iterator[str]:
    try:
      Prompts(self)
    except PromptError as error:
      yield str(error).removeprefix("template ")


def fingerprint(config: PromptsConfig) -> str:
  """Names a set of templates."""
  text = json.dumps(dataclasses.astuple(config))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


class Prompts:
  """The templates of a run, parsed and checked once.

  Args:
    config: their texts.
    probe_tokens: what stands for {tokens} in that of the probe.

  Attributes:
    fingerprint: of the texts.

  Raises:
    PromptError: a template misses a field, holds an unknown one, or its
      braces do not match ('{{' and '}}' write braces).
  """

  def __init__(
    self,
    config: PromptsConfig,
    probe_tokens: int = TeachConfig.shown_probe_tokens,
  ):
    self.fingerprint = fingerprint(config)
    self._parts = {
      name: _parse(name, getattr(config, name), fields)
      for name, fields in FIELDS.items()
    }
    template, field = _LENGTH
    self._parts[template] = [
      (literal + str(probe_tokens), None) if name == field else (literal, name)
      for literal, name in self._parts[template]
    ]

  def render(self, template: str, fields: Mapping[str, str]) -> str:
    """The template with its fields filled in.

    Values are put in as they are: braces inside them mean nothing.

    Raises:
      PromptError: an unknown template, or fields that are not exactly its.
    """
    if template not in FIELDS:
      raise PromptError(
        f"unknown template {template!r}; valid: {', '.join(FIELDS)}"
      )
    _check(template, fields, FIELDS[template])
    return "".join(
      literal if name is None else literal + fields[name]
      for literal, name in self._parts[template]
    )


def _check(template: str, found, valid) -> None:
  missing = [name for name in valid if name not in found]
  unknown = [name for name in found if name not in valid]
  if missing or unknown:
    wrong = [f"{{{n}}} is missing" for n in missing]
    wrong += [f"{{{n}}} is unknown" for n in unknown]
    raise PromptError(
      f"template {template}: {', '.join(wrong)}; valid fields:"
      f" {', '.join('{' + n + '}' for n in valid)}"
    )


def _parse(name: str, text: str, fields) -> list[tuple[str, str | None]]:
  try:
    parts = list(string.Formatter().parse(text))
  except ValueError as error:
    raise PromptError(
      f"template {name}: {error}; write {{{{ and }}}} for braces that are"
      f" no field; valid fields: {', '.join(fields)}"
    ) from None
  for _, field, spec, conversion in parts:
    if field is not None and (spec or conversion):
      raise PromptError(
        f"template {name}: write {{{field}}} without a format or conversion"
      )
  found = {f for _, f, _, _ in parts if f is not None}
  _check(name, found - ({_LENGTH[1]} if name == _LENGTH[0] else set()), fields)
  return [(literal, field) for literal, field, _, _ in parts]


def prompts_config(templates: Mapping, where: str) -> PromptsConfig:
  """The templates as a config, checked.

  Args:
    templates: name -> text, all four.
    where: what holds them, for the error.

  Raises:
    PromptError: a template is missing, unknown, no text, or has wrong fields.
  """
  texts = {
    name if (new := _OLD_NAMES.get(name, name)) in templates else new: text
    for name, text in templates.items()
  }
  if "teacher_adaptive" in templates:
    texts["teacher"] = re.sub(  # {{ and }} are no part of a field
      r"\{\{|\}\}|\{approach\}",
      lambda m: "{probe}" if m[0] == "{approach}" else m[0],
      str(texts["teacher"]),
    )
  try:
    if missing := [f"prompts.{n} is missing" for n in FIELDS if n not in texts]:
      raise ConfigError(f"{'; '.join(missing)}; valid: {', '.join(FIELDS)}")
    return build(PromptsConfig, texts, "prompts")
  except ConfigError as error:
    raise PromptError(f"{where}: {error}") from None


def load_prompts(path: str | pathlib.Path) -> PromptsConfig:
  """The templates of a best_prompts.json.

  Raises:
    PromptError: no such file, not of the format; the text names file and key.
  """
  content = files.read_json(path, PromptError)
  if not isinstance(content.get("prompts"), dict):
    raise PromptError(
      f"{path}: the key 'prompts' must hold the templates {', '.join(FIELDS)}"
    )
  return prompts_config(content["prompts"], str(path))


def strip_thinking(text: str) -> str | None:
  """What follows the private thinking; None if the thinking never ends.

  Everything up to the last </think> is thinking, also where the prompt and
  not the text opened it.
  """
  rest = text.rpartition("</think>")[2]
  return None if "<think>" in rest else rest


def extract_teaching(text: str) -> tuple[str | None, str]:
  """(teaching, status) of what a teacher wrote.

  Exactly one closed <teaching> block that is not empty is 'ok'; anything else
  has no teaching, and the status says why. Words outside the tags are private
  and are never returned.

  Policy for a status other than 'ok': the student gets an empty teaching (so
  it is taught nothing), and the reward takes the format penalty.
  """
  text = strip_thinking(text)
  if text is None or "<teaching>" not in text:
    return None, "missing"
  before, _, rest = text.partition("<teaching>")
  if "<teaching>" in rest or rest.count("</teaching>") > 1:
    return None, "repeated"
  if "</teaching>" in before or "</teaching>" not in rest:
    return None, "unclosed"
  teaching = rest.partition("</teaching>")[0].strip()
  return (teaching, "ok") if teaching else (None, "empty")
