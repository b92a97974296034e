"""Scorers of the lock's tests: each tries one thing that a scorer must not.

They run in a process of the verifier pool, True where the thing was done.
"""

import contextlib
import ctypes
import os
import pathlib
import pickle
import resource
import shutil
import socket
import subprocess
import threading
import time

from atlas_jax import seccomp


def on_an_unknown_machine():
  """A kernel that locks nothing, as far as seccomp.py knows."""
  seccomp._MACHINES.clear()


def _file(folder):
  return pathlib.Path(folder) / "file"


def _signal_parent(_):
  os.kill(os.getppid(), 0)


def _fork(_):
  if (child := os.fork()) == 0:
    os._exit(0)
  os.waitpid(child, 0)


def _thread(_):
  thread = threading.Thread(target=os.getpid)
  thread.start()
  thread.join()


def _listen(_):
  with socket.socket() as at:
    at.bind(("127.0.0.1", 0))
    at.listen()


def _datagram(_):
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as at:
    at.sendto(b"x", ("127.0.0.1", 9))


def _truncate_by_reading(folder):
  # The kernel truncates for this flag even where it opens to read.
  os.close(os.open(_file(folder), os.O_RDONLY | os.O_TRUNC))


def _unnamed(folder):
  os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR))


# Each changes `folder`, which holds file and sub, or reaches out.
PROBES = {
  "write": lambda d: _file(d).write_text("changed"),
  "append": lambda d: open(_file(d), "a").close(),
  "update": lambda d: open(_file(d), "r+").close(),
  "create": lambda d: open(f"{d}/new", "x").close(),
  "truncate": lambda d: os.truncate(_file(d), 0),
  "truncate_by_reading": _truncate_by_reading,
  "unnamed": _unnamed,
  "mkdir": lambda d: os.mkdir(f"{d}/new"),
  "rmdir": lambda d: os.rmdir(f"{d}/sub"),
  "rmtree": lambda d: shutil.rmtree(d),
  "unlink": lambda d: _file(d).unlink(),
  "rename": lambda d: _file(d).rename(f"{d}/new"),
  "replace": lambda d: os.replace(_file(d), f"{d}/new"),
  "link": lambda d: os.link(_file(d), f"{d}/new"),
  "symlink": lambda d: os.symlink("/etc", f"{d}/new"),
  "fifo": lambda d: os.mkfifo(f"{d}/new"),
  "chmod": lambda d: _file(d).chmod(0o777),
  "chown": lambda d: os.chown(_file(d), os.getuid(), os.getgid()),
  "utime": lambda d: os.utime(_file(d)),
  "chdir": lambda d: os.chdir(d),
  "memory_file": lambda _: os.close(os.memfd_create("x")),
  "pipe": lambda _: os.pipe(),
  "command": lambda _: subprocess.run(["true"], check=True),
  "shell": lambda d: os.system(f"touch {d}/new") and 1 / 0,
  "exec": lambda _: os.execv("/bin/true", ["true"]),
  "spawn": lambda _: os.posix_spawn("/bin/true", ["true"], {}),
  "fork": _fork,
  "thread": _thread,
  "signal_parent": _signal_parent,
  "listen": _listen,
  "datagram": _datagram,
  "pair": lambda _: socket.socketpair(),
  "limit": lambda _: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
  "limit_parent": lambda _: resource.prlimit(
    os.getppid(), resource.RLIMIT_CORE
  ),
}
# Numbers of x86_64, with arguments that do nothing where the call is allowed.
RAW = {
  "clone": (56, 0x800, 0, 0, 0, 0),
  "clone3": (435, 0, 0),
  "execveat": (322, -1, b"/nowhere/x", 0, 0, 0),
  "open": (2, b"/nowhere/x", os.O_WRONLY),
  "openat2": (437, -100, b"/nowhere/x", 0, 0),
  "creat": (85, b"/nowhere/x", 0o600),
  "socket_of_no_family": (41, 999, 1, 0),
  "ptrace": (101, 999, 0, 0, 0),
  "process_vm_writev": (311, 1, 0, 0, 0, 0, 9),
  "pidfd_open": (434, -1, 0),
  "kill": (62, 1, 0),
  "tkill": (200, -1, 0),
  "tgkill": (234, -1, 1, 0),
  "io_uring_setup": (425, 0, 0),
  "bpf": (321, 999, 0, 0),
  "mount": (165, 0, 0, 0, 0, 0),
  "unshare": (272, 0),
  "setns": (308, -1, 0),
  "keyctl": (250, 999, 0, 0, 0, 0),
  "add_key": (248, 0, 0, 0, 0, 0),
  "userfaultfd": (323, 999),
  "perf_event_open": (298, 0, 0, 0, 0, 0),
  "shmget": (29, 77, 0, 0),
  "msgget": (68, 77, 0),
  "setxattr": (188, b"/nowhere/x", b"user.x", b"x", 1, 0),
  "ioctl": (16, -1, 0x5412, b"x"),
  "fcntl": (72, -1, 8, 1),
  "sethostname": (170, 0, -1),
  "seccomp": (317, 999, 0, 0),
  "prctl": (157, 9999, 0, 0, 0, 0),
  "mkdir_of_x32": (0x40000000 + 83, b"/nowhere/x", 0o700),
  "unknown": (5000,),
}


def attempt(name: str, folder: str) -> bool:
  PROBES[name](folder)
  return True


def raw(name: str) -> bool:
  """Whether the kernel answers the call in any way but EPERM."""
  libc = ctypes.CDLL(None, use_errno=True)
  result = libc.syscall(*RAW[name])
  return not (result == -1 and ctypes.get_errno() == 1)


def read(folder: str) -> bool:
  """What must go on: reading files, lists and modules not yet imported."""
  import xmlrpc.client  # imported by nobody here

  listed = sorted(os.listdir(folder))
  time.sleep(0.01)
  return (
    _file(folder).read_text() == "whole"
    and listed == ["file", "sub"]
    and xmlrpc.client.MAXINT > 0
    and os.path.realpath(folder) == os.path.realpath(folder)
    and len(os.urandom(4)) == 4
  )


def loud(_) -> bool:
  print("heard on stdout", flush=True)
  os.write(2, b"heard on stderr\n")
  return True


def greedy(size: int) -> bool:
  return len(bytearray(size)) == size


def ended(how: str) -> bool:
  if how == "exit":
    os._exit(0)
  if how == "fault":
    ctypes.string_at(0)
  return 1 / 0


class _Payload:
  def __init__(self, folder):
    self._folder = folder

  def __reduce__(self):
    return os.mkdir, (f"{self._folder}/new",)


def forge(what: str, folder: str) -> bool:
  """A process in the hands of an attacker, who writes the reply himself."""
  replies = {
    "pickle": pickle.dumps(_Payload(folder)),
    "pickle_line": pickle.dumps(_Payload(folder), protocol=0) + b"\n",
    "not_json": b"done true\n",
    "not_a_pair": b"7\n",
    "deep": b"[" * 5000 + b"\n",
    "truth_by_another_name": b'["done", "yes"]\n',
    "endless": b"x" * (1 << 22),
    "begun": b'["done"',
    "nothing": b"",
  }
  # No name of the connection is needed: it is the one open socket.
  for number in map(int, os.listdir("/proc/self/fd")):
    with contextlib.suppress(OSError):
      if number > 2 and os.readlink(f"/proc/self/fd/{number}")[:6] == "socket":
        os.write(number, replies[what])
  time.sleep(60)
  return True
