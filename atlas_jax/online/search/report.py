"""What a finished run tells: tables, figures, a diff of the prompts, costs.

report/optimize.json, .md   the choice and its numbers
report/prompts.diff         seed against kept, as a unified diff
report/alone_versus_taught.png, report/score_vs_spend.png
report/index.html           the choice, the table, and every test episode
costs.json                  spend by role and model
"""

import dataclasses
import difflib
import pathlib
from collections.abc import Sequence

from atlas_jax import directory
from atlas_jax.config import PromptsConfig
from atlas_jax.online.search.choosing import Choice
from atlas_jax.online.search.journal import Candidate
from atlas_jax.reports import page, plots, reading, tables
from atlas_jax.teaching.prompts import FIELDS
from atlas_jax.teaching.statistics import Interval

FEW_PAIRS = 150


def prompt_diff(before: PromptsConfig, after: PromptsConfig) -> str:
  """A unified diff of the templates; empty where they are equal."""
  lines: list[str] = []
  for name in FIELDS:
    sides = [getattr(p, name).splitlines() for p in (before, after)]
    lines += difflib.unified_diff(
      *sides, f"seed/{name}", f"kept/{name}", lineterm=""
    )
  return "".join(line + "\n" for line in lines)


def facts(choice: Choice) -> dict:
  """The choice as plain JSON values."""

  def interval(value):
    return None if value is None else dataclasses.asdict(value)

  return {
    "kept": choice.kept.index,
    "best": choice.best.candidate.index,
    "reasons": list(choice.reasons),
    "proven": choice.proven,
    "harm": interval(choice.harm),
    "validation_score": choice.best.candidate.score,
    "fresh_score": choice.best.score,
    "winners_curse_gap": choice.best.gap,
    "test_score": choice.test_score,
    "fresh": [
      {
        "candidate": f.candidate.index,
        "validation_score": f.candidate.score,
        "fresh_score": f.score,
        "gain": f.gain,
        "gap": f.gap,
        "accuracy": f.accuracy,
        "non_degradation": f.non_degradation,
        "pairs": f.pairs,
        "judged": f.judged,
        "samples": f.samples,
      }
      for f in choice.fresh
    ],
    "pairs": choice.pairs,
    "score_gain": interval(choice.score_gain),
    "accuracy_gain": interval(choice.accuracy_gain),
    "mcnemar_p": choice.mcnemar_p,
    "evaluation": choice.evaluation,
  }


def harm_text(harm: Interval) -> str:
  """What is to be told where choice.harm is."""
  return (
    "Do not use the prompts that are kept: under them the student is worse"
    f" than alone, by {_points(harm)} points on the test split."
  )


def markdown(
  choice: Choice, ended: str, seed: PromptsConfig, costs: Sequence[dict]
) -> str:
  """The report for a person."""
  gain = choice.accuracy_gain
  parts = ["# Optimisation\n", f"The search ended: {ended}.\n"]
  if choice.reasons:
    parts.append("**The seed prompts are kept**: " + "; ".join(choice.reasons))
  else:
    parts.append(
      f"**The prompts of candidate {choice.kept.index} are kept.** Their gain"
      " over the seed is "
      + ("shown" if choice.proven else "not shown")
      + " on the test split (the 95% interval "
      + ("excludes" if choice.proven else "includes")
      + " 0)."
    )
  if choice.harm is not None:
    parts.append(f"\n\n**{harm_text(choice.harm)}**")
  if gain is not None:
    parts.append(
      f"\n\nAccuracy on the test split, candidate {choice.best.candidate.index}"
      f" less seed: {_points(gain)} points, McNemar p = {choice.mcnemar_p:.4g};"
      f" score: {choice.score_gain.estimate:+.4f}"
      f" [{choice.score_gain.low:.4f}, {choice.score_gain.high:.4f}]."
    )
  if choice.pairs < FEW_PAIRS:
    parts.append(
      f"\n\n**Few pairs**: {choice.pairs}. Below {FEW_PAIRS} a true gain of 9"
      " points is missed more often than once in four."
    )
  arms = choice.evaluation["arms"]
  parts += [
    "\n\n" + tables.markdown(choice.evaluation),
    f"\nCompared on the {arms[0]['problems']} problems that all were judged on."
    " Not judged: "
    + ", ".join(f"{arm['name']} {arm['unjudged']}" for arm in arms)
    + ".\n",
    *_fresh(choice),
    "\n## Prompts, seed to kept\n\n```diff\n",
    prompt_diff(seed, choice.kept.prompts) or "(no change)\n",
    "```\n\n## Costs\n\n",
    "| role | model | calls | tokens | dollars | lost calls |\n"
    "| --- | --- | ---: | ---: | ---: | ---: |\n",
    *(
      f"| {c['role']} | {c['model']} | {c['calls']:,} | {c['tokens']:,} |"
      f" {_dollars(c)} | {_lost(c)} |\n"
      for c in costs
    ),
  ]
  return "".join(parts)


