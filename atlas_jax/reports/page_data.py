"""What a report page embeds of a run: evaluations and training, as JSON."""

import collections
import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from atlas_jax.config import RewardConfig
from atlas_jax.reports import reading
from atlas_jax.reports.reading import RunFiles
from atlas_jax.teaching import rewards

# Of a problem's arms the most telling first, when not all can be shown.
_TELLING = ("broken", "fixed", "still wrong", "still right")


def _flips_of_arm(
  of_problem: Mapping[str, str],
  alone: Mapping[str, float],
  taught: Mapping[str, float],
  kinds: Mapping[str, str],
) -> dict:
  """Counts of FLIPS, over all problems and by kind.

  All are by the problem's id: its flip, its two rates, its kind.
  """

  def counts(ids: Sequence[str]) -> dict[str, int]:
    found = [of_problem[key] for key in ids]
    return {flip: found.count(flip) for flip in reading.FLIPS}

  def row(kind: str) -> dict:
    ids = [key for key in of_problem if kinds.get(key) == kind]
    return {
      "kind": kind,
      "problems": len(ids),
      "alone": sum(alone[key] for key in ids) / len(ids),
      "taught": sum(taught[key] for key in ids) / len(ids),
      **counts(ids),
    }

  present = sorted({kinds[key] for key in of_problem if kinds.get(key)})
  return {
    "counts": counts(list(of_problem)),
    "kinds": [row(kind) for kind in present],
  }


class _Rewards:
  """The reward that an attempt of an evaluation would have had in training.

  An optimisation of prompts has weights of its own, and no such reward.
  """

  def __init__(self, run: RunFiles):
    self._config = None
    with contextlib.suppress(KeyError, TypeError):  # none, or an older one
      self._config = RewardConfig(**run.config["reward"])
    self._longest = run.config["episode"]["max_teaching_tokens"]
    self._alone: dict[str, list[Mapping]] = {}
    for line in run.attempts:
      if line["arm"] == reading.ALONE:
        self._alone.setdefault(line["id"], []).append(line["solution"])

  def parts(self, line: Mapping) -> Mapping[str, float] | None:
    """None without a teacher, or where something was not judged."""
    judged = [
      x for x in self._alone.get(line["id"], []) if x["score"] is not None
    ]
    if self._config is None or line["status"] is None or not judged:
      return None
    found = rewards.reward(
      pass_rate=sum(x["score"] for x in judged) / len(judged),
      baseline_tokens=sum(x["tokens"] for x in judged) / len(judged),
      taught=line["solution"]["score"],
      taught_tokens=line["solution"]["tokens"],
      well_formed=line["status"] == "ok",
      leaked=line["leaked"],
      teaching_tokens=line["teaching_tokens"],
      max_teaching_tokens=self._longest,
      config=self._config,
    )
    return found.parts or None


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
  first = {line["id"]: line for line in reversed(run.attempts)}
  ids = list(dict.fromkeys(line["id"] for line in run.attempts))
  kinds = {key: first[key]["kind"] for key in ids}
  rates = {
    title: reading.rates(x for x in run.attempts if x["arm"] == title)
    for title in arms
  }
  alone = rates.get(reading.ALONE, {})
  by_arm = {title: reading.flips_of(alone, rates[title]) for title in arms[1:]}
  flips = {
    str(i): _flips_of_arm(by_arm[title], alone, rates[title], kinds)
    for i, title in enumerate(arms)
    if i
  }
  parts_of = _Rewards(run)
  of_problem: dict[str, list[dict]] = {key: [] for key in ids}
  for line in sorted(run.attempts, key=lambda x: arms.index(x["arm"])):
    solution = line["solution"]
    of_problem[line["id"]].append(
      {
        "arm": arms.index(line["arm"]),
        "sample": line["sample"],
        "flip": by_arm.get(line["arm"], {}).get(line["id"]),
        "probe": line["probe"],
        "teacher_text": line["teacher_text"],
        "teaching": line["teaching"],
        "status": line["status"],
        "tokens": line["teaching_tokens"],
        "leaked": line["leaked"],
        "reward": parts_of.parts(line),
        "version": line["weight_version"],
        "text": solution["text"],
        "answer": solution["answer"],
        "score": solution["score"],
        "rule": solution["rule"],
        "finish": solution["finish_reason"],
        "seconds": line["seconds"],
      }
    )

  def telling(key: str) -> int:
    last = by_arm[arms[-1]].get(key) if len(arms) > 1 else None
    return _TELLING.index(last) if last else len(_TELLING)

  kept, left = [], most_bytes
  for key in sorted(ids, key=telling):
    left -= len(json.dumps([of_problem[key], first[key]["question"]]))
    if left < 0 and kept:
      break
    kept.append(key)
  shown = [key for key in ids if key in set(kept)]
  omitted = ""
  if len(shown) < len(ids):
    omitted = (
      f"Episodes of {len(shown)} of {len(ids)} problems are in this page, first"
      " those that teaching broke or fixed; tables above count all of them."
    )
  data = {
    "arms": arms,
    "flips": flips,
    "problems": [
      {
        "id": key,
        "question": first[key]["question"],
        "answer": first[key]["answer"],
        "kind": kinds[key],
      }
      for key in shown
    ],
    "attempts": [
      {"problem": i, **attempt}
      for i, key in enumerate(shown)
      for attempt in of_problem[key]
    ],
  }
  # Arm by arm, as a reader goes through them.
  data["attempts"].sort(key=lambda a: (-a["arm"], a["problem"], a["sample"]))
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
      {
        "text": t["text"],
        "status": t["status"],
        "leaked": t["leaked"],
        "reward": t["reward"],
        "parts": t["reward_parts"],
        "version": t["weight_version"],
        "score": t["taught"]["score"],
        "taught": t["taught"]["text"],
      }
      for t in line["teachings"]
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
  kept, left = [], most_bytes
  for problem in sorted(problems.values(), key=lambda p: -len(p["episodes"])):
    left -= len(json.dumps(problem))
    if left < 0 and kept:
      break
    kept.append(problem)
  note = (
    f"{len(kept)} of the {len(times)} problems that training sampled, those"
    " that came most often first."
  )
  return kept, note
