"""Which GPUs and which share of them trainer and servers get."""

import pytest

from atlas_jax import gpus
from atlas_jax.config import ConfigError, default_config, resolve
from atlas_jax.server_config import ServerConfig
from atlas_jax.serving import server, vllm_command


def config(trainer=("", None), teacher=("", None), student=("", None), **more):
  tree = default_config()
  parts = tree.mesh, tree.serving.teacher, tree.serving.student
  for part, (cards, fraction) in zip(
    parts, (trainer, teacher, student), strict=True
  ):
    part.gpus, part.gpu_memory_fraction = cards, fraction
  tree.update_from_flattened_dict(more)
  return resolve(tree)


@pytest.mark.parametrize(
  ("text", "found"),
  [("", ()), ("0", (0,)), ("4-7", (4, 5, 6, 7)), ("0,2-3", (0, 2, 3))],
)
def test_lists_of_gpus(text, found):
  assert gpus.numbers(text) == found


@pytest.mark.parametrize("text", ["a", "3-1", "0,0", "-1", "0-", "1-3,2"])
def test_what_is_no_list_of_gpus_is_refused(text):
  with pytest.raises(ConfigError, match=r"mesh\.gpus.*must be GPUs such as"):
    config((text, None))


def test_one_card_is_shared_out():
  found = config(("0", 0.45), ("0", 0.25), ("0", 0.25))
  assert gpus.of_trainer(found) == {
    "CUDA_VISIBLE_DEVICES": "0",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45",
  }
  assert gpus.split(found) == (
    "GPUs: trainer on 0 with 0.45 of it; teacher server on 0 with 0.25 of it;"
    " student server on 0 with 0.25 of it"
  )


def test_a_run_that_names_no_gpu_sets_nothing(tmp_path):
  assert gpus.of_trainer(config(), dev=tmp_path) == {}
  assert gpus.split(config()) is None


@pytest.mark.parametrize(
  ("parts", "match"),
  [
    ((("0", 0.5), ("0", 0.25), ("0", 0.25)), "add up to 1 of GPU 0"),
    ((("0", 0.5), ("0", None), ("1", None)), "GPU 0 is shared: all of mesh"),
    ((("0-3", 0.9), ("3-4", 0.2), ("5", None)), "add up to 1.1 of GPU 3"),
    ((("", None), ("1", 0.5), ("1", 0.5)), "serving.*add up to 1 of GPU 1"),
  ],
)
def test_what_does_not_fit_a_card_is_refused(parts, match):
  with pytest.raises(ConfigError, match=match):
    config(*parts)


def test_a_server_elsewhere_takes_nothing_here():
  elsewhere = {
    "serving.student.url": "http://10.0.0.2:8000",
    "serving.teacher.url": "http://10.0.0.2:8001",
  }
  config(("0", 0.9), ("0", 0.9), ("0", 0.9), **elsewhere)


@pytest.mark.parametrize(
  ("cards", "replicas", "cut"), [("4-7", 4, 1), ("4-7", 2, 2), ("", 3, 1)]
)
def test_each_engine_has_the_gpus_that_it_is_cut_over(cards, replicas, cut):
  counts = {"replicas": replicas, "tensor_parallel": cut}
  counts = {f"serving.teacher.{key}": n for key, n in counts.items()}
  config(
    ("0-2" if cards else "", None),
    (cards, None),
    ("3" if cards else "", None),
    **counts,
  )
  if cards:
    counts["serving.teacher.replicas"] += 1
    with pytest.raises(ConfigError, match=r"teacher\.gpus=4-7 must name 5|6"):
      config(("0", None), (cards, None), ("3", None), **counts)
    elsewhere = {"serving.teacher.urls": ("http://a:1", "http://b:1")}
    config(("0", None), (cards, None), ("3", None), **counts, **elsewhere)


