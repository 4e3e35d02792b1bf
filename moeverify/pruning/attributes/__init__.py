"""Sizes that modules, and the settings objects they share, keep as attributes: found, proposed and set.

``slots`` finds the whole numbers, ``proposals`` those that repeat a size which a plan changes. ``assignment`` finds
those that must change for the forward to run as before; ``change`` sets them and undoes it.
"""
