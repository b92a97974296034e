"""How a template is rewritten: one model reads examples and proposes a text.

The model is asked `attempts` times a round. A proposal that proposals.py
refuses, or whose candidate was tried before, is shown to it with the reason the
next time, beside what scored worse than its parent.

`max_failures` proposals in a row that are of no use end the search. A call
without a reply is history, and never made again; but `max_failures` of them in
a row stop the run, and the same command makes these again.
"""

from collections.abc import Mapping, Sequence

from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.calls import ModelRefused, Request
from atlas_jax.online.search import proposals
from atlas_jax.online.search.config import OnlineConfig, ReflectionConfig
from atlas_jax.online.search.files import Journal, SearchOver, key_of
from atlas_jax.online.search.models import Models
from atlas_jax.teaching.prompts import FIELDS
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
_GO_ON = ". Nothing is lost: the same command goes on from here"
# Texts of one example, and room for its verdict.
_TEXTS = 6


def prompt_chars(config: ReflectionConfig, minibatch: int) -> int:
  """Characters of a full prompt, with `minibatch` examples and all that is
  remembered."""
  shown = _TEXTS * minibatch + config.remembered
  words = len(_ASK) + max(len(text) for text in _PURPOSE.values())
  return words + config.max_prompt_chars + shown * config.max_example_chars


class SearchFailed(AtlasError):
  """The reflection model does not work; the text says how to go on."""


class Reflector:
  """Asks the reflection model, and remembers what was of no use."""

  def __init__(self, models: Models, config: OnlineConfig, journal: Journal):
    self._models, self._journal = models, journal
    self._config, self._prompts = config.reflection, config.prompts
    self._seed = config.seed
    # (template, text, why) of what was refused, or scored worse.
    self.refused: list[tuple[str, str, str]] = []
    # Candidates that were tried; the parents' are among them.
    texts = {x: getattr(config.prompts, x) for x in config.search.evolve}
    self._tried = {frozenset(texts.items())}
    self._calls = 0
    self._lost: list[str] = []  # keys of calls without a reply, in a row
    self._unusable = 0  # proposals in a row that were refused

  def propose(
    self,
    candidate: Mapping[str, str],
    name: str,
    examples: Sequence[Mapping[str, str]],
  ) -> str | None:
    """A new text for the template `name` of a candidate, if any is of use.

    Raises:
      SearchOver: nothing more can be expected of the model.
      SearchFailed: it failed.
      BudgetSpent: the ledger has no room for it.
    """
    for _ in range(self._config.attempts):
      said = self._ask(self.prompt(name, candidate[name], examples))
      if said is None:
        continue
      status, text = said
      try:
        if status == "truncated":
          raise proposals.Refusal("the reply was cut at its length")
        proposed = proposals.read(
          text,
          name,
          candidate[name],
          self._prompts,
          self._config.max_prompt_chars,
        )
        key = frozenset({**candidate, name: proposed}.items())
        if key in self._tried:
          raise proposals.Refusal("it was tried before")
      except proposals.Refusal as refusal:
        shown = proposals.shown(text)
        self.refused.append((name, shown, f"refused: {refusal}"))
        self._unusable += 1
        if self._unusable >= self._config.max_failures:
          raise SearchOver(
            f"{self._unusable} proposals of the reflection model in a row were"
            f" of no use, the last: {refusal}"
          ) from None
        continue
      self._tried.add(key)
      self._unusable = 0
      return proposed
    return None

  def prompt(self, name: str, current: str, records) -> str:
    """What the model is asked."""
    limit, last = self._config.max_example_chars, self._config.remembered
    found = [(text, why) for x, text, why in self.refused if x == name]
    refused = "".join(
      f"\n- {why}:\n{proposals.fenced(text[:limit])}"
      for text, why in found[max(0, len(found) - last) :]
    )
    return _ASK.format(
      name=name,
      purpose=_PURPOSE[name],
      current=proposals.fenced(current),
      examples="\n\n".join(
        f"# Example {i}\n"
        + "\n".join(f"## {key}\n{value}" for key, value in record.items())
        for i, record in enumerate(records, 1)
      ),
      refused=refused and f"\nProposed before, and of no use:{refused}\n",
      fields=" and ".join("{" + f + "}" for f in FIELDS[name]),
      limit=self._config.max_prompt_chars,
    )

  def _ask(self, prompt: str) -> tuple[str, str] | None:
    """(status, text) of one call, or None where there was no reply."""
    self._calls += 1
    record = self._journal.record
    key = key_of("reflection", self._calls, prompt)
    said = self._journal.read(key)
    if said is None:
      said = self._call(prompt)
      record.commit(key, said)
    status, text, error = said
    if status in ("ok", "truncated"):
      self._lost.clear()
      return status, text
    self._lost.append(key)
    if len(self._lost) < self._config.max_failures:
      return None
    for lost in self._lost:
      record.commit(lost, None)
    raise SearchFailed(
      f"{len(self._lost)} calls of the reflection model"
      f" {self._models.reflection.name} in a row failed, the last: {status}"
      f" {error or ''}{_GO_ON}"
    )

  def _call(self, prompt: str) -> tuple[str, str | None, str | None]:
    request = Request(
      role="reflection",
      prompt=prompt,
      max_tokens=self._config.max_tokens,
      temperature=self._config.temperature,
      seed=request_seed(self._seed, "reflection", self._calls),
      replicate=self._calls,
    )
    try:
      reply = self._models.loop.run(self._models.reflection.ask(request))
    except ModelRefused as error:
      raise SearchFailed(f"{error}{_GO_ON}") from None
    return reply.status, reply.text, reply.error
