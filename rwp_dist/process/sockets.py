"""A folder for multiprocessing's sockets, whose path is short enough.

A Unix socket's path has at most 107 bytes, and batch systems make folders of 90 for TMPDIR, where
multiprocessing puts its sockets. In a data worker that cannot make one, the thread that sends
batches ends, and the rank would wait for ever.
"""

import multiprocessing.util
import os
import tempfile
from multiprocessing.connection import Listener

LONGEST = 107 - len("/pymp-12345678/listener-12345678")
"""Most bytes in the path of a folder for sockets."""

SHORT = ("/tmp", "/var/tmp", "/dev/shm")


def can_make_sockets() -> bool:
    """Whether this process and those that it forks can make sockets; finds a folder for them.

    It is TMPDIR if that is short enough. Otherwise only sockets go to another one.
    """
    usual = tempfile.tempdir
    try:
        if len(os.fsencode(tempfile.gettempdir())) > LONGEST:
            tempfile.tempdir = next(folder for folder in SHORT if os.access(folder, os.W_OK))
        # multiprocessing makes its folder once. Made here, it is that of all workers too, and gone
        # when this process ends.
        multiprocessing.util.get_temp_dir()
        Listener(family="AF_UNIX").close()
    except (OSError, StopIteration):  # also if somebody has removed the folder by now
        return False
    finally:
        tempfile.tempdir = usual
    return True
