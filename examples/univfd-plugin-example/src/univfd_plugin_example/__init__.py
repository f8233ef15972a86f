"""Plug-ins for UnivFD. Nothing is imported until a name of theirs is asked for."""
