"""Compiles a run's programs for accelerators that nobody owns yet.

  python -m launchers.compile --config=configs/teacher.py:qwen3_8b \
      --target=v5p:2x2x2

Says whether they fit, with all that stays resident, and what a step would
take; where they do not fit it tries what to change, the least costly first,
until they do. Of the teacher only config.json is read; `bash launchers/setup.sh
--compile` fetches the compilers.
"""

import json
import os
import pathlib
import sys

from absl import flags

from . import common

common.define_flags(workdir=False)
_TARGET = flags.DEFINE_string(
  "target", None, "v5p:2x2x2, v5e:8x8, v6e:4x4, h100x4, h200x8", required=True
)
_ROWS = flags.DEFINE_integer(
  "rows",
  None,
  "Of the largest batch; default: the most there may be.",
  lower_bound=1,
)
_COMPILERS = flags.DEFINE_string(
  "compilers", ".compilers", "Where setup.sh --compile put them."
)
_JSON = flags.DEFINE_string("json", None, "A file for all numbers.")


def main():
  os.environ.update(
    JAX_PLATFORMS="cpu",
    JAX_ENABLE_COMPILATION_CACHE="false",  # it cannot read such programs
    TPU_SKIP_MDS_QUERY="1",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
  )
  os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")
  from atlas_jax import hub
  from atlas_jax.config import ConfigError
  from atlas_jax.model import hf
  from atlas_jax.model.architecture import DecoderConfig
  from atlas_jax.preflight import compile as preflight

  config = common.config()
  if not {"sft", "grpo"} & {*config.phases}:
    raise ConfigError(f"config.phases={config.phases}: neither sft nor grpo")

  def architecture(part):
    folder = hub.directory(part.path, "model", weights=False)
    return DecoderConfig.from_hf(hf.read_config(folder))

  models = {"teacher": architecture(config.teacher)}
  if config.mesh.gpus:
    models["student"] = architecture(config.student)

  if _JSON.value is not None:
    pathlib.Path(_JSON.value).touch()  # what cannot be written is said now

  def check(config, **options):
    return preflight.check(
      config,
      models["teacher"],
      _TARGET.value,
      pathlib.Path(_COMPILERS.value),
      rows=_ROWS.value,
      servers=preflight.beside_trainer(config, models),
      **options,
    )

  checked = check(config)
  print(preflight.table(checked), flush=True)
  change = None
  if not checked["fits"]:
    for change, changed in preflight.alternatives(config):
      tried = check(changed, to_the_end=False)
      fits = "fits" if tried["fits"] else "does not fit"
      print(f"{fits}: {change}", flush=True)
      if tried["fits"]:
        break
    else:
      change = None
      print("nothing that was tried fits: take more chips, or larger ones")
  if _JSON.value is not None:
    text = json.dumps({**checked, "change_that_fits": change}, indent=1)
    pathlib.Path(_JSON.value).write_text(text + "\n")
  sys.exit(0 if checked["fits"] else 1)


if __name__ == "__main__":
  common.launch(main)
