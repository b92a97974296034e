"""A run whose teacher and student are stand_in_servers: seconds, any phases."""

import contextlib

from atlas_jax import config as config_lib
from atlas_jax import metrics, phases
from atlas_jax.data.chat import ChatTokenizer
from tests.phases import small_sft
from tests.phases.stand_in_servers import serve

CHANGES = {
  "phases": ("sft", "grpo", "evaluate", "export"),
  "sft.steps": 2,
  "grpo.steps": 4,
  "grpo.checkpoint_every": 10,
  "grpo.problems_per_step": 2,
  "grpo.group_size": 3,
  "grpo.refill_rounds": 1,
  "grpo.row_length": 512,
  "grpo.evaluate_every": 3,
  "grpo.evaluate_problems": 2,
  "episode.max_teaching_tokens": 24,
  "episode.max_solution_tokens": 8,
  "episode.max_probe_tokens": 8,
  # No answer is right: lengths make the rewards differ.
  "reward.length_cost": 0.5,
  "evaluate.problems": 3,
  "evaluate.constant_teachings": ("Carry the one.",),
  "evaluate.bootstrap_resamples": 100,
  "serving.max_logprob_gap": 1e9,
}
CLOCKS = (
  "seconds",
  "_per_second",
  "time",
  "_gb",
  "programs_compiled",
  "_running",
  "_waiting",
)


def run(model, workdir, states=(), counts=(1, 1), silent=None, **changes):
  """(numbers, episodes of 1_grpo, the state of the first teacher server).

  The states of all servers, the teacher's first, are appended to the list
  `states` before the run begins; counts: how many of teacher and student;
  silent: number of a server -> which of its requests are not answered.
  """
  encode = ChatTokenizer.from_dir(model).encode
  with contextlib.ExitStack() as stack:
    found = [
      stack.enter_context(serve(takes, encode, (silent or {}).get(i, ())))
      for i, takes in enumerate((True,) * counts[0] + (False,) * counts[1])
    ]
    state = found[0][1]
    if isinstance(states, list):
      states += [s for _, s in found]
    at = tuple(url for url, _ in found)
    urls = {
      "serving.teacher.urls": at[: counts[0]],
      "serving.student.urls": at[counts[0] :],
    }
    given = {**CHANGES, **urls, "student.path": str(model)}
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    config: config_lib.RunConfig = small_sft.config(
      model, {**small_sft.CHANGES, **given, **changes}
    )
    phases.run_phases(config, workdir)
  numbers = [
    {k: v for k, v in line.items() if not k.endswith(CLOCKS)}
    for line in metrics.lines(workdir / "metrics.jsonl")
  ]
  episodes = list(metrics.lines(workdir / "episodes" / "1_grpo.jsonl"))
  for episode in episodes:
    episode.pop("seconds")
  return numbers, episodes, state
