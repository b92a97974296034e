"""Calls that vLLM's workers gain (--worker-extension-cls).

A refusal is raised: of what several engines (data parallel) return, vLLM hands
on the first one's answer alone, but an exception of any.
"""

from atlas_vllm import ranks


class WeightWorker:
  """Mixed into the worker, which has the `weight_transfer_engine`."""

  def atlas_prepare(self, update_info: dict) -> None:
    """Checks a file of weights."""
    with ranks.last_one_raises():
      self.weight_transfer_engine.prepare(update_info)

  def atlas_forget(self) -> None:
    """Frees what it has checked."""
    self.weight_transfer_engine.forget()

  def atlas_held(self, version: str | None = None) -> dict[str, str] | None:
    """Digest of each tensor that the model holds."""
    with ranks.last_one_raises():
      return self.weight_transfer_engine.held(version)
