"""What a process may still do that reads strangers' words: read and compute.

The kernel (seccomp) denies it every system call but those listed here. So it
writes, makes, renames and deletes no file, starts no process and no thread,
makes no socket, reaches no other process, and opens files only to read them.
"""

import collections
import ctypes
import errno
import functools
import logging
import os
import platform
import resource
import struct

# machine: its number in an audit, and its column in _ALLOWED
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_ALLOWED = """
  read 0 63, write 1 64, close 3 57, stat 4 -1, fstat 5 80, lstat 6 -1,
  lseek 8 62, mmap 9 222, mprotect 10 226, munmap 11 215, brk 12 214,
  rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
  pread64 17 67, readv 19 65, access 21 -1, sched_yield 24 124, mremap 25 216,
  madvise 28 233, nanosleep 35 101, getpid 39 172, exit 60 93, uname 63 160,
  getcwd 79 17, readlink 89 -1, gettimeofday 96 169, getrusage 98 165,
  times 100 153, sigaltstack 131 132, gettid 186 178, futex 202 98,
  sched_getaffinity 204 123, getdents64 217 61, restart_syscall 219 128,
  clock_gettime 228 113, clock_nanosleep 230 115, exit_group 231 94,
  openat 257 56, newfstatat 262 79, readlinkat 267 78, faccessat 269 48,
  prlimit64 302 261, getrandom 318 278, statx 332 291, rseq 334 293,
  faccessat2 439 439
"""
_SECCOMP = (317, 277)
_ALL = 0xFFFFFFFF
# call: (argument, mask, what it must be under the mask)
_ONLY_IF = collections.defaultdict(
  tuple,
  openat=((2, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0),),
  # Its own processor time, which every comparison sets anew.
  prlimit64=((0, _ALL, 0), (1, _ALL, resource.RLIMIT_CPU)),
)
_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_NO_NEW_PRIVILEGES, _SET_FILTER = 38, 1
# Of all threads that imports have started; at the processor's full speed.
_FLAGS = 1 | 4


@functools.cache
def warn_unlocked(why: str) -> None:
  """Says once that processes are not locked."""
  logging.getLogger(__name__).warning(
    "the processes of verifiers and chat templates are not locked: %s", why
  )


def lock_process() -> str:
  """Locks this process: what it has not opened for writing stays so.

  Returns:
    Why the kernel does not lock it; empty where it does.
  """
  for limit in ("FSIZE", "NPROC"):
    resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (0, 0))
  if platform.machine() not in _MACHINES:
    return f"no list of system calls for {platform.machine()}"
  audit, column = _MACHINES[platform.machine()]
  program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL)]
  program.append((_LOAD, 0, 0, 0))
  for call in _ALLOWED.split(","):
    name, *numbers = call.split()
    body = []
    for argument, mask, valid in _ONLY_IF[name]:
      body += [(_LOAD, 0, 0, 16 + 8 * argument), (_AND, 0, 0, mask)]
      body += [(_EQUAL, 1, 0, valid), (_RETURN, 0, 0, _DENY)]
    body.append((_RETURN, 0, 0, _ALLOW))
    number = int(numbers[column]) & _ALL
    program += [(_EQUAL, 0, len(body), number), *body]
  program.append((_RETURN, 0, 0, _DENY))
  code = b"".join(struct.pack("HBBI", *step) for step in program)
  kept = ctypes.create_string_buffer(code, len(code))
  filter_ = struct.pack("HP", len(program), ctypes.addressof(kept))
  libc = ctypes.CDLL(None, use_errno=True)
  libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
  if libc.syscall(_SECCOMP[column], _SET_FILTER, _FLAGS, filter_):
    return f"seccomp: {os.strerror(ctypes.get_errno())}"
  return ""
