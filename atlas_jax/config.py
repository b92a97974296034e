"""The config tree: ml_collections ConfigDicts in, frozen dataclasses out.

Each default is written once, here. A file under configs/ starts from
`default_config()`, changes what it wants, and returns the ConfigDict;
`resolve` turns it into a `RunConfig`, refusing unknown keys and wrong types
before anything starts.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from ml_collections import ConfigDict

from atlas_jax import config_checks
from atlas_jax.config_tree import (
  ConfigError,
  NonNegativeFloat,
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
  build,
  tree_of,
)
from atlas_jax.loss_options import LossOptions

Phase = Literal["sft", "grpo", "evaluate", "export"]
Dtype = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "cosine", "linear"]


@dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; one axis may be -1: all that are left."""

  data: int = 1
  fsdp: int = -1
  tensor: int = 1
  context: int = 1


@dataclass(frozen=True)
class ModelConfig:
  """The teacher that is trained."""

  # A Hugging Face directory (config.json, *.safetensors, tokenizer files), or
  # ORG/NAME[@REVISION] of the Hub.
  path: str = "models/teacher"
  # True: path holds config.json and a tokenizer, and weights are drawn anew.
  random_init: bool = False
  param_dtype: Dtype = "float32"
  compute_dtype: Dtype = "bfloat16"
  remat: Literal["none", "dots", "full"] = "full"
  logprob_chunk: PositiveInt = 256  # tokens whose logits exist at one time


@dataclass(frozen=True)
class OptimizerConfig:
  """AdamW with a warm-up and a schedule."""

  learning_rate: NonNegativeFloat = 1e-6
  warmup_steps: NonNegativeInt = 10
  schedule: Schedule = "constant"
  final_fraction: float = 0.0  # of the peak, at the end of cosine or linear
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: NonNegativeFloat = 0.0  # on matrices, not norms and biases
  clip_norm: PositiveFloat = 1.0


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
  verifier: str | None = None
  # Of the user's own functions, reward.extra too: seconds for one call.
  own_deadline_s: PositiveFloat = 60.0
  own_processes: PositiveInt = 4  # that make such calls
  # Used when validation and test have no file of their own: hash of question.
  split_fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
  seed: int = 0
  sft_source: str = "teachable_sft"
  sft_path: str | None = None
  sft_params: dict = field(default_factory=dict)
  # The share of the problems, or examples, that may be left out since they are
  # too long for their rows or servers; more stops the run. 0: none may.
  max_too_long: NonNegativeFloat = 0.01
  # Of the problems and examples that a run began with, which it writes here.
  fingerprint: str | None = None


@dataclass(frozen=True)
class PromptsConfig:
  """The four templates. Each must hold exactly the fields named here."""

  # {question}
  student_baseline: str = (
    "{question}\n\nSolve the problem step by step. Give your final answer"
    " inside <solution></solution> tags."
  )
  # {question}
  student_probe: str = (
    "{question}\n\nBefore you solve it, outline in at most 50 tokens how you"
    " would approach this problem. Do not solve it yet."
  )
  # {question} {probe}
  teacher: str = (
    "A student was given this problem:\n{question}\n\nThe student's planned"
    " approach:\n{probe}\n\nDecide how much help this student needs. Then"
    " write the guidance for the student inside <teaching></teaching> tags:"
    " as little as possible for a sound approach, concrete steps for a weak"
    " one. Never state the final answer."
  )
  # {question} {teaching}
  student_taught: str = (
    "{question}\n\nA teacher gives you this guidance:\n{teaching}\n\nSolve"
    " the problem step by step. Give your final answer inside"
    " <solution></solution> tags."
  )


@dataclass(frozen=True)
class ChatTemplateKwargs:
  """Arguments of the models' chat templates, by what is asked for."""

  # Of the probe. In training a template that knows enable_thinking gets False
  # unless this says otherwise; what a template does not know does nothing.
  probe: dict = field(default_factory=dict)
  student: dict = field(default_factory=dict)  # the same of its solutions
  teacher: dict = field(default_factory=dict)  # the same of teachings

  def of(self, role: str) -> dict:
    """Those for a template of PromptsConfig."""
    return {"student_probe": self.probe, "teacher": self.teacher}.get(
      role, self.student
    )


@dataclass(frozen=True)
class TeachConfig:
  """How a probe and a teaching are sampled. Lengths are in tokens."""

  max_probe_tokens: PositiveInt = 50  # of the student's plan, with its thinking
  # Of the plan without its thinking, as the teacher reads it. Where the
  # student's tokenizer is not known a token is up to six letters of a word, or
  # one mark.
  shown_probe_tokens: PositiveInt = 50
  probe_temperature: NonNegativeFloat = 0.0  # of plans
  # What the teacher thinks before its teaching included.
  max_teaching_tokens: PositiveInt = 512
  teacher_temperature: NonNegativeFloat = 1.0  # of teachings
  chat_template_kwargs: ChatTemplateKwargs = ChatTemplateKwargs()


@dataclass(frozen=True)
class EpisodeConfig(TeachConfig):
  """How an episode is sampled: probe, teaching and solutions."""

  max_solution_tokens: PositiveInt = 512  # of a solution, unaided or taught
  student_temperature: NonNegativeFloat = 0.7  # of solutions


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


