"""The problems and examples that have room everywhere, before anything starts.

One that is too long would otherwise end a run when its turn comes, hours
later. Counted are the prompt in tokens, the longest probe or teaching that may
stand in it, and the longest response.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from atlas_jax.config import RunConfig
from atlas_jax.data import packing
from atlas_jax.data.chat import ChatError, ChatTokenizer
from atlas_jax.data.problems import DataError, Problem, SftExample
from atlas_jax.errors import AtlasError
from atlas_jax.teaching.prompts import NO_PROBE, Prompts

log = logging.getLogger(__name__)

# (tokens, for what, room for them, its config key)
Need = tuple[int, str, int, str]
T = TypeVar("T")


class TooLong(AtlasError):
  """More is too long than the config allows; the text says for what."""


def fitting(
  problems: Sequence[Problem],
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
  if not s.teacher.elsewhere:
    rooms.append((s.teacher.max_model_len, "serving.teacher.max_model_len"))
  stages = []
  if rooms:
    shown = min(e.max_probe_tokens, e.shown_probe_tokens)
    longest = max(shown, len(teacher.encode(NO_PROBE))) + teaching
    fields = {"probe": ""}
    stages.append((teacher, [("teacher", fields, longest, *min(rooms))]))
  if "evaluate" in config.phases and split == config.evaluate.split:
    constants = config.evaluate.constant_teachings
    teaching = max([teaching, *(len(student.encode(c)) for c in constants)])
  if not s.student.elsewhere:
    room = (s.student.max_model_len, "serving.student.max_model_len")
    longest = e.max_solution_tokens
    asked = [
      ("student_baseline", {}, longest, *room),
      ("student_probe", {}, e.max_probe_tokens, *room),
      ("student_taught", {"teaching": ""}, teaching + longest, *room),
    ]
    stages.append((student, asked))

  def measure(problem: Problem):
    needs = []
    for chat, asked in stages:
      texts = [
        (
          prompts.render(template, {"question": problem.question, **fields}),
          e.chat_template_kwargs.of(template),
        )
        for template, fields, *_ in asked
      ]
      found = chat.all_prompt_ids(texts)
      for ids, (template, _, longest, room, key) in zip(
        found, asked, strict=True
      ):
        what = f" for {template} and its response"
        needs.append((len(ids) + longest, what, room, key))
    return problem, needs

  return _kept(problems, measure, f"{split} problems", config)


def fitting_sequences(
  examples: Sequence[SftExample],
  prompts: Prompts,
  teacher: ChatTokenizer,
  config: RunConfig,
) -> list[packing.TokenSequence]:
  """The examples that fit config.sft.row_length tokens; raises as fitting.

  In tokens: through the templates and the chat format.
  """
  room, total = config.sft.row_length, 0

  def measure(example: SftExample):
    nonlocal total
    text = prompts.render(example.template, example.fields)
    kwargs = config.episode.chat_template_kwargs.of(example.template)
    ids, mask = teacher.training_example(text, example.response, kwargs)
    total += len(ids)
    needs = [(len(ids), "", room, "sft.row_length")]
    return packing.TokenSequence(ids, mask), needs

  kept = _kept(examples, measure, "SFT examples", config)
  if total < config.sft.batch_rows * room:
    log.warning(
      "the SFT examples have %d tokens, less than one step takes"
      " (config.sft.batch_rows * row_length = %d): it repeats them",
      total,
      config.sft.batch_rows * room,
    )
  return kept


def _kept(
  items: Sequence[Problem | SftExample],
  measure: Callable[[Any], tuple[T, list[Need]]],
  what: str,
  config: RunConfig,
) -> list[T]:
  """What `measure` makes of the items that have room for all their needs."""
  kept, too_long = [], []
  for item in items:
    is_problem = isinstance(item, Problem)
    question = item.question if is_problem else item.fields["question"]
    where = item.where or repr(question[:60])
    try:
      value, needs = measure(item)
    except ChatError as error:
      raise DataError(f"{where}: {error}") from None
    too_much = [need for need in needs if need[0] > need[2]]
    if not too_much:
      kept.append(value)
      continue
    tokens, for_what, room, key = too_much[0]
    text = f"{tokens} tokens{for_what}, config.{key} is {room}"
    too_long.append(f"{where}: {text}")
  if too_long:
    more = "; ..." if len(too_long) > 3 else ""
    listed = "; ".join(too_long[:3]) + more
    text = f"{len(too_long)} of {len(items)} {what} are too long: {listed}"
    most = config.data.max_too_long
    if not kept or len(too_long) > most * len(items):
      raise TooLong(f"{text} (config.data.max_too_long={most:g} may be so)")
    log.warning("%s; left out", text)
  return kept
