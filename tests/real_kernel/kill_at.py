"""Kills a program as it is about to make its n-th request to change the SAD or SPD.

usage: kill_at.py N COMMAND...

Exits with 0 if it was killed, with 1 if it ended before. One request may hold
several messages; the kernel answers all of them before a signal is taken.

With INSTEAD in the environment that command runs in place of the kill, the program goes on, and its
status is this one's.
"""

import ctypes
import os
import signal
import struct
import subprocess
import sys

TRACEME, DETACH, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 17, 24, 0x4200, 0x420E
TRACESYSGOOD, EXITKILL = 1, 0x100000
ENTRY = 1
SENDTO, SENDMSG = {"x86_64": (44, 46), "aarch64": (206, 211)}[os.uname().machine]
# XFRM_MSG_NEWSA, DELSA, NEWPOLICY, DELPOLICY, UPDPOLICY, UPDSA, FLUSHSA, FLUSHPOLICY
CHANGES = {0x10, 0x11, 0x13, 0x14, 0x19, 0x1A, 0x1C, 0x1D}

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
LIBC.ptrace.restype = ctypes.c_long


def ptrace(request, pid, address=0, data=0):
    if LIBC.ptrace(request, pid, address, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")


def memory(pid, address, length):
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        file.seek(address)
        return file.read(length)


def is_change(pid):
    """Whether a system call begins that sends a request to change something."""
    info = ctypes.create_string_buffer(88)
    ptrace(GET_SYSCALL_INFO, pid, len(info), ctypes.addressof(info))
    operation, number, _, message = struct.unpack_from("=B23x3Q", info.raw)
    if operation != ENTRY or number not in (SENDTO, SENDMSG):
        return False
    if number == SENDMSG:
        (vector,) = struct.unpack_from("=Q", memory(pid, message + 16, 8))
        (message,) = struct.unpack("=Q", memory(pid, vector, 8))
    (kind,) = struct.unpack_from("=H", memory(pid, message + 4, 2))
    return kind in CHANGES


def run(command, wanted):
    pid = os.fork()
    if pid == 0:
        ptrace(TRACEME, 0)
        os.execv(command[0], command)
    os.waitpid(pid, 0)
    ptrace(SETOPTIONS, pid, 0, TRACESYSGOOD | EXITKILL)
    seen, deliver = 0, 0
    while True:
        ptrace(SYSCALL, pid, 0, deliver)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return 1
        stop = os.WSTOPSIG(status)
        deliver = 0 if stop & ~0x80 == signal.SIGTRAP else stop
        if stop == signal.SIGTRAP | 0x80 and is_change(pid):
            seen += 1
            if seen == wanted and "INSTEAD" in os.environ:
                subprocess.run(os.environ["INSTEAD"], shell=True, check=True)
                ptrace(DETACH, pid)
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if seen == wanted:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return 0


sys.exit(run(sys.argv[2:], int(sys.argv[1])))
