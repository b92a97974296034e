"""What a report page embeds of a run: evaluations and training, as JSON."""

import collections
import json
from collections.abc import Callable, Iterable, Mapping

from atlas_jax.config import RewardConfig
from atlas_jax.reports import reading
from atlas_jax.reports.reading import RunFiles
from atlas_jax.teaching import rewards

# Which problems stand first when not all can be shown.
_FLIP_ORDER = ("broken", "fixed", "still wrong", "still right", None)


def _first(items: Iterable, most_bytes: int) -> list:
  """As many of the items as fit, and one at least."""
  kept, left = [], most_bytes
  for item in items:
    left -= len(json.dumps(item))
    if left < 0 and kept:
      break
    kept.append(item)
  return kept


def _counts(
  of_problem: Mapping[str, str], kinds: Mapping[str, str | None]
) -> dict:
  """How many problems flip in which way: all of them, and those of a kind.

  Both arguments are by the problem's id.
  """

  def count(flips: Iterable[str]) -> dict[str, int]:
    return dict.fromkeys(reading.FLIPS, 0) | collections.Counter(flips)

  present = sorted({kinds[key] for key in of_problem if kinds[key]})
  return {
    "counts": count(of_problem.values()),
    "kinds": [
      {"kind": kind}
      | count(flip for key, flip in of_problem.items() if kinds[key] == kind)
      for kind in present
    ],
  }


def _rewards(run: RunFiles) -> Callable[[Mapping], Mapping | None]:
  """Gives the parts of the reward that an attempt would have had in training.

  None without a teacher, or where something was not judged. An optimisation of
  prompts has weights of its own, and no such reward.
  """
  try:
    config = RewardConfig(**run.config["reward"])
    longest = run.config["episode"]["max_teaching_tokens"]
  except (KeyError, TypeError):  # none, or an older one
    return lambda line: None
  judged: dict[tuple, list[Mapping]] = {}
  for line in run.attempts:
    solution = line["solution"]
    if line["arm"] == run.alone[line["arm"]] and solution["score"] is not None:
      judged.setdefault((line["student"], line["id"]), []).append(solution)

  def parts(line: Mapping) -> Mapping[str, float] | None:
    alone = judged.get((line["student"], line["id"]))
    if line["status"] is None or not alone:
      return None
    found = rewards.reward(
      pass_rate=sum(x["score"] for x in alone) / len(alone),
      baseline_tokens=sum(x["tokens"] for x in alone) / len(alone),
      taught=line["solution"]["score"],
      taught_tokens=line["solution"]["tokens"],
      well_formed=line["status"] == "ok",
      leaked=line["leaked"],
      teaching_tokens=line["teaching_tokens"],
      max_teaching_tokens=longest,
      config=config,
    )
    return found.parts or None

  return parts


def evaluation(run: RunFiles, most_bytes: int) -> tuple[dict, str]:
  """What page.js reads of the evaluations, and a word on what is left out.

  Args:
    run: with at least one attempt.
    most_bytes: of the episodes; beyond it problems are left out, first those
      that teaching did not change.
  """
  arms = run.arms()
  # The arm of the student alone is number 0.
  arms.sort(key=lambda title: title != reading.ALONE)
  taught = [title for title in arms if title != run.alone[title]]
  by_arm = {title: reading.flips(run, title) for title in taught}
  parts_of = _rewards(run)
  first: dict[str, Mapping] = {}
  of_problem: dict[str, list[dict]] = {}
  for line in run.attempts:
    first.setdefault(line["id"], line)
    of_problem.setdefault(line["id"], []).append(
      {
        "arm": arms.index(line["arm"]),
        "flip": by_arm.get(line["arm"], {}).get(line["id"]),
        "reward": parts_of(line),
        **{key: line[key] for key in reading.ATTEMPT},
      }
    )
  last = by_arm.get(arms[-1], {})
  kept = _first(
    sorted(of_problem.items(), key=lambda x: _FLIP_ORDER.index(last.get(x[0]))),
    most_bytes,
  )
  shown = [key for key in first if key in dict(kept)]
  omitted = ""
  if len(shown) < len(first):
    omitted = (
      f"Episodes of {len(shown)} of {len(first)} problems are in this page,"
      " first those that teaching broke or fixed; tables above count all of"
      " them."
    )
  kinds = {key: line["kind"] for key, line in first.items()}
  attempts = [
    {"problem": i, **attempt}
    for i, key in enumerate(shown)
    for attempt in of_problem[key]
  ]
  # Arm by arm, as a reader goes through them.
  attempts.sort(key=lambda a: (-a["arm"], a["problem"], a["sample"]))
  wanted = ("id", "question", "answer", "kind")
  data = {
    "arms": arms,
    # Of each arm the one to hold it against: its own number where nobody
    # taught, none where that arm is not there.
    "alone": [
      {title: i for i, title in enumerate(arms)}.get(run.alone[title])
      for title in arms
    ],
    "flips": {
      arms.index(title): _counts(by_arm[title], kinds) for title in taught
    },
    "problems": [{k: first[key][k] for k in wanted} for key in shown],
    "attempts": attempts,
  }
  return data, omitted


def _training_episode(line: Mapping) -> dict:
  taught = [t["taught"]["score"] for t in line["teachings"]]
  judged = [score for score in taught if score is not None]
  return {
    "step": line["step"],
    "probe": line["probe"],
    "pass_rate": line["pass_rate"],
    "taught_rate": sum(judged) / len(judged) if judged else None,
    "baseline": line["baseline"][0]["text"] if line["baseline"] else None,
    "teachings": [
      {k: t[k] for k in reading.TRAINED} for t in line["teachings"]
    ],
  }


def training(
  lines: Callable[[], Iterable[Mapping]], most_bytes: int
) -> tuple[list[dict], str]:
  """The training problems that came most often, with all their steps.

  Args:
    lines: the episodes, each time that it is called: a file of a long run fits
      in no memory.
    most_bytes: of what is embedded.
  """
  times = collections.Counter(line["id"] for line in lines())
  # No episode is smaller: of these at least as many as fit.
  wanted = dict(times.most_common(1 + most_bytes // 500))
  problems: dict[str, dict] = {}
  for line in lines():
    if line["id"] in wanted:
      problem = problems.setdefault(
        line["id"],
        {key: line[key] for key in ("question", "answer")} | {"episodes": []},
      )
      problem["episodes"].append(_training_episode(line))
  often = sorted(problems.values(), key=lambda p: -len(p["episodes"]))
  kept = _first(often, most_bytes)
  note = (
    f"{len(kept)} of the {len(times)} problems that training sampled, those"
    " that came most often first."
  )
  return kept, note
