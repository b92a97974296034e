"""How a template is rewritten: one model reads examples and proposes a text.

A proposal is refused, and never evaluated, unless
  1. it stands between ``` fences in a reply that was not cut, and no other
     reading of the fences (CommonMark's) gives another template,
  2. its fields are exactly those of teaching.prompts.FIELDS,
  3. it is within `max_prompt_chars`,
  4. it differs from its parent, and the candidate that it makes was not tried.
The model is told why, and what was refused or scored worse before, and is
asked again, `attempts` times a round.

`max_failures` calls in a row without a reply, or proposals in a row that are
of no use, end the search: gepa itself would go on asking.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from atlas_jax.config import PromptsConfig
from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.calls import (
  BudgetSpent,
  ChatModel,
  ModelRefused,
  Reply,
  Request,
)
from atlas_jax.online.search import fences
from atlas_jax.online.search.config import ReflectionConfig
from atlas_jax.serving.events import EventLoop
from atlas_jax.teaching.prompts import (
  FIELDS,
  PromptError,
  Prompts,
  strip_thinking,
)
from atlas_jax.teaching.speakers import request_seed

_PURPOSE = {
  "student_probe": (
    "what the student reads first. It must outline its plan for the"
    " question in few words, without solving it, so that the teacher can see"
    " what it would do wrong"
  ),
  "teacher": (
    "what the teacher reads. It must write its guidance inside"
    " <teaching></teaching> tags, exactly once; only what stands between them"
    " reaches the student. It must never state the answer"
  ),
  "student_taught": (
    "what the student reads at last. It must solve the question with the"
    " teacher's guidance and state its answer inside <solution></solution>"
    " tags"
  ),
}
_ASK = """\
You improve one prompt template of a system in which a teacher model helps a \
frozen student model. For each question the student outlines its plan, \
the teacher reads question and plan and writes guidance, and the student \
solves the question with that guidance. The aim: the student is right more \
often than without help, never worse, and says no more than it needs.

The template is {name}: {purpose}.

The template now:
{current}

What happened with it on some questions:

