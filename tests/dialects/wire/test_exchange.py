from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes import embeddings
from cortexd.dialects.routes.speech import Speech
from cortexd.dialects.wire.exchange import Exchange, Translation, translate_for_each
from cortexd.dialects.wire.profile import MISTRALRS, Profile, Speaks
from cortexd.errors import BadRequest

ON_MESSAGES = Profile(speaks=Speaks.MESSAGES)


def translate(profile: Profile) -> Translation:
    """Make a translation for those that chat, and refuse the others."""
    if profile.speaks is Speaks.MESSAGES:
        raise BadRequest("not in Messages", param="n")
    return Translation(path="/p", body=b"{}", streams=False, make_responder=lambda: Speech("a/b"))


class TranslationsTests(SynchronousTestCase):
    def test_one_kind_refuses(self) -> None:
        """What one kind of upstream cannot take goes to the others; the first of them is first."""
        found = translate_for_each([ON_MESSAGES, MISTRALRS], translate)

        assert [MISTRALRS] == list(found.taken)
        assert "not in Messages" == found.refused[ON_MESSAGES].message
        exchange = Exchange(route="/r", model="m", streams=False, translations=found)
        assert found.taken[MISTRALRS] is exchange.first

    def test_all_refuse(self) -> None:
        """What no kind of upstream can take is refused with the words of the first."""
        with self.assertRaises(BadRequest) as caught:
            translate_for_each([ON_MESSAGES], translate)
        assert "n" == caught.exception.param

    def test_routes_without_a_translation(self) -> None:
        """What only the OpenAI dialect has cannot be asked of a node that speaks Messages."""
        request = embeddings.read_request(b'{"model":"m","input":"hi"}')
        both = request.exchange("m", [ON_MESSAGES, MISTRALRS], random_id="x", now=0)

        assert [MISTRALRS] == list(both.translations.taken)
        with self.assertRaises(BadRequest) as caught:
            request.exchange("m", [ON_MESSAGES], random_id="x", now=0)
        assert ("model", "unsupported_value") == (caught.exception.param, caught.exception.code)
        assert "speaks only Messages" in caught.exception.message
