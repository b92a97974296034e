"""The config tree: ml_collections ConfigDicts in, frozen dataclasses out.

Each default is written once, here. A file under configs/ starts from
`default_config()`, changes what it wants, and returns the ConfigDict;
`resolve` turns it into a `RunConfig`, refusing unknown keys and wrong types
before anything starts.
"""

import dataclasses
import datetime
import math
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from ml_collections import ConfigDict

from atlas_jax import files, gpus
from atlas_jax.config_tree import (
  ConfigError,  # noqa: F401
  NonNegativeFloat,
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
  PositiveShare,
  Seed,
  Share,
  Steps,
  Valid,
  build,
  tree_of,
)
from atlas_jax.episode_config import EpisodeConfig
from atlas_jax.evaluate_config import EvaluateConfig
from atlas_jax.loss_options import LossOptions
from atlas_jax.server_config import Dtype, Gpus, ServingConfig
from atlas_jax.teacher_config import LoraConfig, ModelConfig  # noqa: F401
from atlas_jax.teaching.prompts import PromptsConfig, load_prompts

Phase = Literal["sft", "grpo", "evaluate", "export"]
# What metrics call reward_NAME already.
REWARD_NAMES = (
  *("improvement", "degradation", "efficiency", "format", "leak", "length"),
  *("mean", "std"),
)
_FUNCTION = Valid(
  "must be 'module:function' or 'file.py:function'", lambda name: ":" in name
)
_LOCAL = Valid("must be a local directory", lambda path: "://" not in path)
_PHASES = Valid("names no phase", len, shown=False)
_DAY = Valid("is no day such as 2026-01-31", datetime.date.fromisoformat)
_SHARES = Valid(
  "must be three shares (train, validation, test) that sum to 1",
  lambda of: len(of) == 3 and min(of) >= 0 and abs(sum(of) - 1) <= 1e-6,
)
_SEVERAL = Valid("must be at least 2, to be compared", lambda n: n >= 2)


@dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; one axis may be -1: all that are left."""

  data: int = 1
  fsdp: int = -1
  tensor: int = 1
  context: int = 1
  gpus: Gpus = ""  # of this host; "": those that no server of the run has
  # Of a GPU's memory, for the trainer. None: what JAX takes.
  gpu_memory_fraction: PositiveShare | None = None


@dataclass(frozen=True)
class StudentConfig:
  """The student that is taught; it stays as it is."""

  path: str = "models/student"  # as teacher.path


@dataclass(frozen=True)
class OptimizerConfig:
  """AdamW with a warm-up and a schedule."""

  learning_rate: NonNegativeFloat = 1e-6
  warmup_steps: NonNegativeInt = 10
  schedule: Literal["constant", "cosine", "linear"] = "constant"
  final_fraction: float = 0.0  # of the peak, at the end of cosine or linear
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: NonNegativeFloat = 0.0  # on matrices, not norms and biases
  clip_norm: PositiveFloat = 1.0
  # bfloat16 halves them; b2 must then be 0.99 or less: see training/optimizer.
  moments_dtype: Dtype = "float32"
  grad_dtype: Dtype = "float32"  # in which micro-batches are added up

  def conflicts(self) -> Iterator[str]:
    if self.moments_dtype == "bfloat16" and self.b2 > 0.99:
      yield (
        f"b2={self.b2} leaves a bfloat16 second moment where it is; with"
        " moments_dtype=bfloat16 it must be 0.99 or less"
      )

  def too_short(self, updates: int) -> Iterator[str]:
    """A line when the warm-up takes all the updates that there are."""
    if self.schedule != "constant" and self.warmup_steps >= updates:
      yield (
        f"optimizer.warmup_steps={self.warmup_steps} leaves no update of the"
        f" {updates} to its {self.schedule} schedule"
      )


@dataclass(frozen=True)
class DataConfig:
  """Where problems come from; see configs/README.md for every source."""

  source: str = "teachable"
  # The training problems (or all of them): a file, a directory, or
  # ORG/NAME[@REVISION] of a data set of the Hub.
  path: str | None = None
  validation_path: str | None = None
  test_path: str | None = None
  params: dict = field(default_factory=dict)  # of a generated source
  # "module:function" or "file.py:function": (question, gold, response) -> a
  # number from 0 to 1, or None for no verdict. None: the built-in checker.
  verifier: Annotated[str, _FUNCTION] | None = None
  # Of the user's own functions, reward.extra too: seconds for one call.
  own_deadline_s: PositiveFloat = 60.0
  own_processes: PositiveInt = 4  # that make such calls
  # Used when validation and test have no file of their own: hash of question.
  split_fractions: Annotated[tuple[float, ...], _SHARES] = (0.8, 0.1, 0.1)
  seed: int = 0
  sft_source: str = "teachable_sft"
  sft_path: str | None = None
  sft_params: dict = field(default_factory=dict)
  # The share of the problems, or examples, that may be left out since they are
  # too long for their rows or servers; more stops the run. 0: none may.
  max_too_long: Share = 0.01
  # Of the problems and examples that a run began with, which it writes here.
  fingerprint: str | None = None


@dataclass(frozen=True)
class RewardConfig:
  """Weights of the parts of the reward; see teaching/rewards.py."""

  efficiency_weight: NonNegativeFloat = 1.0
  degradation_penalty: NonNegativeFloat = 2.0  # times the -1 of a broken answer
  format_penalty: NonNegativeFloat = 0.5  # no, empty or repeated tags
  leak_penalty: NonNegativeFloat = 1.0  # the teaching states the answer
  length_cost: NonNegativeFloat = 0.0  # times tokens / max_teaching_tokens
  # Terms of your own: NAME -> {"function": "file.py:function", "weight": 0.1}.
  extra: dict = field(default_factory=dict)

  def conflicts(self) -> Iterator[str]:
    for name, term in self.extra.items():
      if not name.isidentifier() or name in REWARD_NAMES:
        yield (
          f"extra: {name!r} cannot name a term; valid: letters, digits and _,"
          f" and none of {', '.join(REWARD_NAMES)}"
        )
      elif not (
        isinstance(term, Mapping)
        and set(term) == {"function", "weight"}
        and _FUNCTION.holds(str(term["function"]))
        and type(term["weight"]) in (int, float)
        and math.isfinite(term["weight"])
      ):
        valid = '{"function": "file.py:function", "weight": 0.1}'
        yield f"extra.{name}={term!r} must be as {valid}"


@dataclass(frozen=True)
class SftConfig:
  # One of the two, the other None. Epochs end with the step that trains the
  # last example of them; it is filled up from the next.
  steps: Steps | None = 100
  epochs: PositiveFloat | None = None
  batch_rows: PositiveInt = 16  # packed rows a step
  row_length: PositiveInt = 1024  # tokens a row
  rows_per_device: PositiveInt = 1  # that it computes at one time
  optimizer: OptimizerConfig = OptimizerConfig(
    learning_rate=1e-5, schedule="cosine"
  )
  max_skipped_steps: PositiveInt = 5  # in a row, then the run stops
  checkpoint_every: PositiveInt = 100

  def conflicts(self) -> Iterator[str]:
    if (self.steps is None) == (self.epochs is None):
      yield (
        f"steps={self.steps} and epochs={self.epochs}: give one of the two, the"
        " other None (as a flag: --config.sft.steps=None)"
      )
    if self.steps is not None:
      yield from self.optimizer.too_short(self.steps)


@dataclass(frozen=True)
class GrpoConfig(LossOptions):
  """Groups of teachings are sampled, judged and trained on.

  LossOptions says which loss that is by default.
  """

  steps: Steps = 250
  problems_per_step: PositiveInt = 16
  group_size: Annotated[int, _SEVERAL] = 8  # G teachings a problem
  # k unaided solutions; their pass rate is kept for the run.
  baseline_samples: PositiveInt = 4
  # Groups whose rewards are all equal teach nothing: sample as many of the
  # next problems in their place, this often at most.
  refill_rounds: NonNegativeInt = 1
  # 0: a step samples with the weights of the step before it. n: the batches of
  # the next n steps are sampled while a step trains, with weights as old. 1
  # hides the shorter of both; more only evens out batches of uneven length.
  max_staleness: NonNegativeInt = 0
  row_length: PositiveInt = 2048
  share_prompts: bool = True  # one copy of a prompt for its teachings of a row
  rows_per_device: PositiveInt = 1  # that it computes at one time
  epochs: PositiveInt = 1  # updates on one batch
  # centred: divided by nothing.
  advantage: Literal["group", "batch", "centred"] = "group"
  # Share of a batch's tokens, those of the highest entropy, that train; None:
  # all. Costs a scoring pass.
  entropy_share: PositiveShare | None = None
  skip_grad_norm: PositiveFloat | None = None  # above it there is no update
  max_skipped_steps: PositiveInt = 5  # in a row, then the run stops
  mask_truncated: bool = True  # teachings cut at max_teaching_tokens
  # Of the reference's matrices. That of the computation gives the same numbers
  # as float32, unless the reference moves.
  reference_dtype: Dtype = "float32"
  # ref <- alpha*policy + (1-alpha)*ref; 0: frozen.
  ref_ema_alpha: Share = 0.0
  ref_ema_every: PositiveInt = 64  # steps between two syncs of the reference
  optimizer: OptimizerConfig = OptimizerConfig()
  checkpoint_every: PositiveInt = 10
  # Steps between two looks at the validation problems, the last step's too;
  # None: none. Temperatures are those of evaluate.
  evaluate_every: PositiveInt | None = None
  evaluate_problems: PositiveInt = 64  # of the validation split
  # The phase ends with the weights that were best on them, and not the last.
  keep_best: bool = False

  def is_validated(self, step: int) -> bool:
    """Whether the step ends with a look at the validation problems."""
    every = self.evaluate_every
    return every is not None and (step % every == 0 or step == self.steps)

  def conflicts(self) -> Iterator[str]:
    yield from super().conflicts()
    if self.keep_best and (self.evaluate_every or 1) % self.checkpoint_every:
      yield (
        f"keep_best=True keeps a checkpoint: evaluate_every="
        f"{self.evaluate_every} must be a multiple of checkpoint_every="
        f"{self.checkpoint_every}"
      )
    yield from self.optimizer.too_short(self.steps * self.epochs)
    if self.max_staleness > 0 and self.mismatch == "none":
      yield (
        f"max_staleness={self.max_staleness} trains on what older weights"
        " sampled: choose a config.grpo.mismatch other than none"
      )
    if self.ref_ema_alpha > 0 and self.reference_dtype != "float32":
      yield (
        f"reference_dtype={self.reference_dtype} cannot follow in small steps:"
        f" with ref_ema_alpha={self.ref_ema_alpha} it must be float32"
      )
    if self.ref_ema_alpha > 0 and self.beta == 0:
      yield f"ref_ema_alpha={self.ref_ema_alpha} has no effect with beta=0"


@dataclass(frozen=True)
class ExportConfig:
  path: Annotated[str, _LOCAL] | None = None  # None: <workdir>/export
  dtype: Dtype = "bfloat16"


@dataclass(frozen=True)
class RunConfig:
  seed: Seed = 0
  phases: Annotated[tuple[Phase, ...], _PHASES] = ("sft", "grpo", "evaluate")
  wandb_project: str | None = None  # also log there; needs the extra wandb
  # YYYY-MM-DD that chat templates take for today; None: of the first start.
  template_date: Annotated[str, _DAY] | None = None
  # An absolute path or a URL (gs://...); None: in the run directory.
  checkpoints_dir: str | None = None
  keep_checkpoints: PositiveInt = 2  # the newest of each phase
  mesh: MeshConfig = MeshConfig()
  teacher: ModelConfig = field(default_factory=ModelConfig)
  student: StudentConfig = StudentConfig()
  data: DataConfig = DataConfig()
  prompts: PromptsConfig = field(default_factory=PromptsConfig)
  prompts_path: str | None = None  # a best_prompts.json: it replaces prompts
  episode: EpisodeConfig = field(default_factory=EpisodeConfig)
  reward: RewardConfig = RewardConfig()
  sft: SftConfig = SftConfig()
  grpo: GrpoConfig = GrpoConfig()
  serving: ServingConfig = field(default_factory=ServingConfig)
  evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
  export: ExportConfig = ExportConfig()

  def conflicts(self) -> Iterator[str]:
    yield from gpus.conflicts(self)
    if "grpo" in self.phases and self.episode.teacher_temperature == 0:
      yield (
        "episode.teacher_temperature=0 makes the teachings of a problem equal;"
        " it must be above 0 for grpo"
      )


def default_config() -> ConfigDict:
  """The whole tree of a training run, with every default."""
  return tree_of(RunConfig())


def resolve(
  tree: Mapping | ConfigDict,
  workdir: pathlib.Path | None = None,
  cls: type = RunConfig,
):
  """The config of class `cls` that `tree` describes, its prompts_path read.

  Args:
    tree: a ConfigDict, or what a config.json holds.
    workdir: of the run, which goes on with the templates that it began with,
      whatever has become of their file.
    cls: RunConfig, or another tree that holds prompts and prompts_path.

  Raises:
    ConfigError: an unknown key, a wrong type, or a value that is not valid.
    PromptError: the file of prompts_path holds no prompts.
  """
  config = build(cls, tree)
  path = config.prompts_path
  if path is None:
    return config
  if workdir is not None and (file := workdir / "config.json").exists():
    path = file if files.read_json(file).get("prompts_path") == path else path
  return build(cls, dataclasses.replace(config, prompts=load_prompts(path)))
