"""A tokenizer directory made on the spot, as a model directory holds it."""

import json
import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEMPLATE = (
  "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
  "{{ m['content'] }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(
  path: pathlib.Path,
  *,
  template: str | None = TEMPLATE,
  eos: str | None = "<|im_end|>",
  generation_eos=None,
) -> pathlib.Path:
  """Writes tokenizer.json, tokenizer_config.json, generation_config.json."""
  specials = ["<|bos|>", "<|im_start|>", "<|im_end|>", "<|eot|>", "<|pad|>"]
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.train_from_iterator(
    ["What is 12 + 34? carry the one user assistant"],
    trainers.BpeTrainer(
      vocab_size=300,
      special_tokens=specials,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  path.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(path / "tokenizer.json"))
  config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|bos|>",
    "pad_token": "<|pad|>",
  }
  if eos is not None:
    config["eos_token"] = eos
  if template is not None:
    config["chat_template"] = template
  (path / "tokenizer_config.json").write_text(json.dumps(config))
  if generation_eos is not None:
    (path / "generation_config.json").write_text(
      json.dumps({"eos_token_id": generation_eos})
    )
  return path
