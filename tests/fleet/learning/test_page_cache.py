"""Tests of which models a node is expected to have in its page cache."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.learning.page_cache import MOST_MODELS, PageCache


class PageCacheTests(SynchronousTestCase):
    def test_what_was_loaded_is_there(self) -> None:
        """Before any load has shown otherwise, the cache has all that was loaded."""
        cache = PageCache()
        cache.put("a", 10)

        assert cache.has("a")
        assert not cache.has("b")

    def test_depth_is_what_was_loaded_since(self) -> None:
        """A model lies below those that were loaded after it, each of which counts once."""
        cache = PageCache()
        for model in ("a", "b", "c", "b"):
            cache.put(model, 10)

        assert (30, 10, 20, None) == tuple(cache.depth_mb(each) for each in "abcd")

    def test_its_reach_is_learned(self) -> None:
        """What lies deeper than a model that was lost is expected lost; what lies higher is not."""
        cache = PageCache()
        for model in ("a", "b", "c", "d"):
            cache.put(model, 10)
        cache.learn("c", was_warm=True)
        cache.learn("b", was_warm=False)

        assert [False, False, True, True] == [cache.has(each) for each in "abcd"]

    def test_a_reach_that_has_changed_is_learned_anew(self) -> None:
        """A load that contradicts earlier ones counts, and they do not."""
        cache = PageCache()
        for model in ("a", "b", "c", "d"):
            cache.put(model, 10)
        cache.learn("c", was_warm=False)
        cache.learn("a", was_warm=True)
        assert cache.has("a")

        cache.learn("d", was_warm=False)
        assert not cache.has("a")

    def test_it_is_bounded(self) -> None:
        """Of more models than can be followed, those loaded longest ago are lost."""
        cache = PageCache()
        for number in range(MOST_MODELS + 1):
            cache.put(str(number), 1)

        assert not cache.has("0")
        assert cache.has("1")
