"""Calls that vLLM's workers gain (--worker-extension-cls)."""

from atlas_vllm.weights_file import WeightsRefused


class WeightWorker:
  """Mixed into the worker, which has the `weight_transfer_engine`."""

  def atlas_prepare(self, update_info: dict) -> str | None:
    """Checks a file of weights; the reason if it is refused."""
    try:
      self.weight_transfer_engine.prepare(update_info)
    except WeightsRefused as refusal:
      return str(refusal)
    return None

  def atlas_held(self) -> dict[str, str]:
    """Digest of each tensor that the model holds."""
    return self.weight_transfer_engine.held()
