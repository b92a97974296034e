"""A run directory as an evaluation and a GRPO phase leave it."""

import dataclasses
import json

from atlas_jax.config import RunConfig
from atlas_jax.teaching import transcripts
from atlas_jax.teaching.statistics import ArmResult

ALONE, AFTER = "student alone", "teacher after grpo"
# (alone, taught) of problems 0 to 3: one of each flip.
SCORES = ((0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0))


def attempt(arm, problem, score, sample=0, **known):
  """One line of an evaluation's episodes."""
  taught = not arm.endswith(ALONE)
  line = {
    "schema": transcripts.SCHEMA,
    "arm": arm,
    "student": None,
    "id": f"p{problem}",
    "sample": sample,
    "question": f"question {problem}",
    "answer": str(problem),
    "kind": "even" if problem % 2 == 0 else "odd",
    "probe": "a plan" if taught else None,
    "teacher_text": "I think. <teaching>carry</teaching>" if taught else None,
    "teaching": "carry" if taught else None,
    "teaching_tokens": 2 if taught else 0,
    "status": "ok" if taught else None,
    "leaked": False,
    "weight_version": 7 if taught else None,
    "solution": {
      "text": f"so it is {problem}",
      "tokens": 4,
      "finish_reason": "stop",
      "status": "correct" if score else "wrong",
      "score": score,
      "answer": str(problem),
      "rule": "tag",
    },
    "seconds": 0.5,
  }
  return line | known


def attempts(scores=SCORES, **known):
  """Both arms; `known` goes into the taught ones."""
  return [
    *(attempt(ALONE, i, alone) for i, (alone, _) in enumerate(scores)),
    *(
      attempt(AFTER, i, taught, **known) for i, (_, taught) in enumerate(scores)
    ),
  ]


def evaluation(lines):
  """report/1_evaluate.json, with accuracies of the lines."""
  arms = []
  for title in dict.fromkeys(line["arm"] for line in lines):
    solutions = [x["solution"] for x in lines if x["arm"] == title]
    scores = [float(s["status"] == "correct") for s in solutions]
    mean = sum(scores) / len(scores)
    arm = dict.fromkeys(f.name for f in dataclasses.fields(ArmResult)) | {
      "name": title,
      "accuracy": mean,
      "accuracy_low": mean - 0.1,
      "accuracy_high": mean + 0.1,
      "response_tokens": 4.0,
      "teaching_tokens": 2.0,
      "seconds_per_problem": 0.5,
    }
    if arms:
      gain = mean - arms[0]["accuracy"]
      arm |= {"gain": gain, "gain_low": gain - 0.1, "gain_high": gain + 0.1}
      arm |= {"mcnemar_p": 1.0, "non_degradation_correct": 0.5}
    arms.append(arm)
  count = len({line["id"] for line in lines})
  return {"problems": count, "split": "test", "arms": arms}


def training_line(step, problem, rewards=(1.0, 0.0)):
  """One line of a GRPO phase's episodes."""
  solution = attempt(ALONE, problem, 0.0)["solution"]
  return {
    "schema": transcripts.SCHEMA,
    "step": step,
    "id": f"t{problem}",
    "question": f"training question {problem}",
    "answer": str(problem),
    "probe": "a plan",
    "pass_rate": 0.0,
    "baseline": [solution],
    "teachings": [
      {
        "text": "<teaching>carry</teaching>",
        "teaching": "carry",
        "status": "ok",
        "leaked": False,
        "tokens": 2,
        "taught": solution | {"score": reward},
        "reward": reward,
        "reward_parts": {"improvement": reward, "format": 0.0},
        "finish_reason": "stop",
        "weight_version": step,
      }
      for reward in rewards
    ],
  }


def metrics_line(step, **values):
  known = {"accuracy_alone": 0.5, "accuracy_taught": 0.5 + step / 10, "kl": 0.1}
  return {"phase": "0_grpo", "step": step} | {
    f"0_grpo/{key}": value for key, value in (known | values).items()
  }


def write_run(path, lines=None, training=(), config=None):
  """Writes a run directory; returns it."""
  lines = attempts() if lines is None else lines
  (path / "episodes").mkdir(parents=True)
  (path / "report").mkdir()
  (path / "config.json").write_text(
    json.dumps(dataclasses.asdict(config or RunConfig()), indent=2)
  )
  (path / "report/1_evaluate.json").write_text(json.dumps(evaluation(lines)))
  for name, rows in (
    ("episodes/1_evaluate.jsonl", lines),
    ("episodes/0_grpo.jsonl", training),
    ("metrics.jsonl", [metrics_line(step) for step in (1, 2, 3)]),
  ):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (path / name).write_text(text)
  return path
