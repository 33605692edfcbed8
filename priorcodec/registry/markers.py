"""The two pluggy markers: `hookspec` declares a hook of this package, `hookimpl` answers one."""

import pluggy

PROJECT = "priorcodec"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