def _dollars(cost: dict) -> str:
  if not cost["unpriced_calls"]:
    return f"{cost['dollars']:.4f}"
  known = f"{cost['dollars']:.4f} and " if cost["dollars"] else ""
  return known + "unpriced"


def _lost(cost: dict) -> str:
  dollars = cost["lost_dollars"]
  bound = f" (at most {dollars:.4f} dollars)" if dollars else ""
  return f"{cost['lost_calls']}{bound}"


def _fresh(choice: Choice) -> list[str]:
  """The part on how the best was chosen."""
  best = choice.best.candidate
  parts = []
  if choice.best.gap is None:
    parts += [
      "\n## Chosen on the scores of the search\n\n",
      "Without fresh samples the winner's curse is not measured.\n\n",
    ]
  else:
    parts += [
      "\n## Chosen on fresh samples\n\n",
      "The gap is the winner's curse: the score by which a candidate was picked"
      " less its score on fresh samples of the same problems.\n\n",
    ]
  parts += [
    "| candidate | validation | again | less seed | gap | accuracy |"
    " not made worse | judged |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    *(
      f"| {f.candidate.index} | {f.candidate.score:.4f} | {f.score:.4f} |"
      f" {f.gain:+.4f} | {'–' if f.gap is None else f'{f.gap:+.4f}'} |"
      f" {f.accuracy:.1%} | {f.non_degradation:.1%} |"
      f" {f.judged} of {f.samples} |\n"
      for f in choice.fresh
    ),
  ]
  if choice.test_score is not None:
    parts.append(
      f"\nValidation less test, candidate {best.index}: {best.score:.4f} -"
      f" {choice.test_score:.4f} = {best.score - choice.test_score:+.4f}.\n"
    )
  return parts


def _points(gain) -> str:
  low, mean, high = (100 * x for x in (gain.low, gain.estimate, gain.high))
  return f"{mean:+.1f} [{low:.1f}, {high:.1f}]"


def write(
  workdir: pathlib.Path,
  choice: Choice,
  candidates: Sequence[Candidate],
  ended: str,
  costs: Sequence[dict],
) -> None:
  """Writes all files of the report, optimize.json last."""
  folder, seed = workdir / "report", candidates[0].prompts
  directory.write_json(workdir / "costs.json", list(costs))
  directory.write_whole(
    folder / "prompts.diff", prompt_diff(seed, choice.kept.prompts)
  )
  directory.write_whole(
    folder / "optimize.md", markdown(choice, ended, seed, costs)
  )
  plots.alone_versus_taught(
    choice.evaluation, folder / "alone_versus_taught.png"
  )
  plots.score_against_spend(
    [(c.calls, c.dollars, c.score) for c in candidates],
    folder / "score_vs_spend.png",
  )
  directory.write_json(
    folder / "optimize.json", facts(choice) | {"ended": ended}
  )
  page.write(reading.read(workdir), folder / "index.html")
