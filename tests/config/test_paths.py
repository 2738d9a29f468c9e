from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import paths

ROOT = 0
USER = 1000
HOME = {"HOME": "/people/ada"}
XDG = HOME | {
    "XDG_STATE_HOME": "/data/state",
    "XDG_RUNTIME_DIR": "/run/user/1000",
    "XDG_CONFIG_HOME": "/data/config",
}
SYSTEMD = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "RUNTIME_DIRECTORY": "/run/a:/run/b"}


def homeless(find: Callable[[dict[str, str], int], Path], environ: dict[str, str]) -> str:
    """Return what a user in this environment is told when a directory is asked for."""
    try:
        found = find(environ, USER)
    except paths.NoHomeError as error:
        return str(error)
    raise AssertionError(f"found {found}")


class StateDirectoryTests(SynchronousTestCase):
    def test_systemd(self) -> None:
        """The first directory systemd gives the unit wins, for root as for a dynamic user."""
        for uid in (ROOT, USER):
            assert Path("/var/lib/a") == paths.state_dir(XDG | SYSTEMD, uid)

    def test_root(self) -> None:
        """Root keeps state in the system's directory, whatever its XDG variables say."""
        assert Path("/var/lib/cortex") == paths.state_dir(XDG, ROOT)

    def test_user(self) -> None:
        """A user keeps state under XDG_STATE_HOME."""
        assert Path("/data/state/cortex") == paths.state_dir(XDG, USER)

    def test_user_without_xdg(self) -> None:
        """A user without XDG_STATE_HOME, or with an empty or relative one, keeps it under HOME."""
        for environ in (HOME, HOME | {"XDG_STATE_HOME": ""}, HOME | {"XDG_STATE_HOME": "state"}):
            assert Path("/people/ada/.local/state/cortex") == paths.state_dir(environ, USER)

    def test_homeless(self) -> None:
        """A user without any directory is told which variables and key would name one."""
        environments: list[dict[str, str]] = [{}, {"HOME": ""}, {"HOME": "relative"}]
        for environ in environments:
            message = homeless(paths.state_dir, environ)
            for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME", "gateway.state_dir"):
                assert name in message


class ControlSocketTests(SynchronousTestCase):
    def test_systemd(self) -> None:
        """The socket lies in the first runtime directory systemd gives the unit."""
        for uid in (ROOT, USER):
            assert Path("/run/a/control.sock") == paths.control_socket(XDG | SYSTEMD, uid)

    def test_root(self) -> None:
        """Root's socket lies in the system's runtime directory."""
        assert Path("/run/cortex/control.sock") == paths.control_socket(XDG, ROOT)

    def test_user(self) -> None:
        """A user's socket lies in the user's runtime directory."""
        assert Path("/run/user/1000/cortex/control.sock") == paths.control_socket(XDG, USER)

    def test_user_without_runtime_directory(self) -> None:
        """Without a runtime directory a user's socket lies with the state."""
        expected = Path("/people/ada/.local/state/cortex/control.sock")
        for environ in (HOME, HOME | {"XDG_RUNTIME_DIR": "run"}):
            assert expected == paths.control_socket(environ, USER)

    def test_unit_with_state_directory_only(self) -> None:
        """A unit with a state directory but no runtime directory has its socket with the state."""
        environ = {"STATE_DIRECTORY": "/var/lib/a"}
        assert Path("/var/lib/a/control.sock") == paths.control_socket(environ, USER)

    def test_homeless(self) -> None:
        """A user without any directory has no place for the socket either."""
        assert homeless(paths.state_dir, {}) == homeless(paths.control_socket, {})


class SocketCandidatesTests(SynchronousTestCase):
    def test_chosen(self) -> None:
        """CORTEX_SOCKET is the only place looked at, relative to the client if it is relative."""
        for chosen in ("/tmp/x/control.sock", "control.sock"):  # noqa: S108 -- only a name here
            environ = XDG | {"CORTEX_SOCKET": chosen}
            assert (Path(chosen),) == paths.socket_candidates(environ, USER)

    def test_user(self) -> None:
        """The user's own daemon is looked for before the system's."""
        expected = (
            Path("/run/user/1000/cortex/control.sock"),
            Path("/run/cortex/control.sock"),
        )
        assert expected == paths.socket_candidates(XDG, USER)
        assert expected == paths.socket_candidates(XDG | {"CORTEX_SOCKET": ""}, USER)

    def test_root(self) -> None:
        """Root looks at the system's socket once."""
        assert (Path("/run/cortex/control.sock"),) == paths.socket_candidates(XDG, ROOT)

    def test_homeless(self) -> None:
        """A user without any directory can still reach the system's daemon."""
        assert (Path("/run/cortex/control.sock"),) == paths.socket_candidates({}, USER)

    def test_own_daemon_is_found(self) -> None:
        """A client in the daemon's environment looks first where that daemon listens."""
        for environ in (HOME, XDG, XDG | SYSTEMD):
            for uid in (ROOT, USER):
                first = paths.socket_candidates(environ, uid)[0]
                assert paths.control_socket(environ, uid) == first


class ConfigCandidatesTests(SynchronousTestCase):
    def test_user(self) -> None:
        """A user's own configuration comes before the system's."""
        expected = (Path("/data/config/cortex/cortex.toml"), Path("/etc/cortex/cortex.toml"))
        assert expected == paths.config_candidates(XDG, USER)

    def test_user_without_xdg(self) -> None:
        """Without XDG_CONFIG_HOME a user's configuration lies under HOME."""
        assert (
            Path("/people/ada/.config/cortex/cortex.toml") == paths.config_candidates(HOME, USER)[0]
        )

    def test_root(self) -> None:
        """For root the system's configuration comes first."""
        expected = (Path("/etc/cortex/cortex.toml"), Path("/people/ada/.config/cortex/cortex.toml"))
        assert expected == paths.config_candidates(HOME, ROOT)

    def test_homeless(self) -> None:
        """Without any home there is the system's configuration."""
        assert (Path("/etc/cortex/cortex.toml"),) == paths.config_candidates({}, USER)
