# SPDX-License-Identifier: Apache-2.0
"""All scenes, in the order of the recording."""
import scenes_http              # noqa: F401
import scenes_config            # noqa: F401
import scenes_states            # noqa: F401
import scenes_cmdline           # noqa: F401
import scenes_snapshot          # noqa: F401
import scenes_remote            # noqa: F401
import scenes_hotplug           # noqa: F401
