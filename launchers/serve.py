"""Starts the teacher and the student server of a config and waits.

  python -m launchers.serve --config=configs/teacher.py:smollm2 \
      --workdir=runs/servers

A run with the same --workdir uses them with the two flags that are printed, and
ATLAS_SERVER_KEY, printed too where it was not set; the servers stay up between
its restarts. Ctrl-C ends both.
"""

import time

from . import common

common.define_flags()


def main():
  config = common.config()
  from atlas_jax import directory
  from atlas_jax.serving import server, vllm_command

  directory.check(common.workdir())
  c = config.serving
  shared = {
    "workdir": common.workdir(),
    "start_timeout_s": c.start_timeout_s,
    "api_key": common.server_key()
    or vllm_command.draw_key(c.teacher, c.student),
  }
  teacher = server.TeacherServer(
    c.teacher, model_path=config.teacher.path, **shared
  )
  student = server.StudentServer(
    c.student, model_path=config.student.path, **shared
  )
  try:
    server.start(teacher, student)
    if not common.server_key():
      print(f"export ATLAS_SERVER_KEY={teacher.api_key}")
    for one in (teacher, student):
      print(f"--config.serving.{one.role}.url={one.base_url}", flush=True)
    while teacher.alive() and student.alive():
      time.sleep(1)
    raise server.ServerError("a server has ended; see logs/ in the workdir")
  except KeyboardInterrupt:
    print("ending both servers", flush=True)
  finally:
    teacher.end()
    student.end()


if __name__ == "__main__":
  common.launch(main)
