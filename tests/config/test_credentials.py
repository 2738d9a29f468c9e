import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.config.credentials import credentials_of
from cortexd.config.reading import ConfigError, parse
from cortexd.config.settings import NodeSettings


class CredentialsTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "key"

    def node(self, more: str = "") -> NodeSettings:
        lines = '[[nodes]]\nname = "a"\nendpoint = "http://a:1"\nvram_mb = 1\n'
        return parse(f'{lines}api_key_file = "{self.file}"\n{more}', "f").nodes[0]

    def refusal(self) -> str:
        with self.assertRaises(ConfigError) as caught:
            credentials_of(self.node())
        return str(caught.exception).replace(str(self.file), "FILE")

    def test_none(self) -> None:
        """A node without a file for a key is sent none."""
        node = NodeSettings(name="a", endpoint="http://a:1", vram_mb=1)

        assert {} == credentials_of(node)

    def test_key(self) -> None:
        """The key goes as the node's engine has it, without the white space around it."""
        self.file.write_text("\nsk-secret\n")

        assert {"Authorization": "Bearer sk-secret"} == credentials_of(self.node())
        for more in ('dialect = "anthropic"', 'engine = "anthropic"'):
            assert {"X-Api-Key": "sk-secret"} == credentials_of(self.node(more))

    def test_no_key(self) -> None:
        """What is no key stops the start in one line, which does not tell what was found."""
        path = "nodes (a).api_key_file: FILE"
        assert f"{path} cannot be read (No such file or directory)" == self.refusal()
        for content in (b"", b" \n", b"sk secret", b"sk\nsecret", b"sk-\x00"):
            self.file.write_bytes(content)
            assert f"{path}: expected an API key on one line, without spaces" == self.refusal()
        self.file.write_bytes("schlüssel".encode())
        assert f"{path}: found characters beyond ASCII, expected an API key" == self.refusal()
