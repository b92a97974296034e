"""How probes, teachings and solutions are sampled, in every kind of config."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from atlas_jax.config_tree import NonNegativeFloat, NonNegativeInt, PositiveInt

# What decides how a template is rendered, not what it writes.
_NOT_OF_TEMPLATES = (
  *("conversation", "conversations", "messages", "tools", "documents"),
  *("chat_template", "add_generation_prompt", "continue_final_message"),
  *("tokenize", "padding", "truncation", "max_length", "return_tensors"),
  *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
  "strftime_now",
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

  def conflicts(self) -> Iterator[str]:
    for part, arguments in vars(self).items():
      for name in arguments:
        if not name.isidentifier() or name in _NOT_OF_TEMPLATES:
          yield (
            f"{part} holds {name!r}; valid: any name that a chat template may"
            f" know, but {', '.join(_NOT_OF_TEMPLATES)}"
          )


@dataclass(frozen=True)
class TeachConfig:
  """How a probe and a teaching are sampled. Lengths are in tokens."""

  # Of the student's plan, with its thinking. 0: it is not asked for one, and
  # the teacher sees the problem alone.
  max_probe_tokens: NonNegativeInt = 50
  # Of the plan without its thinking, as the teacher reads it. Where the
  # student's tokenizer is not known a token is up to six letters of a word, or
  # one mark.
  shown_probe_tokens: PositiveInt = 50
  probe_temperature: NonNegativeFloat = 0.0  # of plans
  # What the teacher thinks before its teaching included.
  max_teaching_tokens: PositiveInt = 512
  teacher_temperature: NonNegativeFloat = 1.0  # of teachings
  chat_template_kwargs: ChatTemplateKwargs = ChatTemplateKwargs()

  @property
  def stated_probe_tokens(self) -> int:
    """The length that the prompt of a probe states."""
    return min(self.max_probe_tokens, self.shown_probe_tokens)


@dataclass(frozen=True)
class EpisodeConfig(TeachConfig):
  """How an episode is sampled: probe, teaching and solutions."""

  max_solution_tokens: PositiveInt = 512  # of a solution, unaided or taught
  student_temperature: NonNegativeFloat = 0.7  # of solutions
