from .split import SplitModel

__all__ = ["SplitModel"]
