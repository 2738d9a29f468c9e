"""The examples of contrib/proxies, run before a real daemon: `make proxies`."""
