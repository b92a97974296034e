"""The entry point that vLLM calls in each of its processes."""

BACKEND = "atlas"


def register() -> None:
  """Makes the `atlas` weight transfer backend known. Safe to call again."""
  from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
  )

  if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(
      BACKEND, "atlas_vllm.engine", "FileWeightTransferEngine"
    )
  _keep_cpu_weights()


def _keep_cpu_weights() -> None:
  """Stops vLLM's CPU build from dropping weights once it has packed them.

  It packs the weight of each Linear for its GEMM kernels and frees the
  original, after which nothing can be loaded into the layer. With our
  backend chosen, the originals stay: twice the memory of the Linear weights.
  """
  from vllm.config import get_current_vllm_config_or_none
  from vllm.model_executor.layers import utils

  stock = utils.dispatch_cpu_unquantized_gemm
  if getattr(stock, "keeps_atlas_weights", False):
    return

  def dispatch(layer, remove_weight):
    config = get_current_vllm_config_or_none()
    transfer = config.weight_transfer_config if config else None
    ours = transfer is not None and transfer.backend == BACKEND
    return stock(layer, remove_weight and not ours)

  dispatch.keeps_atlas_weights = True
  utils.dispatch_cpu_unquantized_gemm = dispatch
