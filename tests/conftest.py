"""Settings of all tests."""

from hypothesis import settings

# How long an example takes says nothing here: the machine may be busy with something else.
settings.register_profile("i2am", deadline=None)
settings.load_profile("i2am")
