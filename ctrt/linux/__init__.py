"""What the kernel offers, a module per subsystem.

Nothing here knows of containers. Only this room calls the kernel by ctypes; the others
speak in its words. Modules that the launcher uses import nothing beyond os, sys and ctypes.
"""
