"""What the tests of core share holds here too."""

from core_fixtures import one_thread, own_cache, plugins  # noqa: F401
