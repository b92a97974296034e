"""Calls that vLLM's workers gain (--worker-extension-cls).

A refusal is raised: of what several engines (data parallel) return, vLLM hands
on the first one's answer alone, but an exception of any.
"""


class WeightWorker:
  """Mixed into the worker, which has the `weight_transfer_engine`."""

  def atlas_prepare(self, update_info: dict) -> None:
    """Checks a file of weights."""
    self.weight_transfer_engine.prepare(update_info)

  def atlas_held(self, version: str | None = None) -> dict[str, str]:
    """Digest of each tensor that the model holds."""
    return self.weight_transfer_engine.held(version)
