"""crc32 by ISA-L, ten times as fast as zlib's, which takes its place where ISA-L does not exist."""

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
