"""Reads a finished run into the form that __init__.py describes."""

import datetime
import hashlib
import json
import pathlib
import random
from collections.abc import Mapping, Sequence

from atlas_jax import config_tree, files
from atlas_jax.errors import AtlasError
from atlas_jax.reports import reading
from atlas_jax.teaching import statistics
from atlas_jax.teaching.answers import Verdict
from atlas_jax.teaching.statistics import ArmResult

SAMPLED = 6
LARGEST = 1 << 20  # bytes of a file


def config_hash(config: Mapping) -> str:
  """The same wherever a run and its models lie."""
  kept = {
    key: value
    for key, value in config_tree.flat(config)
    if key != "template_date" and not key.endswith("path")
  }
  text = json.dumps(kept, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:32]


def _words(values: Sequence) -> str:
  return " ".join(map(str, values))


def _marks(values: Sequence[float | None]) -> str:
  if not {*values} <= {0.0, 1.0, None}:
    return _words(["-" if value is None else value for value in values])
  return "".join("-" if value is None else str(int(value)) for value in values)


def _distinct(texts: Sequence[str | None]) -> dict | None:
  found = list(dict.fromkeys(texts))
  if found == [None]:
    return None
  where = {text: i for i, text in enumerate(found)}
  return {"texts": found, "which": _words([where[text] for text in texts])}


def _arm(lines: Sequence[Mapping]) -> dict:
  def each(key: str) -> list:
    return [line[key] for line in lines]

  said = each("solution")
  done = [Verdict(s["status"], None, "").completed for s in said]
  return {
    "student": lines[0]["student"],
    "asked": any(text is not None for text in each("teacher_text")),
    "seconds": sum(each("seconds")) / len(lines),
    "correct": _marks([s["score"] for s in said]),
    "completed": _marks(done),
    "leaked": _marks(each("leaked")),
    "response_tokens": _words([s["tokens"] for s in said]),
    "teaching_tokens": _words(each("teaching_tokens")),
    "teachings": _distinct(each("teaching")),
    "kinds": _distinct(each("kind")),
  }


def collect(workdir: pathlib.Path, root: pathlib.Path | None = None) -> dict:
  """The run in `workdir`; `root` is called runs in its texts.

  Raises:
    AtlasError: no run, no evaluation, arms over different problems, or numbers
      that are not those of the run's own report.
  """
  run = reading.read(workdir)
  if run.last is None:
    raise AtlasError(f"{workdir} has no evaluation")
  arms = {title: run.arm(title)[1] for title in run.arms()}
  ids = [line["id"] for line in next(iter(arms.values()))]
  for title, lines in arms.items():
    if [line["id"] for line in lines] != ids:
      raise AtlasError(f"{workdir}: arm {title!r} has problems of its own")
  started = files.read_json(workdir / "started.json")
  report = workdir / "report" / f"{[*run.evaluations][-1]}.json"
  start = datetime.datetime.fromisoformat(started["Started"]).timestamp()
  kl = [v for x in run.metrics for k, v in x.items() if k.endswith("_grpo/kl")]
  last = list(arms.values())[-1]
  drawn = random.Random(0).sample(range(len(last)), min(SAMPLED, len(last)))
  found = {
    "seed": run.config["seed"],
    "command": started["Command"],
    "versions": f"{started['Versions']}, Python {started['Python']}",
    "config": config_hash(run.config),
    "split": run.last["split"],
    "resamples": run.config["evaluate"]["bootstrap_resamples"],
    "seconds": round(report.stat().st_mtime - start),
    "kl": kl[-1] if kl else None,
    "problems": _words(ids),
    "shown": [arm["name"] for arm in run.last["arms"]],
    "arms": {title: _arm(lines) for title, lines in arms.items()},
    "samples": [
      {
        "at": i,
        **{key: last[i][key] for key in ("question", "probe", "teaching")},
        "answer": last[i]["solution"]["text"],
        "right": last[i]["solution"]["score"],
      }
      for i in drawn
    ],
  }
  results = results_of(found)
  for arm in run.last["arms"]:
    mine = results[arm["name"].removeprefix("best ")]
    for key in ("accuracy", "gain", "non_degradation_correct"):
      if getattr(mine, key) != arm[key]:
        raise AtlasError(f"{workdir}: {key} of {arm['name']} is another one")
  if root is None:
    return found
  return json.loads(json.dumps(found).replace(str(root), "runs"))


def numbers(text: str) -> list[float | None]:
  """What _words and _marks wrote."""
  parts = text.split() if " " in text else [*text]
  return [None if part == "-" else float(part) for part in parts]


def texts(found: Mapping | None) -> list[str | None]:
  """The text of each attempt; none where the arm has none."""
  if found is None:
    return []
  return [found["texts"][int(i)] for i in found["which"].split()]


def attempts(run: Mapping, title: str, kind: str | None = None) -> list[dict]:
  """What counted of an arm's attempts; of one kind of problem, if given."""
  arm, ids = run["arms"][title], run["problems"].split()
  columns = [
    numbers(arm[key])
    for key in (
      *("correct", "completed", "response_tokens", "teaching_tokens", "leaked"),
    )
  ]
  kinds = texts(arm["kinds"]) or [None] * len(ids)
  found = [
    {
      "id": problem,
      "kind": of_kind,
      "teacher_text": "" if arm["asked"] else None,
      "teaching_tokens": int(teaching),
      "seconds": arm["seconds"],
      "leaked": bool(leaked),
      "solution": {
        "score": correct,
        "status": "correct" if completed else "no_answer",
        "tokens": int(response),
      },
    }
    for problem, of_kind, correct, completed, response, teaching, leaked in zip(
      ids, kinds, *columns, strict=True
    )
  ]
  return [one for one in found if kind in (None, one["kind"])]


def results_of(run: Mapping, kind: str | None = None) -> dict[str, ArmResult]:
  """Title of an arm -> its numbers, as an evaluation makes them."""
  found = {}
  for title, arm in run["arms"].items():
    alone = reading.titled(reading.ALONE, arm["student"])
    found[title] = statistics.arm_result(
      *(title, attempts(run, title, kind)),
      alone=None if title == alone else attempts(run, alone, kind),
      resamples=run["resamples"],
      seed=run["seed"],
    )
  return found
