"""Measurements behind the speed claims: ours and the alternative, side by side in one process."""
