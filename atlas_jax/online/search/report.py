"""What a finished run tells: tables, figures, a diff of the prompts, costs.

report/optimize.json, .md   the choice and its numbers
report/prompts.diff         seed against kept, as a unified diff
report/index.html           the choice, the table, and every test episode
costs.json                  spend by role and model
"""

import difflib
from collections.abc import Sequence
from dataclasses import asdict

from atlas_jax import directory
from atlas_jax.config import PromptsConfig
from atlas_jax.online.search.choosing import Choice
from atlas_jax.online.search.files import Candidate, Journal
from atlas_jax.reports import page, reading, tables
from atlas_jax.teaching.prompts import FIELDS

FEW_PAIRS = 150
_FRESH = (
  *("candidate", "validation", "again", "less seed", "gap", "accuracy"),
  *("not made worse", "compared"),
)
_COSTS = ("role", "model", "calls", "tokens", "dollars", "lost calls")


def prompt_diff(before: PromptsConfig, after: PromptsConfig) -> str:
  """A unified diff of the templates; empty where they are equal."""
  lines: list[str] = []
  for name in FIELDS:
    sides = [getattr(p, name).splitlines() for p in (before, after)]
    lines += difflib.unified_diff(
      *sides, f"seed/{name}", f"kept/{name}", lineterm=""
    )
  return "".join(line + "\n" for line in lines)


def markdown(
  choice: Choice,
  candidates: Sequence[Candidate],
  ended: str,
  costs: Sequence[dict],
) -> str:
  """The report for a person."""
  gain, test = choice.accuracy_gain, choice.test_score
  arms = choice.evaluation["arms"]
  best = next(f for f in choice.fresh if f.candidate == choice.best)
  seed, kept = candidates[0].prompts, candidates[choice.kept].prompts
  parts = [
    *("# Optimisation", f"The search ended: {ended}."),
    f"**{reading.decision(asdict(choice))}**",
  ]
  if gain is not None:
    score = choice.score_gain
    parts.append(
      f"Accuracy on the test split, candidate {choice.best} less seed:"
      f" {tables.points(gain)} points, McNemar p = {choice.mcnemar_p:.4g};"
      f" score: {score.estimate:+.4f} [{score.low:.4f}, {score.high:.4f}]."
    )
  if choice.pairs < FEW_PAIRS:
    parts.append(
      f"**Few pairs**: {choice.pairs}. Below {FEW_PAIRS} a true gain of 9"
      " points is missed more often than once in four."
    )
  unjudged = ", ".join(f"{arm['name']} {arm['unjudged']}" for arm in arms)
  parts += [
    tables.markdown(choice.evaluation),
    f"Compared on the {arms[0]['problems']} problems that all were judged on."
    f" Not judged: {unjudged}.",
  ]
  if best.gap is None:
    parts += [
      "## Chosen on the scores of the search",
      "Without fresh samples the winner's curse is not measured.",
    ]
  else:
    parts += [
      "## Chosen on fresh samples",
      "The gap is the winner's curse: the score by which a candidate was picked"
      " less its score on fresh samples of the same problems.",
    ]
  fresh = [
    [
      *(str(f.candidate), f"{f.validation_score:.4f}", f"{f.fresh_score:.4f}"),
      *(f"{f.gain:+.4f}", "–" if f.gap is None else f"{f.gap:+.4f}"),
      *(f"{f.accuracy:.1%}", f"{f.non_degradation:.1%}"),
      f"{f.pairs} of {f.samples}",
    ]
    for f in choice.fresh
  ]
  parts += [tables.grid([_FRESH, *fresh]), *choice.dropped]
  if test is not None:
    score = best.validation_score
    parts.append(
      f"Validation less test, candidate {choice.best}: {score:.4f} -"
      f" {test:.4f} = {score - test:+.4f}."
    )
  parts += [
    "## Prompts, seed to kept",
    f"```diff\n{prompt_diff(seed, kept) or '(no change)'}\n```",
    "## Costs",
    tables.grid([_COSTS, *map(_cost, costs)]),
  ]
  return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _cost(cost: dict) -> list[str]:
  dollars, lost = f"{cost['dollars']:.4f}", f"{cost['lost_calls']}"
  if cost["unpriced_calls"]:
    dollars = f"{dollars} and unpriced" if cost["dollars"] else "unpriced"
  if cost["lost_dollars"]:
    lost += f" (at most {cost['lost_dollars']:.4f} dollars)"
  counts = (f"{cost[key]:,}" for key in ("calls", "tokens"))
  return [cost["role"], cost["model"], *counts, dollars, lost]


def write(journal: Journal, choice: Choice, ended: str) -> None:
  """Writes the report and best_prompts.json; last optimize.json."""
  workdir, candidates = journal.workdir, journal.candidates
  folder, kept = workdir / "report", candidates[choice.kept]
  journal.stage = "chosen"
  journal.write_best(kept, choice=asdict(choice))
  journal.write_costs()
  directory.write_whole(
    folder / "prompts.diff", prompt_diff(candidates[0].prompts, kept.prompts)
  )
  text = markdown(choice, candidates, ended, journal.record.costs())
  directory.write_whole(folder / "optimize.md", text)
  directory.write_json(
    folder / "optimize.json", asdict(choice) | {"ended": ended}
  )
  page.write(reading.read(workdir), folder / "index.html")
