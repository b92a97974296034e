"""The file of chosen prompts, best_prompts.json.

A JSON object. Its key "prompts" holds the four templates by name
(student_baseline, student_diagnostic, teacher_adaptive,
student_with_teaching), all of them and nothing else; other keys (its
candidate, score and spend) are information for a person.
"""

import pathlib
from collections.abc import Mapping

from atlas_jax import files
from atlas_jax.config import PromptsConfig
from atlas_jax.teaching.prompts import FIELDS, PromptError, Prompts


def prompts_config(templates: Mapping[str, str], where: str) -> PromptsConfig:
  """The templates as a config, checked.

  Args:
    templates: name -> text, all four.
    where: what holds them, for the error.

  Raises:
    PromptError: a template is missing, unknown, no text, or has wrong fields.
  """
  missing = [name for name in FIELDS if name not in templates]
  unknown = [name for name in templates if name not in FIELDS]
  if missing or unknown:
    wrong = [f"template {n} is missing" for n in missing]
    wrong += [f"template {n} is unknown" for n in unknown]
    raise PromptError(
      f"{where}: {', '.join(wrong)}; valid: {', '.join(FIELDS)}"
    )
  for name, text in templates.items():
    if not isinstance(text, str):
      raise PromptError(
        f"{where}: template {name} must be a text, got {type(text).__name__}"
      )
  config = PromptsConfig(**templates)
  try:
    Prompts(config)
  except PromptError as error:
    raise PromptError(f"{where}: {error}") from None
  return config


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
