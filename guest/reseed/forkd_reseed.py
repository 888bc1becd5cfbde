# SPDX-License-Identifier: Apache-2.0
"""Gives a warm Python interpreter random numbers of its own when its machine is cloned (docs/identity.md).

Put this file and forkd_reseed.pth into a folder of site-packages: each interpreter then registers with the guest's agent for a
signal, which comes before the clone's processes go on. What was seeded for the whole process is seeded anew: the functions of
`random` and of `numpy.random`, names of `tempfile`, OpenSSL, the node of `uuid1`. Objects that a program has made and seeded
itself are left alone. FORKD_RESEED=0 in the environment turns it off; where no agent is, nothing happens.
"""
import os
import sys

DIRECTORY = "/run/forkd/notify.d"


def reseed(*_):
    """Also for programs that notice a clone in another way. Only what was imported is touched."""
    modules = sys.modules.get
    if random := modules("random"):
        random.seed()
    if numpy_random := modules("numpy.random"):
        numpy_random.seed()
    if tempfile := modules("tempfile"):
        tempfile._name_sequence = None
    if uuid := modules("uuid"):
        uuid._node = None
    if ssl := modules("_ssl"):
        ssl.RAND_add(os.urandom(32), 32.0)   # the generators of all threads see that, and ask the kernel


def register():
    """Once in each process: the lock, by which the agent knows the process, is not inherited."""
    import atexit
    import fcntl
    import signal
    number = signal.SIGRTMIN + 7
    path = os.path.join(DIRECTORY, f"python-{os.getuid()}-{os.getpid()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    signal.signal(number, reseed)
    signal.siginterrupt(number, False)
    os.write(fd, b"%d\n" % number)
    me = os.getpid()

    def remove():
        if os.getpid() == me:
            try:
                os.unlink(path)
            except OSError:
                pass
    atexit.register(remove)


def _try_to_register():
    try:
        register()
    except (OSError, ValueError, ImportError):
        pass    # no right to, or not in the main thread: an interpreter must start nevertheless


if os.environ.get("FORKD_RESEED") != "0" and os.path.isdir(DIRECTORY):
    _try_to_register()
    os.register_at_fork(after_in_child=_try_to_register)
