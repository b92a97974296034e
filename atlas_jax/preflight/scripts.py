"""Scripts that start runs on clusters, as text; nothing here submits any.

node.sh   trainer and servers on one machine, under SLURM or not
nodes.sh  SLURM: nodes that train, and one node for both servers
pod.sh    a TPU pod that trains, and a GPU machine for both servers
array.sh  SLURM: a job for each row of an ablation
"""

import os
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence

import jinja2

from atlas_jax import gpus
from atlas_jax.config_tree import ConfigError


def _fill(template: str, **values) -> str:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  environment.globals.update(quote=shlex.quote, words=shlex.join)
  return environment.get_template(template).render(values)


def job_array(name: str, count: int, module: str, argv: Sequence[str]) -> str:
  """A job array that runs `python -m module argv --index=N` for each N.

  Args:
    name: of the array.
    count: how many jobs, numbered from 0.
    module: of the launcher.
    argv: its arguments; a --workdir among them is one that all machines see.
  """
  return _fill(
    "array.sh",
    name=name,
    count=count,
    module=module,
    argv=argv,
    directory=os.getcwd(),
    python=sys.executable,
  )


def of_run(
  config, flags: Sequence[str], *, kind: str, nodes: str, gpus_per_node: int
) -> str:
  """The script of a run: servers and trainer, the trainer after the servers.

  Args:
    config: the RunConfig that `flags` make.
    flags: --config, then --config.KEY=VALUE.
    kind: slurm, tpu or local.
    nodes: 1 for all on one node, N+1 for N that train and one that serves.
    gpus_per_node: that a node with GPUs has.

  Raises:
    ConfigError: there is no such layout.
  """
  trainers = int(nodes[:-2]) if re.fullmatch(r"[1-9]\d*\+1", nodes) else 0
  wanted = {"tpu": True, "local": False}.get(kind, trainers > 0)
  if wanted != (trainers > 0) or not (trainers or nodes == "1"):
    raise ConfigError(
      f"--kind={kind} --nodes={nodes}: 1, or N+1 for N that train and one with"
      " both servers; tpu wants N+1, local 1"
    )
  count, gpu_flags = _gpus(config, trainers > 0, gpus_per_node)
  own = [f"--kind={kind}", f"--nodes={nodes}", f"--gpus={gpus_per_node}"]
  command = shlex.join(["python", "-m", "launchers.cluster", *flags, *own])
  apart = "pod.sh" if kind == "tpu" else "nodes.sh"
  return _fill(
    apart if trainers else "node.sh",
    kind=kind,
    trainers=trainers,
    flags=flags,
    gpus=count,
    gpu_flags=gpu_flags,
    name=re.sub(r"[^\w.-]", "_", re.split("[:/]", flags[0])[-1]),
    command=command.replace("\n", "\n#   "),  # all of it is a comment
    # A server that is late ends with an error of its own before.
    health_s=round(config.serving.start_timeout_s) + 60,
  )


def _gpus(config, apart: bool, count: int) -> tuple[int, list[str]]:
  """(GPUs of a node, flags that share them out).

  On one node what the config names stays; else the trainer has half of a node
  that it shares. Each server has half of what is left, its engines whole.

  Raises:
    ConfigError: there are too few, or servers run already.
  """
  for role, server in config.serving.by_role.items():
    if urls := server.elsewhere:
      raise ConfigError(
        f"serving.{role}.url is {urls[0]}: the script starts its own servers"
      )
  shares = gpus.shares(config)
  named = [number for share in shares for number in share.gpus]
  if apart and any(share.fraction is not None for share in shares):
    raise ConfigError(
      "the config says which part of a GPU trainer and servers have"
      " (gpu_memory_fraction): --nodes must be 1"
    )
  if config.mesh.gpus and not apart:
    return max(named) + 1, []
  least = 2 if apart else max([4, *(n + 1 for n in named)])
  if count < least:
    raise ConfigError(f"--gpus={count}: at least {least} for these --nodes")
  if named and not apart:
    rest = sorted({*range(count)} - {*named})
    return count, [f"--config.mesh.gpus={','.join(map(str, rest))}"]
  first = 0 if apart else count // 2
  middle = (first + count) // 2
  found = [] if apart else [f"--config.mesh.gpus=0-{first - 1}"]
  for role, begin, end in (
    ("teacher", first, middle),
    ("student", middle, count),
  ):
    part, cut = f"serving.{role}", config.serving.by_role[role].tensor_parallel
    if (end - begin) % cut:
      raise ConfigError(
        f"--gpus={count}: the {end - begin} GPUs of the {role} server are no"
        f" multiple of {part}.tensor_parallel={cut}"
      )
    found.append(f"--config.{part}.gpus={begin}-{end - 1}")
    found.append(f"--config.{part}.replicas={(end - begin) // cut}")
  return count, found
