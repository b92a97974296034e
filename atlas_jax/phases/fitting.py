"""The training problems whose longest episode has room everywhere.

One question that is too long would otherwise end a run when its turn comes,
hours after the start.
"""

import logging
from collections.abc import Sequence

from atlas_jax.config import RunConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.problems import Problem
from atlas_jax.teaching.prompts import Prompts

log = logging.getLogger(__name__)


class NothingFits(ValueError):
  """No training problem is short enough; the text says for what."""


def fitting(
  problems: Sequence[Problem],
  *,
  prompts: Prompts,
  teacher: ChatTokenizer,
  student: ChatTokenizer,
  config: RunConfig,
) -> list[Problem]:
  """The problems that fit, in their order; how many do not is logged.

  Counted are the prompt in tokens, the longest probe or teaching that may
  stand in it, and the longest response. The teacher's must fit a row of
  config.grpo.row_length tokens, and all of them the servers that the run
  starts (max_model_len; what servers at a URL take is theirs to say).

  Raises:
    NothingFits: none does.
  """
  e, s = config.episode, config.serving
  teacher_room, teacher_key = config.grpo.row_length, "grpo.row_length"
  if s.teacher.url is None and s.teacher.max_model_len < teacher_room:
    teacher_room = s.teacher.max_model_len
    teacher_key = "serving.teacher.max_model_len"
  student_room = None if s.student.url is not None else s.student.max_model_len
  stages = [
    (
      *(teacher, "teacher_adaptive", {"approach": ""}),
      *(e.max_probe_tokens + e.max_teaching_tokens, teacher_room, teacher_key),
    )
  ]
  if student_room is not None:
    key = "serving.student.max_model_len"
    stages += [
      (student, template, fields, longest, student_room, key)
      for template, fields, longest in (
        ("student_baseline", {}, e.max_solution_tokens),
        ("student_diagnostic", {}, e.max_probe_tokens),
        (
          "student_with_teaching",
          {"teaching": ""},
          e.max_teaching_tokens + e.max_solution_tokens,
        ),
      )
    ]
  kept, too_long = [], []
  for problem in problems:
    for chat, template, fields, longest, room, key in stages:
      text = prompts.render(template, {"question": problem.question, **fields})
      tokens = len(chat.prompt_ids(text)) + longest
      if tokens > room:
        too_long.append((tokens, template, key, room))
        break
    else:
      kept.append(problem)
  if too_long:
    tokens, template, key, room = max(too_long)
    text = (
      f"{len(too_long)} of {len(problems)} training problems are too long and"
      f" left out; the longest needs {tokens} tokens for {template} and its"
      f" response, config.{key} is {room}"
    )
    if not kept:
      raise NothingFits(text)
    log.warning("%s", text)
  return kept