@dataclass(frozen=True)
class SftConfig:
  # One of the two, the other None. Epochs end with the step that trains the
  # last example of them; it is filled up from the next.
  steps: PositiveInt | None = 100
  epochs: PositiveFloat | None = None
  batch_rows: PositiveInt = 16  # packed rows a step
  row_length: PositiveInt = 1024  # tokens a row
  micro_batches: PositiveInt = 1
  optimizer: OptimizerConfig = field(
    default_factory=lambda: OptimizerConfig(
      learning_rate=1e-5, schedule="cosine"
    )
  )
  max_skipped_steps: PositiveInt = 5  # in a row, then the run stops
  checkpoint_every: PositiveInt = 100


@dataclass(frozen=True)
class GrpoConfig(LossOptions):
  steps: PositiveInt = 250
  problems_per_step: PositiveInt = 16
  group_size: PositiveInt = 8  # G teachings a problem
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
  micro_batches: PositiveInt = 1
  epochs: PositiveInt = 1  # updates on one batch
  advantage: Literal["group", "batch", "none"] = "group"
  # Share of a batch's tokens, those of the highest entropy, that train; None:
  # all. Costs a scoring pass.
  entropy_quantile: float | None = None
  skip_grad_norm: PositiveFloat | None = None  # above it there is no update
  max_skipped_steps: PositiveInt = 5  # in a row, then the run stops
  mask_truncated: bool = True  # teachings cut at max_teaching_tokens
  # ref <- alpha*policy + (1-alpha)*ref; 0: frozen.
  ref_ema_alpha: NonNegativeFloat = 0.0
  ref_ema_every: PositiveInt = 64  # steps between two syncs of the reference
  optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
  checkpoint_every: PositiveInt = 10


@dataclass(frozen=True)
class ServerConfig:
  """One vLLM server: spawned by the run, or given as a URL."""

  url: str | None = None
  host: str = "127.0.0.1"  # the address to listen at, when spawned
  port: NonNegativeInt = 0  # 0: a free one
  dtype: Dtype = "bfloat16"
  max_model_len: PositiveInt = 4096
  max_num_seqs: PositiveInt = 64
  kv_cache_bytes: PositiveInt = 1 << 30
  cpu_cores: str = ""  # CPU builds: the cores that its threads are bound to
  extra_args: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServingConfig:
  teacher: ServerConfig = ServerConfig()
  student: ServerConfig = ServerConfig()
  student_path: str = "models/student"
  start_timeout_s: PositiveFloat = 600.0
  request_timeout_s: PositiveFloat = 600.0
  retries: NonNegativeInt = 3  # of one request
  restarts: NonNegativeInt = 3  # of a server that died, in one run
  max_concurrency: PositiveInt = 256
  # Publish only the values that changed, where the server can take that.
  delta: bool = True
  full_every: PositiveInt = 50  # versions between two full files
  # Stop when mean |trainer - server| log-prob on the fixed prompt is above.
  max_logprob_gap: NonNegativeFloat = 0.1


@dataclass(frozen=True)
class EvaluateConfig:
  split: Literal["train", "validation", "test"] = "test"
  problems: PositiveInt = 256
  samples: PositiveInt = 1  # solutions a problem in each arm
  teacher_temperature: NonNegativeFloat = 0.0
  student_temperature: NonNegativeFloat = 0.0
  # Teachings given to every problem alike; the best is the constant baseline.
  constant_teachings: tuple[str, ...] = ()
  bootstrap_resamples: PositiveInt = 10_000


@dataclass(frozen=True)
class ExportConfig:
  path: str | None = None  # None: <workdir>/export
  dtype: Dtype = "bfloat16"


@dataclass(frozen=True)
class RunConfig:
  seed: int = 0
  phases: tuple[Phase, ...] = ("sft", "grpo", "evaluate")
  wandb_project: str | None = None  # also log there; needs the extra wandb
  # YYYY-MM-DD that chat templates take for today; None: of the first start.
  template_date: str | None = None
  # An absolute path or a URL (gs://...); None: in the run directory.
  checkpoints_dir: str | None = None
  keep_checkpoints: PositiveInt = 2  # the newest of each phase
  mesh: MeshConfig = MeshConfig()
  teacher: ModelConfig = ModelConfig()
  data: DataConfig = DataConfig()
  prompts: PromptsConfig = PromptsConfig()
  prompts_path: str | None = None  # a best_prompts.json: it replaces prompts
  episode: EpisodeConfig = EpisodeConfig()
  reward: RewardConfig = RewardConfig()
  sft: SftConfig = SftConfig()
  grpo: GrpoConfig = GrpoConfig()
  serving: ServingConfig = ServingConfig()
  evaluate: EvaluateConfig = EvaluateConfig()
  export: ExportConfig = ExportConfig()


def default_config() -> ConfigDict:
  """The whole tree of a training run, with every default."""
  return tree_of(RunConfig())


def resolve(tree: ConfigDict) -> RunConfig:
  """The RunConfig that `tree` describes.

  Raises:
    ConfigError: an unknown key, a wrong type, or a value that is not valid.
  """
  config = build(RunConfig, tree)
  problem = next(config_checks.problems(config), None)
  if problem is not None:
    raise ConfigError(problem)
  return config


def to_dict(config) -> dict:
  """A resolved config as plain JSON values."""
  return dataclasses.asdict(config)
