"""How long an input takes says more of the machine than of the code: no property test has a deadline."""

import hypothesis

hypothesis.settings.register_profile("flashlight", deadline=None)
hypothesis.settings.load_profile("flashlight")
