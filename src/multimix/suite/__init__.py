"""The parts of `multimix evaluate`: what is measured of a trained classifier, kept as it is measured, and shown.

Each part is a module with one frozen dataclass, whose fields are its options.
"""
