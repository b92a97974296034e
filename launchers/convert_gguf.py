"""Turns a Llama or Qwen2 GGUF file into a Hugging Face directory.

  python -m launchers.convert_gguf FILE.gguf OUT_DIR

Quantised tensors are expanded and saved as bfloat16 safetensors, beside
config.json, generation_config.json and the tokenizer with its chat template.
Needs the packages gguf and accelerate, which `launchers/setup.sh --smollm2` and
`--qwen=packages` lend it for the time of the conversion.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile

import numpy as np

from atlas_jax.files import FileError
from atlas_jax.terminal import printable

from .config_flag import shown


def convert(source: pathlib.Path, out: pathlib.Path) -> None:
  """Writes the directory `out` whole: it is there complete, or not at all.

  Raises:
    FileError: `source` is missing, `out` exists, or the file has no chat
      template or cannot be read.
  """
  if not source.is_file():
    raise FileError(f"no such GGUF file: {source}")
  if out.exists():
    raise FileError(f"{out} exists; remove it to convert again")
  _check_sizes(source)

  # Slow to import, so after what can be refused without them.
  import torch
  from transformers import AutoModelForCausalLM, AutoTokenizer

  # Never the code that lies beside the file, and never a question about it.
  locked = {"trust_remote_code": False, "local_files_only": True}
  try:
    tokenizer = AutoTokenizer.from_pretrained(
      source.parent, gguf_file=source.name, **locked
    )
    quantized = AutoModelForCausalLM.from_pretrained(
      source.parent, gguf_file=source.name, dtype=torch.float32, **locked
    )
  except Exception as error:  # a file that lies fails anywhere in the reader
    why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    raise FileError(f"{source} cannot be read: {why}") from error
  if tokenizer.chat_template is None:
    raise FileError(f"{source} holds no chat template")
  config = quantized.config
  tokenizer.model_max_length = config.max_position_embeddings
  # A model that was read from GGUF refuses to be saved: copy it to a plain one.
  del config.quantization_config
  # GGUF keeps this as a float32: 1e-5 there reads 9.999999747378752e-06.
  eps = np.float32(config.rms_norm_eps)
  config.rms_norm_eps = float(np.format_float_positional(eps))
  model = AutoModelForCausalLM.from_config(
    config, dtype=torch.bfloat16, trust_remote_code=False
  )
  model.load_state_dict(quantized.state_dict())
  model.generation_config = quantized.generation_config

  out.parent.mkdir(parents=True, exist_ok=True)
  temporary = pathlib.Path(
    tempfile.mkdtemp(prefix=out.name + ".", dir=out.parent)
  )
  try:
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.chmod(0o755)
    temporary.rename(out)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise


def _check_sizes(source: pathlib.Path) -> None:
  """Refuses a model of sizes that transformers would build before reading."""
  from transformers import AutoConfig

  from atlas_jax.model.architecture import DecoderConfig

  try:
    config = AutoConfig.from_pretrained(
      source.parent,
      gguf_file=source.name,
      trust_remote_code=False,
      local_files_only=True,
    )
    DecoderConfig.from_hf(config.to_dict())
  except Exception as error:  # as of `convert`
    first_line = str(error).strip().partition("\n")[0]
    raise FileError(f"{source} cannot be read: {first_line}") from error


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("source", type=pathlib.Path)
  parser.add_argument("out", type=pathlib.Path)
  arguments = parser.parse_args()
  try:
    convert(arguments.source, arguments.out)
  except FileError as error:
    print(f"error: {printable(shown(str(error)))}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  main()
