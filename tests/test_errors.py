import re

from twisted.trial.unittest import SynchronousTestCase

from cortexd import errors
from cortexd.errors import BadRequest, CortexError, MethodNotAllowed, Overloaded

ROW = re.compile(r"^(\w+) +(\d{3})(?:/(\d{3}))? +(\w+) +(\w+)(?: / (\w+))?$", re.MULTILINE)


def documented() -> dict[str, tuple[int, int | None, str, str, str | None]]:
    """Return what the module's own table says of each class."""
    return {
        name: (int(status), int(other) if other else None, anthropic, openai, code or None)
        for name, status, other, anthropic, openai, code in ROW.findall(errors.__doc__ or "")
    }


def classes(root: type[CortexError] = CortexError) -> list[type[CortexError]]:
    """Return every class of the tree below its root; a room may have special ones of its own."""
    found = [kind for child in root.__subclasses__() for kind in (child, *classes(child))]
    return [kind for kind in found if kind.__module__ == errors.__name__]


class TreeTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Each error has the status and types that the module's table gives it, and none lacks."""
        found = {
            kind.__name__: (
                kind.status,
                kind.anthropic_status,
                kind.anthropic_type,
                kind.openai_type,
                kind.openai_code,
            )
            for kind in classes()
        }

        assert documented() == found

    def test_blame(self) -> None:
        """What the client did wrong is a 4xx of the OpenAI SDK's own types, the rest a 5xx."""
        for kind in classes():
            assert (kind.status < 500) == (kind.openai_type != "server_error"), kind

    def test_words_for_people(self) -> None:
        """Every class says in one sentence when it is raised."""
        for kind in classes():
            assert kind.__doc__, kind
            assert kind.__doc__.startswith("Raised "), kind


class CortexErrorTests(SynchronousTestCase):
    def test_bare(self) -> None:
        """An error has its class's code, and blames no field and no node unless told to."""
        error = Overloaded("all slots are in use")

        assert "all slots are in use" == str(error) == error.message
        assert "overloaded" == error.code
        assert (None, None, False, ()) == (
            error.param,
            error.retry_after,
            error.elsewhere,
            error.allow,
        )

    def test_own_code(self) -> None:
        """A code given to one error replaces its class's, for that error only."""
        assert "unsupported_value" == BadRequest("no", code="unsupported_value").code
        assert None is BadRequest("no").code

    def test_allowed_methods(self) -> None:
        """A refused method comes with those that are taken."""
        assert ("GET", "HEAD") == MethodNotAllowed("no POST here", allow=("GET", "HEAD")).allow
