"""Properties run without deadlines: a slow core is no failure of the protocol."""

from hypothesis import settings

settings.register_profile("protocol", deadline=None, max_examples=100)
settings.load_profile("protocol")