{examples}
{refused}
Find out from the verdicts what the student does wrong and what kind of \
guidance it follows. Then write a better template. Rules:
- It must hold {fields}, written with single braces, and no other braces \
(write {{{{ and }}}} for a brace that is meant).
- At most {limit} characters.
- It must serve every question of this kind, not only these.
- Write the whole template between ``` fences, and nothing else in fences; \
between ```` fences if it holds ``` itself.
"""


# A record (feedback.py): its texts, and room for its verdict.
_TEXTS = 6


def prompt_chars(config: ReflectionConfig, minibatch: int) -> int:
  """Characters of a full prompt, with `minibatch` examples and all that is
  remembered."""
  shown = _TEXTS * minibatch + config.remembered
  words = len(_ASK) + max(len(text) for text in _PURPOSE.values())
  return words + config.max_prompt_chars + shown * config.max_example_chars


class Refusal(AtlasError):
  """A proposal cannot be used; the text says why, for the model to read."""


@dataclass
class Memory:
  """What was proposed before: refused texts with reasons, tried candidates."""

  refused: list[tuple[str, str, str]] = field(default_factory=list)
  tried: set[tuple] = field(default_factory=set)

  def refuse(self, template: str, text: str, reason: str) -> None:
    self.refused.append((template, text, reason))

  def of(self, template: str, last: int) -> list[tuple[str, str]]:
    """(text, reason) of the last refusals of a template, oldest first."""
    found = [
      (text, why) for name, text, why in self.refused if name == template
    ]
    return found[max(0, len(found) - last) :]


def read_proposal(
  reply: Reply, name: str, current: str, prompts: PromptsConfig, limit: int
) -> str:
  """The template that a reply proposes for `name`.

  Args:
    reply: of the reflection model.
    name, current: the template and its text now.
    prompts: the other templates.
    limit: of its length, in characters.

  Raises:
    Refusal: by one of the rules of the module.
  """
  if reply.status == "truncated":
    raise Refusal("the reply was cut at its length")
  text = strip_thinking(reply.text) or ""
  blocks, sure = fences.blocks(text, current.strip())
  if not blocks:
    raise Refusal("no text between ``` fences")
  if not sure:
    raise Refusal(
      "it is not clear which ``` ends the template: write one block alone,"
      " and between longer fences (````) if the template holds ``` itself"
    )
  good, why = [], None
  for proposed in blocks:
    try:
      _check(proposed, name, current, prompts, limit)
      good.append(proposed)
    except Refusal as refusal:
      why = refusal
  if len(good) > 1:
    raise Refusal(f"{len(good)} blocks between fences could be the template")
  if not good:
    raise why
  return good[0]


def _check(proposed: str, name, current, prompts, limit) -> None:
  if len(proposed) > limit:
    raise Refusal(f"{len(proposed)} characters; at most {limit} are allowed")
  if proposed == current.strip():
    raise Refusal("it is the template as it was")
  try:
    Prompts(dataclasses.replace(prompts, **{name: proposed}))
  except PromptError as error:
    raise Refusal(str(error)) from None


def _proposed(text: str) -> str:
  """What is shown of a refused reply: its template, or what it said aloud."""
  spoken = strip_thinking(text) or ""
  blocks, _ = fences.blocks(spoken, "")
  return (blocks[-1] if blocks else spoken).strip()


def render_examples(records: Sequence[Mapping[str, str]]) -> str:
  """Records as text, each part under its name."""
  return "\n\n".join(
    f"# Example {i + 1}\n"
    + "\n".join(f"## {key}\n{value}" for key, value in record.items())
    for i, record in enumerate(records)
  )


@dataclass
class Reflector:
  """gepa's reflection strategy.

  Args:
    model: of the reflection.
    config: its limits.
    prompts: the templates that the run started from.
    seed: of the run.
    loop: where the model's coroutines live.
    memory: shared with the acceptance.

  `stopped` says why the search must end; `failed` whether the model is to
  blame. calls are those that the ledger let through. total_cost is what gepa
  may ask for; the ledger keeps the budget.
  """

  model: ChatModel
  config: ReflectionConfig
  prompts: PromptsConfig
  seed: int
  loop: EventLoop
  memory: Memory
  stopped: str | None = None
  failed: bool = False
  total_cost: float = 0.0
  calls: int = 0
  most_calls: int | None = None  # of a search that ended before
  _lost: int = 0  # calls in a row without a reply
  _unusable: int = 0  # proposals in a row that were refused

  def reflect(self, candidate, reflective_dataset, components_to_update):
    """One job; see reflect_many."""
    job = (candidate, reflective_dataset, components_to_update)
    return self.reflect_many([job])[0]

  def reflect_many(self, jobs) -> list:
    """(proposal, self) for each job; no texts where nothing is usable.

    Never raises: gepa would swallow it and ask again.
    """
    from gepa.proposer.reflective_mutation.reflection_lm import (
      ReflectionProposal,
    )

    out = []
    for candidate, dataset, names in jobs:
      texts = {}
      for name in names:
        text = self._propose(dict(candidate) | texts, name, dataset[name])
        if text is not None:
          texts[name] = text
      out.append((ReflectionProposal(new_texts=texts), self))
    return out

  def prompt(self, name: str, current: str, records) -> str:
    """What the model is asked."""
    memory = self.memory.of(name, self.config.remembered)
    limit = self.config.max_example_chars
    refused = "".join(
      f"\n- {why}:\n{fences.fenced(text[:limit])}" for text, why in memory
    )
    return _ASK.format(
      name=name,
      purpose=_PURPOSE[name],
      current=fences.fenced(current),
      examples=render_examples(records),
      refused=f"\nProposed before, and of no use:{refused}\n" * bool(memory),
      fields=" and ".join("{" + f + "}" for f in FIELDS[name]),
      limit=self.config.max_prompt_chars,
    )

  def _propose(self, candidate, name: str, records) -> str | None:
    for _ in range(self.config.attempts):
      if self.stopped is not None:
        return None
      reply = self._ask(self.prompt(name, candidate[name], records))
      if reply is None:
        continue
      try:
        text = read_proposal(
          reply,
          name,
          candidate[name],
          self.prompts,
          self.config.max_prompt_chars,
        )
        key = tuple(sorted((candidate | {name: text}).items()))
        if key in self.memory.tried:
          raise Refusal("it was tried before")
      except Refusal as refusal:
        shown = _proposed(reply.text or "")
        self.memory.refuse(name, shown, f"refused: {refusal}")
        self._count_unusable(str(refusal))
        continue
      self.memory.tried.add(key)
      self._unusable = 0
      return text
    return None

  def _count_unusable(self, why: str) -> None:
    self._unusable += 1
    if self._unusable >= self.config.max_failures:
      self.stopped = (
        f"{self._unusable} proposals of the reflection model in a row were of"
        f" no use, the last: {why}"
      )

  def _ask(self, prompt: str) -> Reply | None:
    """A reply with text, or None; the latch counts."""
    if self.calls == self.most_calls:
      self.stopped = "the search ended here before"
      return None
    self.calls += 1
    request = Request(
      role="reflection",
      messages=({"role": "user", "content": prompt},),
      max_tokens=self.config.max_tokens,
      temperature=self.config.temperature,
      seed=request_seed(self.seed, "reflection", self.calls),
      replicate=self.calls,
    )
    try:
      reply = self.loop.run(self.model.chat(request))
    except (BudgetSpent, ModelRefused) as error:
      self.calls -= 1
      self.stopped = str(error)
      self.failed = isinstance(error, ModelRefused)
      return None
    self.total_cost += reply.dollars or 0.0
    if reply.status in ("ok", "truncated"):
      self._lost = 0
      return reply
    self._lost += 1
    if self._lost >= self.config.max_failures:
      self.failed = True
      self.stopped = (
        f"{self._lost} calls of the reflection model {self.model.name} in a"
        f" row failed, the last: {reply.status} {reply.error or ''}"
      )
    return None
