"""Listeners without keys: fine, open with a warning, or refused."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from cortexd.config.exposure import FINE, Exposure, exposure
from cortexd.config.reading import ConfigError
from cortexd.config.settings import Config

NODE = '[[nodes]]\nname = "a"\nendpoint = "http://10.0.0.1:8080"\nvram_mb = 1000\n'
BEYOND = 'listen = "0.0.0.0:8000"'
PASSED = 'listen = "systemd:domain=INET:name=http"'
OLDER = """
[gateway]
listen = "0.0.0.0:8000"
metrics_listen = "0.0.0.0:9100"
"""


def read(gateway: str = "", auth: str | None = None) -> Config:
    table = "" if auth is None else f"[auth]\n{auth}\n"
    return reading.parse(f"[gateway]\n{gateway}\n{table}{NODE}", "test")


class ExposureTests(SynchronousTestCase):
    def refusal(self, gateway: str, auth: str) -> str:
        return str(self.assertRaises(ConfigError, read, gateway, auth))

    def test_loopback(self) -> None:
        """Without keys as before, whether the file has the table or not."""
        for auth in (None, "", "open = true"):
            assert FINE == exposure(read(auth=auth))

    def test_proxies(self) -> None:
        """A proxy on this machine brings clients of others to a listener on loopback."""
        proxies = 'trusted_proxies = ["127.0.0.1"]'
        warning = exposure(read(proxies)).warning
        assert warning is not None
        assert warning.startswith('open: gateway.trusted_proxies = ["127.0.0.1"] admits every')
        assert exposure(read(proxies, "open = true")).warning is not None
        assert FINE == exposure(read(proxies, 'keys_file = "/etc/cortex/keys.toml"'))
        words = self.refusal(proxies, "")
        assert 'gateway.trusted_proxies: found ["127.0.0.1"], expected no proxies' in words
        assert "keys_file" in words

    def test_an_endpoint_for_a_proxy(self) -> None:
        """Where each connection begins with a PROXY header, a proxy brings clients of others."""
        for key in ("listen", "http_listen"):
            for plain in ("tcp:8000:interface=127.0.0.1", "unix:/run/cortex/http.sock"):
                proxied = f'{key} = "haproxy:{plain}"'
                warning = exposure(read(proxied)).warning
                assert warning is not None, proxied
                assert warning.startswith(f'open: gateway.{key} = "haproxy:'), warning
                assert f'gateway.{key}: found "haproxy:' in self.refusal(proxied, "")
                assert FINE == exposure(read(proxied, 'keys_file = "/etc/cortex/keys.toml"'))

    def test_keys(self) -> None:
        """With a keys file each address is fine."""
        assert FINE == exposure(read(BEYOND, 'keys_file = "/etc/cortex/keys.toml"'))

    def test_a_file_that_is_older_than_keys(self) -> None:
        """It starts, and the warning says what to do."""
        warning = exposure(reading.parse(OLDER + NODE, "test")).warning
        assert warning is not None
        assert warning.startswith('open: gateway.listen = "0.0.0.0:8000" admits every client')
        for words in ("keys_file", "cortexctl key add", "open = true"):
            assert words in warning

    def test_a_file_with_the_table(self) -> None:
        """It is refused, with the three ways out."""
        words = self.refusal(BEYOND, "")
        assert words.startswith('test: gateway.listen: found "0.0.0.0:8000", expected an address')
        for way in ("loopback", "keys_file", "cortexctl key add", "open = true"):
            assert way in words

    def test_open(self) -> None:
        """It is meant, and warns all the same."""
        warning = exposure(read(BEYOND, "open = true")).warning
        assert warning is not None
        assert warning.endswith("without a key (open = true)")

    def test_a_socket_of_systemd(self) -> None:
        """It is judged once its address is known."""
        strict, older = read(PASSED, ""), read(PASSED)
        key = "gateway.listen"
        assert FINE == exposure(strict) == exposure(strict, {key: "127.0.0.1"})
        refused = exposure(strict, {key: "0.0.0.0"}).refused
        assert refused is not None
        assert 'found "systemd:domain=INET:name=http", which is 0.0.0.0, expected' in refused
        assert exposure(older, {key: "::"}).warning is not None

    def test_metrics(self) -> None:
        """Their address is no part of the rule."""
        assert FINE == exposure(read('metrics_listen = "0.0.0.0:9100"', ""))

    def test_plain_http_beside_tls(self) -> None:
        """It is for this machine alone, whatever the keys."""
        keys = 'keys_file = "/etc/cortex/keys.toml"'
        for listen in ("0.0.0.0:8080", "ssl:8443:interface=127.0.0.1:privateKey=/k.pem"):
            words = self.refusal(f'http_listen = "{listen}"', keys)
            assert f'gateway.http_listen: found "{listen}", expected an address on loop' in words
        passed = read('http_listen = "systemd:domain=INET:name=plain"', keys)
        assert FINE == exposure(passed, {"gateway.http_listen": "127.0.0.1"})
        refused = exposure(passed, {"gateway.http_listen": "10.0.0.7"}).refused
        assert refused is not None
        assert "which is 10.0.0.7" in refused

    def test_the_sample(self) -> None:
        """It is strict: an installation that follows it does not open by mistake."""
        sample = Path(__file__).parents[2].joinpath("etc/cortex.toml").read_text("utf-8")
        opened = sample.replace("#listen = ", "listen = ").replace("127.0.0.1:8000", "0.0.0.0:8000")
        error = self.assertRaises(ConfigError, reading.parse, opened, "sample")
        assert "keys_file in [auth]" in str(error)
        assert Exposure() == exposure(reading.parse(sample, "sample"))


class ListenersTests(SynchronousTestCase):
    def test_wrong_listeners(self) -> None:
        """TLS by half or twice, and addresses that overlap, name the key."""
        for gateway, words in (
            ('tls_key = "/k.pem"', "gateway.tls_certificate: missing, expected a file beside"),
            ('tls_certificate = "/c.pem"', "gateway.tls_key: missing, expected a file beside"),
            (
                'tls_certificate = "/c.pem"\ntls_key = "/k.pem"\nlisten = "ssl:8443:/k.pem"',
                'gateway.tls_certificate: found "/c.pem", expected no such key with TLS in',
            ),
            ('listen = "ssl:1:sslmethod=TLSv1_METHOD"', "gateway.listen: "),
            ('http_listen = "127.0.0.1:8000"', "gateway.http_listen: found"),
            ('http_listen = "127.0.0.1:9100"', "gateway.metrics_listen: found"),
        ):
            error = self.assertRaises(ConfigError, read, gateway)
            assert f"test: {words}" in str(error), error

    def test_wrong_listeners_of_agents(self) -> None:
        """They have an address of their own, and all files of TLS or none."""
        for keys, words in (
            ('listen = "127.0.0.1:8000"', "agents.listen: found"),
            ('listen = ":9100"', "agents.listen: found"),
            ('listen = "unix:/run/agents.sock"', "agents.listen: found"),
            ('listen = "ssl:8700:/k.pem"', "agents.listen: found"),
            ('listen = "haproxy:tcp:8700"', "agents.listen: found"),
            ('key = "/k.pem"\nca = "/ca.pem"', "agents.certificate: missing, expected a file"),
            ('certificate = "/c.pem"\nkey = "/k.pem"', "agents.ca: missing, expected a file"),
            ('names = ["*.example.com"]', "agents.names[0]: found"),
        ):
            text = f"[agents]\n{keys}\n{NODE}"
            error = self.assertRaises(ConfigError, reading.parse, text, "test")
            assert f"test: {words}" in str(error), error
        fine = '[agents]\nlisten = "systemd:domain=INET:name=agents"\nnames = ["GW", "10.0.0.1"]\n'
        assert ("gw", "10.0.0.1") == reading.parse(f"{fine}{NODE}", "test").agents.names
