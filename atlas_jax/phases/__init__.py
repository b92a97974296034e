"""The phases of a run, by the names that `config.phases` uses."""

from atlas_jax.phases import evaluate, export, grpo, sft

PHASES = {
    "sft": sft.run,
    "grpo": grpo.run,
    "evaluate": evaluate.run,
    "export": export.run,
}
