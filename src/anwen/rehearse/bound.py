"""Commands of processes that end with whoever started them, however that ends; as another user, if one is named."""

from __future__ import annotations

import os
import shutil
import sys

_BOUND = """
import ctypes, os, signal, sys
parent, uid, gid, slack_ns, *command = sys.argv[1:]
if os.getuid() == 0 and uid:
    os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid))
prctl = ctypes.CDLL(None).prctl
prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, after setuid, which clears it
prctl(29, ctypes.c_ulong(int(slack_ns)))  # PR_SET_TIMERSLACK
if os.getppid() != int(parent):
    sys.exit("whoever started this has ended already")
os.execv(command[0], command)
"""


def bound(*command: str, user: tuple[int, int] | None = None, slack_ns: int = 0) -> list[str]:
    """Return a command that a thread of this process starts, and that is killed when the thread ends; it does not fork.

    Args:
        user: user and group that root gives it.
        slack_ns: how much later than asked for its threads may wake from sleep; 0: as ours, as a rule 50,000.
    """
    uid, gid = map(str, user) if user else ("", "")
    program = shutil.which(command[0]) or command[0]  # where it is found now: another user may not see the same places
    return [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid()), uid, gid, str(slack_ns), program, *command[1:]]
