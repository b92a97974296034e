"""A run that trains adapters: resumed, exported, and read by PEFT."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from atlas_jax import sharding
from atlas_jax.checkpoint import CheckpointError
from atlas_jax.config import ConfigError, LoraConfig, MeshConfig
from atlas_jax.model import lora
from atlas_jax.phases import export, opening
from atlas_jax.phases.training_phase import TrainingError
from tests.phases import small_sft
from tests.training import tiny

LORA = {
  "teacher__lora__rank": 2,
  "teacher__lora__alpha": 8.0,
  "sft__optimizer__learning_rate": 1e-2,
  "export__dtype": "float32",
}


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole") / "run"
  small_sft.run(model, workdir, **LORA)
  return workdir


def cut(whole, workdir):
  """A copy of a run that was killed after its fourth of six steps."""
  shutil.copytree(whole, workdir)
  shutil.rmtree(workdir / "checkpoints" / "0_sft" / "6")
  for name in ("export", "export-adapter"):
    shutil.rmtree(workdir / name)


def test_a_resumed_run_equals_an_undisturbed_one(model, whole, tmp_path):
  cut(whole, tmp_path / "run")
  small_sft.run(model, tmp_path / "run", **LORA)
  small_sft.assert_same(tmp_path / "run", whole)
  loss = [line["0_sft/loss"] for line in small_sft.numbers(whole)]
  assert loss[-1] < loss[0] - 0.05


def test_a_checkpoint_holds_no_frozen_weight(model, whole):
  saved = whole / "checkpoints" / "0_sft" / "6"
  assert {p.name for p in saved.iterdir() if p.is_dir()} == {
    "model",
    "optimizer",
  }
  size = sum(p.stat().st_size for p in saved.rglob("*") if p.is_file())
  assert size < (model / "model.safetensors").stat().st_size / 2


def test_another_base_is_refused(model, whole, tmp_path):
  cut(whole, tmp_path / "run")
  other = tmp_path / "model"
  shutil.copytree(model, other)
  tensors = safetensors.numpy.load_file(other / "model.safetensors")
  tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1e-3
  safetensors.numpy.save_file(
    tensors, other / "model.safetensors", {"format": "pt"}
  )
  shutil.rmtree(tmp_path / "run" / "config.json", ignore_errors=True)
  config = json.loads((whole / "config.json").read_text())
  config["teacher"]["path"] = str(other)
  (tmp_path / "run" / "config.json").unlink(missing_ok=True)
  (tmp_path / "run" / "config.json").write_text(json.dumps(config))
  with pytest.raises(CheckpointError, match=r"the base of .*teacher\.path"):
    small_sft.run(other, tmp_path / "run", **LORA)


def test_another_alpha_is_refused(model, whole, tmp_path):
  cut(whole, tmp_path / "run")
  config = json.loads((whole / "config.json").read_text())
  config["teacher"]["lora"]["alpha"] = 80.0
  (tmp_path / "run" / "config.json").write_text(json.dumps(config))
  with pytest.raises(TrainingError, match=r"alpha=80 .* the checkpoint, 8:"):
    small_sft.run(
      model, tmp_path / "run", **LORA | {"teacher__lora__alpha": 80.0}
    )


def test_a_base_of_the_hub_is_named_with_its_revision(tmp_path):
  adapters = jax.jit(
    lambda: lora.draw(tiny.ARCHITECTURE, LoraConfig(rank=1), 0)
  )()
  lora.save_peft(tmp_path, adapters, LoraConfig(rank=1), "org/name@abc")
  config = json.loads((tmp_path / "adapter_config.json").read_text())
  assert config["base_model_name_or_path"] == "org/name"
  assert config["revision"] == "abc"


def logits(model) -> np.ndarray:
  tokens = torch.arange(12)[None] % model.config.vocab_size
  with torch.no_grad():
    return model(tokens).logits.numpy()


def test_the_export_is_base_and_adapters(model, whole):
  """By transformers, from the adapter's file alone, as PEFT defines it."""
  adapted = transformers.AutoModelForCausalLM.from_pretrained(
    model, dtype=torch.float32
  )
  folder = whole / "export-adapter"
  config = json.loads((folder / "adapter_config.json").read_text())
  scale = config["lora_alpha"] / config["r"]
  assert scale == 4.0
  tensors = safetensors.numpy.load_file(folder / "adapter_model.safetensors")
  weights, changed = adapted.state_dict(), set()
  for name in [n for n in tensors if ".lora_A." in n]:
    a, b = tensors[name], tensors[name.replace("lora_A", "lora_B")]
    ours = re.sub(r"^base_model\.model\.|\.lora_A", "", name)
    assert np.abs(b).max() > 0
    with torch.no_grad():
      weights[ours] += scale * torch.from_numpy(b @ a)
    changed.add(ours.split(".")[-2])
  assert changed == set(config["target_modules"]) and len(changed) == 7
  exported = transformers.AutoModelForCausalLM.from_pretrained(
    whole / "export", dtype=torch.float32
  )
  expected = logits(adapted)
  np.testing.assert_allclose(logits(exported), expected, atol=1e-5)
  plain = transformers.AutoModelForCausalLM.from_pretrained(
    model, dtype=torch.float32
  )
  assert np.abs(logits(plain) - expected).max() > 1e-3


def test_a_teacher_with_adapters_is_a_guest_of_one_without(
  model, whole, tmp_path
):
  changes = {"phases": ("evaluate",), "student.path": str(model)}
  changes["evaluate.teachers"] = (str(whole),)
  config = small_sft.config(model, changes)
  with jax.set_mesh(sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])):
    run = opening.open_run(config, tmp_path / "run")
    ((_, guest, _),) = run.guests.teachers
    found = {}
    for tensor in guest.exported("float32"):
      found |= tensor.boxes
    guest.forget()
  exported = safetensors.numpy.load_file(whole / "export" / "model.safetensors")
  assert found.keys() == exported.keys()
  for name, tensor in exported.items():
    np.testing.assert_array_equal(found[name], tensor)
  assert run.teacher.options.lora.rank == 0


def test_peft_reads_the_adapter(model, whole):
  peft = pytest.importorskip("peft", reason="PEFT is not installed")
  plain = transformers.AutoModelForCausalLM.from_pretrained(
    model, dtype=torch.float32
  )
  adapted = peft.PeftModel.from_pretrained(plain, whole / "export-adapter")
  exported = transformers.AutoModelForCausalLM.from_pretrained(
    whole / "export", dtype=torch.float32
  )
  np.testing.assert_allclose(logits(adapted), logits(exported), atol=1e-5)


def test_a_run_is_exported_later(whole, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(whole, workdir)
  export.export_run(workdir, tmp_path / "later", "float32")
  assert (tmp_path / "later" / "model.safetensors").read_bytes() == (
    small_sft.weights(whole)
  )
  for name in ("adapter_model.safetensors", "adapter_config.json"):
    later = (tmp_path / "later-adapter" / name).read_bytes()
    assert later == (whole / "export-adapter" / name).read_bytes()


@pytest.mark.parametrize("targets", [("lm_head",), ("q",), (), ("q_proj",) * 2])
def test_unknown_targets_are_refused(model, targets):
  with pytest.raises(ConfigError, match=r"config\.teacher\.lora\.targets"):
    small_sft.config(model, {"teacher.lora.targets": targets})
