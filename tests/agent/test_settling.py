import ctypes

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.settling import clean_mappings, settle

HEAD = "7f00000000{:02d}000-7f00000000{:02d}000 {} 00000000 08:01 42 {}\n"


def mapping(number: int, rights: str, path: str, **sizes: int) -> str:
    fields = {"Private_Dirty": 0, "Anonymous": 0, "Locked": 0, "Swap": 0} | sizes
    lines = [f"{name}:{size:16d} kB\n" for name, size in fields.items()]
    return HEAD.format(number, number + 1, rights, path) + "".join(lines) + "VmFlags: rd mr mw\n"


class SettlingTests(SynchronousTestCase):
    def test_clean_mappings(self) -> None:
        """Only unchanged mappings of files that nobody can write are given back."""
        smaps = (
            mapping(1, "r-xp", "/usr/lib/libc.so.6")
            + mapping(3, "r--p", "/usr/lib/a file.so")
            + mapping(5, "r--p", "/usr/lib/relocated.so", Private_Dirty=4)
            + mapping(7, "r--p", "/usr/lib/relocated.so", Anonymous=4)
            + mapping(9, "rw-p", "/usr/lib/data.so")
            + mapping(11, "r-xp", "/usr/lib/locked.so", Locked=4)
            + mapping(13, "r-xp", "[vdso]")
            + mapping(15, "r--p", "")
            + mapping(17, "r--s", "/shared")
        )

        assert [
            (0x7F0000000001000, 0x1000),
            (0x7F0000000003000, 0x1000),
        ] == list(clean_mappings(smaps))

    def test_the_process_goes_on(self) -> None:
        """Code that was given back is read again when it is needed."""
        settle()

        assert 3 == ctypes.CDLL(None).abs(-3)
        assert "settled".upper() == "SETTLED"