@pytest.mark.parametrize(
  ("keys", "match"),
  [
    ({"urls": ("http://a:1", "b:2")}, r"student\.urls must be an address"),
    ({"urls": ("http://a:1", "http://a:1")}, "names each once"),
    ({"url": "http://a:1", "urls": ("http://b:1",)}, "the place of url"),
  ],
)
def test_addresses_of_several_servers(keys, match):
  keys = {f"serving.student.{key}": value for key, value in keys.items()}
  with pytest.raises(ConfigError, match=match):
    config(**keys)


def test_the_trainer_keeps_off_the_servers_cards(tmp_path):
  for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
    (tmp_path / name).touch()
  found = config(teacher=("1", None), student=("2", None))
  assert gpus.of_trainer(found, dev=tmp_path) == {"CUDA_VISIBLE_DEVICES": "0"}


def test_a_server_is_held_to_its_cards_and_its_share():
  given = ServerConfig(gpus="4-5", gpu_memory_fraction=0.25)
  flags, env = vllm_command.device_settings("cuda", given)
  assert flags == ["--gpu-memory-utilization", "0.25"]
  assert env == {"CUDA_VISIBLE_DEVICES": "4,5"}
  flags, env = vllm_command.device_settings("cpu", given)
  assert "--gpu-memory-utilization" not in flags
  assert "CUDA_VISIBLE_DEVICES" not in env


@pytest.mark.parametrize(
  ("cards", "order"),
  [
    (("0", "0"), "spawn a, wait a, spawn b, wait a, wait b"),
    (("0", "1"), "spawn a, spawn b, wait a, wait b"),
    (("", ""), "spawn a, spawn b, wait a, wait b"),
    (("0-1", "1-2"), "spawn a, wait a, spawn b, wait a, wait b"),
  ],
)
def test_servers_of_one_card_start_one_after_the_other(cards, order):
  seen = []

  class Fake:
    def __init__(self, role, text):
      self.role, self.gpus = role, set(gpus.numbers(text))

    def spawn(self):
      seen.append(f"spawn {self.role}")

    def wait(self):
      seen.append(f"wait {self.role}")

    def end(self):
      seen.append(f"end {self.role}")

  server.start(*map(Fake, "ab", cards))
  assert ", ".join(seen) == order


def test_numbers_are_the_hosts_and_must_be_visible(tmp_path):
  for number in range(8):
    (tmp_path / f"nvidia{number}").touch()
  found = config(teacher=("4", None), student=("5", None))
  assert gpus.of_trainer(found, "4,5,6,7", tmp_path) == {
    "CUDA_VISIBLE_DEVICES": "6,7"
  }
  for visible in ("0,1", "GPU-2f1e", ""):
    with pytest.raises(
      gpus.ConfigError, match=r"hides GPU 4, which config\.mesh"
    ):
      gpus.of_trainer(found, visible, tmp_path)
  assert gpus.of_trainer(config(), "0,1", tmp_path) == {}


def test_a_trainer_without_a_card_is_refused(tmp_path):
  (tmp_path / "nvidia0").touch()
  found = config(teacher=("0", 0.4), student=("0", 0.4))
  with pytest.raises(gpus.ConfigError, match="name the trainer's with"):
    gpus.of_trainer(found, dev=tmp_path)
  (tmp_path / "nvidia1").touch()
  assert gpus.of_trainer(found, dev=tmp_path) == {"CUDA_VISIBLE_DEVICES": "1"}


@pytest.mark.parametrize(
  ("parts", "key"),
  [
    ((("0", None), ("", None), ("1", None)), r"serving\.teacher"),
    ((("", 0.5), ("", None), ("", None)), "mesh"),
    ((("", None), ("1", 0.5), ("", 0.5)), r"serving\.student"),
  ],
)
def test_who_has_a_share_names_a_card(parts, key):
  with pytest.raises(ConfigError, match=rf"{key}\.gpus must be given"):
    config(*parts)


def test_a_share_is_not_given_twice():
  tree = default_config()
  server = tree.serving.teacher
  server.gpus, server.gpu_memory_fraction = "0", 0.5
  server.extra_args = ("--gpu-memory-utilization=0.9",)
  with pytest.raises(ConfigError, match="holds --gpu-memory-utilization"):
    resolve(tree)
