"""The problems and examples that have room everywhere, before anything starts.

One that is too long would otherwise end a run when its turn comes, hours
later. Counted are the prompt in tokens, the longest probe or teaching that may
stand in it, and the longest response.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from atlas_jax.config import RunConfig
from atlas_jax.data.chat import ChatError, ChatTokenizer
from atlas_jax.data.problems import DataError, Problem, SftExample
from atlas_jax.errors import AtlasError
from atlas_jax.teaching.prompts import NO_PROBE, Prompts

log = logging.getLogger(__name__)

_SFT = "SFT examples"
T = TypeVar("T", Problem, SftExample)


class TooLong(AtlasError):
  """More is too long than the config allows; the text says for what."""


def fitting(
  problems: Sequence[Problem],
  *,
  split: str,
  prompts: Prompts,
  teacher: ChatTokenizer,
  student: ChatTokenizer,
  config: RunConfig,
) -> list[Problem]:
  """The problems of a split that fit, in their order.

  All must fit the servers that the run starts (max_model_len; what servers at
  a URL take is theirs to say), and those to train on, for the teacher, a row
  of config.grpo.row_length tokens.

  Raises:
    TooLong: more than config.data.max_too_long of them do not fit.
    DataError: one cannot be written as a prompt.
  """
  e, s = config.episode, config.serving
  teaching = e.max_teaching_tokens
  rooms = []
  if "grpo" in config.phases and split == "train":
    rooms.append((config.grpo.row_length, "grpo.row_length"))
  if s.teacher.url is None:
    rooms.append((s.teacher.max_model_len, "serving.teacher.max_model_len"))
  stages = []
  if rooms:
    shown = min(e.max_probe_tokens, e.shown_probe_tokens)
    longest = max(shown, len(teacher.encode(NO_PROBE))) + teaching
    fields = {"probe": ""}
    stages.append((teacher, "teacher", fields, longest, *min(rooms)))
  if "evaluate" in config.phases and split == config.evaluate.split:
    constants = config.evaluate.constant_teachings
    teaching = max([teaching, *(len(student.encode(c)) for c in constants)])
  if s.student.url is None:
    room = (s.student.max_model_len, "serving.student.max_model_len")
    longest = e.max_solution_tokens
    stages += [
      (student, "student_baseline", {}, longest, *room),
      (student, "student_probe", {}, e.max_probe_tokens, *room),
      (
        *(student, "student_taught", {"teaching": ""}),
        *(teaching + longest, *room),
      ),
    ]

  def excess(problem: Problem) -> str | None:
    for chat, template, fields, longest, room, key in stages:
      text = prompts.render(template, {"question": problem.question, **fields})
      kwargs = e.chat_template_kwargs.of(template)
      tokens = len(chat.prompt_ids(text, kwargs)) + longest
      if tokens > room:
        return (
          f"{tokens} tokens for {template} and its response, config.{key} is"
          f" {room}"
        )
    return None

  return _kept(problems, excess, f"{split} problems", config)


def fitting_examples(
  examples: Sequence[SftExample],
  *,
  prompts: Prompts,
  teacher: ChatTokenizer,
  config: RunConfig,
) -> list[SftExample]:
  """The examples that fit config.sft.row_length tokens; raises as fitting."""
  room, total = config.sft.row_length, 0

  def excess(example: SftExample) -> str | None:
    nonlocal total
    text = prompts.render(example.template, example.fields)
    kwargs = config.episode.chat_template_kwargs.of(example.template)
    ids, _ = teacher.training_example(text, example.response, kwargs)
    tokens = len(ids)
    total += tokens
    return (
      f"{tokens} tokens, config.sft.row_length is {room}"
      if tokens > room
      else None
    )

  kept = _kept(examples, excess, _SFT, config)
  if total < config.sft.batch_rows * room:
    log.warning(
      "the SFT examples have %d tokens, less than one step takes"
      " (config.sft.batch_rows * row_length = %d): it repeats them",
      total,
      config.sft.batch_rows * room,
    )
  return kept


def _kept(
  items: Sequence[T],
  excess: Callable[[T], str | None],
  what: str,
  config: RunConfig,
) -> list[T]:
  kept, too_long = [], []
  for item in items:
    text = (
      item.question if isinstance(item, Problem) else item.fields["question"]
    )
    where = item.where or repr(text[:60])
    try:
      problem = excess(item)
    except ChatError as error:
      raise DataError(f"{where}: {error}") from None
    if problem is None:
      kept.append(item)
    else:
      too_long.append(f"{where}: {problem}")
  if too_long:
    text = (
      f"{len(too_long)} of {len(items)} {what} are too long: "
      + "; ".join(too_long[:3])
      + ("; ..." if len(too_long) > 3 else "")
    )
    most = config.data.max_too_long
    if not kept or len(too_long) > most * len(items):
      raise TooLong(f"{text} (config.data.max_too_long={most:g} may be so)")
    log.warning("%s; left out", text)
  return kept
