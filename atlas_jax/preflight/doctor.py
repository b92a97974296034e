"""Whether this machine has what a run needs, in a line for each thing.

Where a run checks something at its start, that code is called here, so that
the two cannot disagree. Every check is made, whatever those before it found.
"""

import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from atlas_jax import directory, gpus, hub, metrics, multihost, phases, sharding
from atlas_jax.config import RunConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.errors import AtlasError
from atlas_jax.model import hf, lora, names
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.phases import opening
from atlas_jax.phases.servers import Student
from atlas_jax.preflight import chips
from atlas_jax.serving import server, vllm_command

Level = Literal["ok", "warning", "error"]
Answer = tuple[Level, str]
_URL_S = 5.0  # until the server of a URL must have answered
_YEARS = range(2026, 2100)
_APART_S = 10  # by what clocks of hosts may differ
_PUBLISHED = 3  # weights on disk: the newest two, and those being written


class Finding(NamedTuple):
  key: str  # of the config, or what was checked
  level: Level
  text: str  # what there is; or what is wrong, and what to do


@dataclasses.dataclass
class Examination:
  """The checks of a machine for one run.

  Attributes:
    config: of the run; settled once its directory has been read.
    workdir: of the run, made if it is not there; None: not chosen yet.
    server_key: the bearer token of servers that are given as URLs.
    compiled: the answer of launchers.compile for a target.
    dev: where the system names its accelerators.
    model: the architecture of the teacher, once it has been read.
    settled: whether `config` is as a run in the directory began.
  """

  config: RunConfig
  workdir: pathlib.Path | None
  server_key: str | None
  compiled: Callable[[str], Answer]
  dev: pathlib.Path = pathlib.Path("/dev")
  model: DecoderConfig | None = None
  settled: bool = False

  def findings(self) -> Iterator[Finding]:
    """One of each check, as it is made. A collective."""
    checks = {
      "--workdir": self._directory,
      "config.data": self._data,
      "config.teacher.path": self._teacher,
      "config.mesh": self._devices,
      "config.*.gpus": self._gpus,
      "memory": self._memory,
    }
    if opening.samples(self.config):
      checks["config.student.path"] = self._student
    if opening.samples(self.config) and multihost.is_lead():
      for kind in (server.TeacherServer, server.StudentServer):
        name = f"config.serving.{kind.role}"
        checks[name] = functools.partial(self._server, kind)
      checks["vLLM"] = self._vllm
    if self.config.wandb_project is not None:
      checks["config.wandb_project"] = self._wandb
    checks |= {"disk": self._disk, "clock": self._clock}
    for key, check in checks.items():
      try:
        level, text = check()
      except AtlasError as error:
        level, text = "error", str(error)
      except Exception as error:  # of whatever library: the others are made
        level, text = "error", f"{type(error).__name__}: {error}"
      yield Finding(key, level, " ".join(text.split()))

  def _directory(self) -> Answer:
    if self.workdir is None:
      return "warning", "not given: neither it nor the disk is checked"
    multihost.call_on_lead(lambda: directory.lock(self.workdir).close())
    claim = functools.partial(directory.claim_checkpoints, write=False)
    multihost.call_on_lead(lambda: claim(self.config, self.workdir))
    multihost.check_shared(
      directory.checkpoints_root(self.config, epath.Path(self.workdir))
    )
    # The model's line says it.
    with contextlib.suppress(hub.HubError, multihost.LeadError):
      self.config = opening.settled(self.config, self.workdir)
      self.settled = True
    return "ok", f"{self.workdir} can be written, and no run uses it"

  def _data(self) -> Answer:
    self.config, found, examples = opening.read_data(self.config)
    if self.settled:
      directory.check_config(self.workdir, dataclasses.asdict(self.config))
    counts = {name: len(of) for name, of in vars(found).items()}
    counts["SFT"] = len(examples)
    return "ok", ", ".join(f"{n} {name}" for name, n in counts.items())

  def _teacher(self) -> Answer:
    read = not self.config.teacher.random_init
    path = hub.directory(self.config.teacher.path, "model", weights=read)
    self.model = DecoderConfig.from_hf(hf.read_config(path))
    if read:
      hf.check(path)
    ChatTokenizer.from_dir(path, self.config.template_date)
    count = names.parameter_count(self.model)
    return "ok", f"{path}: {count:,} parameters"

  def _student(self) -> Answer:
    path, at = self.config.student.path, self.config.serving.student.elsewhere
    Student.of(path, self.config, at)
    return "ok", path

  def _devices(self) -> Answer:
    used, has = phases.accelerators(self.dev)  # a collective: before all else
    mesh = sharding.make_mesh(self.config.mesh)
    opening.check_rows(self.config, mesh)
    if self.model is not None:
      with jax.set_mesh(mesh):  # which must divide the sizes
        lora.abstract(self.model, self.config.teacher)
    axes = ", ".join(f"{axis}={n}" for axis, n in mesh.shape.items())
    text = f"{jax.device_count()} x {jax.devices()[0].device_kind}, {axes}"
    if used < has and gpus.split(self.config) is None:
      return "warning", f"{text}: {used} of this host's {has} accelerators"
    return "ok", text

  def _gpus(self) -> Answer:
    has = gpus.of_host(self.dev)
    lost = {s.key: {*s.gpus} - has for s in gpus.shares(self.config)}
    wrong = [f"config.{k}.gpus names {sorted(v)}" for k, v in lost.items() if v]
    if wrong:
      return "error", f"{'; '.join(wrong)}; this host has {sorted(has)}"
    if has and gpus.split(self.config) is None:
      return "warning", (
        "none is named: trainer and servers would begin with the same one; give"
        " config.serving.*.gpus"
      )
    return "ok", gpus.split(self.config) or "no GPU is named"

  def _memory(self) -> Answer:
    kind, count = jax.devices()[0].device_kind.lower(), jax.device_count()
    targets = [f"{gpu}x{count}" for gpu in chips.GPUS if gpu in kind]
    if targets and jax.process_count() == 1:
      return self.compiled(targets[0])
    return "warning", (
      "not checked: ask `python -m launchers.compile --config=... --target="
      f"{targets[0] if targets else chips.VALID}`"
    )

  def _server(self, kind: type[server.Server]) -> Answer:
    given = getattr(self.config.serving, kind.role)
    if not given.elsewhere:
      first = self.config.serving.teacher
      if given.port and given is not first and given.port == first.port:
        return "error", f"port {given.port} is the teacher's: choose another"
      port = vllm_command.free_port(given.host, given.port, kind.role)
      return "ok", f"port {port} of {given.host} is free"
    workdir = self.workdir or pathlib.Path()
    timing = {"start_timeout_s": _URL_S, "api_key": self.server_key}
    for url in given.elsewhere:
      at = dataclasses.replace(given, url=url, urls=())
      one = kind(at, model_path="", workdir=workdir, **timing)
      one.spawn()  # of a URL this starts its time alone
      one.wait()
    files = self.config.serving.weights == "files" and one.weights_root
    shared = f"; must see {one.weights_root}" if files else ""
    are = "is a" if len(given.elsewhere) == 1 else "are each a"
    text = f"{', '.join(given.elsewhere)} {are} {kind.role} server{shared}"
    return "ok", text

  def _vllm(self) -> Answer:
    starts = self.config.serving.spawned
    if not starts:
      return "ok", "not needed here: both servers are URLs"
    device, has = vllm_command.vllm_device(), gpus.of_host(self.dev)
    for role, given in starts.items():
      vllm_command.device_settings(device, given)
      path = pathlib.Path(getattr(self.config, role).path)
      if path.is_dir():  # else its own line says so
        vllm_command.check_model(path, device)
    required = " ".join(importlib.metadata.requires("atlas_jax"))
    pins = dict(re.findall(r"(vllm[\w-]*)==([\w.]+)", required))
    found = {}
    for name in pins:
      with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found[name] = importlib.metadata.version(name)
    text = f"{', '.join(map(' '.join, found.items()))} for {device}"
    if device == "cuda" and not has:
      return "error", f"{text}, and this host has no GPU: give serving.*.url"
    if not found or any(v.split("+")[0] != pins[k] for k, v in found.items()):
      tried = ", ".join(map(" ".join, pins.items()))
      return "warning", f"{text} was not tried: install what was, {tried}"
    if device == "cpu" and has:
      return "warning", f"{text}, beside GPUs: install the extra cuda"
    return "ok", text

  def _wandb(self) -> Answer:
    return "ok", f"wandb {metrics.import_wandb().__version__}"

  def _checkpoint_bytes(self, phase: str) -> int:
    """Of what is trained and its moments; frozen weights are not written."""
    options, teacher = getattr(self.config, phase), self.config.teacher
    trained = lora.split(lora.abstract(self.model, teacher))[1]
    beside = 2 * jnp.dtype(options.optimizer.moments_dtype).itemsize
    if phase == "grpo" and options.ref_ema_alpha > 0:
      beside += 4  # the reference moves, in float32
    leaves = jax.tree.leaves(trained)
    return sum(x.size * (x.dtype.itemsize + beside) for x in leaves)

  def _disk(self) -> Answer:
    if self.model is None or self.workdir is None:
      return "warning", "not checked: it takes the teacher, and --workdir"
    config = self.config
    kept = config.keep_checkpoints + 1  # one is written before one goes
    trained = [p for p in config.phases if p in ("sft", "grpo")]
    checkpoints = kept * sum(map(self._checkpoint_bytes, trained))
    copies = opening.samples(config) * _PUBLISHED
    weights = copies * jnp.dtype(config.serving.teacher.dtype).itemsize
    if "export" in config.phases:
      weights += jnp.dtype(config.export.dtype).itemsize
    weights *= names.parameter_count(self.model)
    needs = {str(self.workdir): weights + checkpoints}
    replaced = ("weights", "export", "checkpoints")
    if config.checkpoints_dir is not None:
      needs = {str(self.workdir): weights, config.checkpoints_dir: checkpoints}
    level, texts = "ok", []
    for where, need in needs.items():
      text, path = f"{need / 1e9:.2f} GB for {where}", pathlib.Path(where)
      if "://" not in where:
        own = (
          [path / x for x in replaced] if where == str(self.workdir) else [path]
        )
        old = (file for folder in own for file in folder.rglob("*"))
        need -= sum(file.stat().st_size for file in old if file.is_file())
        above = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(above).free
        text += f", free are {free / 1e9:.2f} GB"
        if need > free:
          level, text = "error", f"{text}: see config.keep_checkpoints"
      texts.append(text)
    return level, "; ".join(texts)

  def _clock(self) -> Answer:
    now = datetime.datetime.now(datetime.UTC)
    text = now.isoformat(" ", "seconds")
    multihost.gather(np.zeros(1))  # the lead comes later: it asks servers
    times = multihost.call_on_all(time.time)
    if now.year not in _YEARS:
      return "error", f"{text} is not today: set the clock"
    if (apart := max(times) - min(times)) > _APART_S:
      return "error", f"{text}: hosts are {apart:.0f} s apart: set their clocks"
    return "ok", text
