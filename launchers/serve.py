"""Starts the servers of a config and waits.

  python -m launchers.serve --config=configs/teacher.py:smollm2 \\
      --workdir=runs/servers

A run with the same --workdir uses them with the flags that are printed, and
ATLAS_SERVER_KEY, printed too where it was not set; the servers stay up between
its restarts. One that ends is started again, config.serving.restarts times.
Several nodes of a role, each with --role: their addresses go to
config.serving.ROLE.urls. Ctrl-C ends all.
"""

import time

from absl import flags

from . import common

common.define_flags()
_ROLE = flags.DEFINE_enum(
  "role", "both", ("teacher", "student", "both"), "Whose server is started."
)


def main():
  config = common.config()
  from atlas_jax import directory, files
  from atlas_jax.serving import server, vllm_command

  files.check_directory(common.workdir(), directory.NAMES)
  c = config.serving
  kinds = {"teacher": server.TeacherServer, "student": server.StudentServer}
  roles = [*kinds] if _ROLE.value == "both" else [_ROLE.value]
  key = common.server_key() or vllm_command.draw_key(
    *(getattr(c, role) for role in roles)
  )
  servers = [
    kinds[role](
      getattr(c, role),
      model_path=getattr(config, role).path,
      workdir=common.workdir(),
      start_timeout_s=c.start_timeout_s,
      api_key=key,
    )
    for role in roles
  ]
  try:
    server.start(*servers)
    if not common.server_key():
      print(f"export ATLAS_SERVER_KEY={key}")
    for one in servers:
      print(f"--config.serving.{one.role}.url={one.base_url}", flush=True)
    restarts = 0
    while True:
      time.sleep(1)
      for one in servers:
        if one.alive():
          continue
        if restarts == c.restarts:
          raise server.ServerError(
            f"the {one.role} server has ended; see logs/ in the workdir"
          )
        restarts += 1
        print(f"restart {restarts} of {c.restarts}: {one.role}", flush=True)
        one.restart()
  except KeyboardInterrupt:
    print("ending all servers", flush=True)
  finally:
    for one in servers:
      one.end()


if __name__ == "__main__":
  common.launch(main)
