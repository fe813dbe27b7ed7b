"""`import multimix` and a training step need torch and what torch itself needs; nothing else is even looked for."""

import subprocess
import sys
import textwrap
from importlib import metadata

import pytest

STEP = """
import multimix as mm

embeddings, labels, head = torch.randn(8, 16, requires_grad=True), torch.arange(8), torch.nn.Linear(16, 10)
loss = mm.MultiMix()(embeddings, labels, head)
loss.backward()
assert embeddings.grad.shape == (8, 16)
features = torch.randn(8, 16, 4, 4, requires_grad=True)
mm.DenseMultiMix()(features, labels, head).backward()
assert features.grad.shape == (8, 16, 4, 4)
mm.MultiMix(n=20)(embeddings, labels, torch.nn.Sequential(head, torch.nn.ReLU())).backward()
model = mm.models.SplitModel([torch.nn.Flatten()], torch.nn.Identity(), torch.nn.Linear(12, 10))
images = torch.rand(8, 3, 2, 2)
for method in (mm.methods.Erm(), mm.methods.InputMixup(), mm.methods.CutMix(), mm.methods.MultiMix()):
    method(model, images, labels).loss.backward()
assert "torch._dynamo" not in sys.modules  # the compiler takes longer to import than torch
for name in ("preactresnet10-w2", "wrn10-1", "smallnet-w2"):
    mm.models.build(name, num_classes=3, image_size=8)(torch.rand(2, 3, 8, 8))
sys.modules["torchvision"] = sys.modules["timm"] = None  # as where they are not installed
for name in ("resnet50", "timm:resnet18", "resnet18"):
    try:
        mm.models.build(name, num_classes=3, image_size=8)
    except (ImportError, ValueError) as error:
        print(name, type(error).__name__, error)

import importlib

importlib.reload(mm.kernels.ops)  # as notebooks do
importlib.reload(mm.criteria.multimix).MultiMix()(embeddings, labels, head).backward()
"""


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def required_by(distribution: str) -> set[str]:
    """A distribution and all it requires, by their normalised names."""
    found, waiting = set(), [distribution]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another platform
            continue
        waiting += [normalised(line) for line in requirements if "extra ==" not in line]
    return found


def normalised(requirement: str) -> str:
    name = "".join(c if c.isalnum() or c in "-_." else " " for c in requirement).split()[0]
    return name.lower().replace("_", "-").replace(".", "-")


def installed_besides_torch() -> list[str]:
    """Top-level modules of all that is installed here and that torch does not require."""
    allowed = {normalised(name) for name in required_by("torch")} | {"multimix"}
    return sorted(
        module
        for module, owners in metadata.packages_distributions().items()
        if module.isidentifier() and not {normalised(owner) for owner in owners} & allowed
    )


@pytest.fixture(scope="module")
def report() -> dict[str, list[str]]:
    """One fresh process in which nothing besides torch can be imported: what it looked for and what it loaded."""
    blocked = installed_besides_torch()
    assert {"numpy", "torchvision", "timm", "rich", "tyro", "sklearn", "matplotlib", "PIL", "safetensors"} <= set(
        blocked
    )
    out = run(
        f"""
        import sys

        class Blocked:
            names, wanted, active = frozenset({blocked!r}), set(), False

            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in self.names:
                    if self.active:
                        self.wanted.add(name)
                    raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

        sys.meta_path.insert(0, Blocked())
        import torch

        torch.ones(1) @ torch.ones(1)
        before, Blocked.active = set(sys.modules), True
        from multimix import *

        Blocked.active = False
        print("wanted", *sorted(Blocked.wanted))
        print("loaded", *sorted(set(sys.modules) - before))
        """
        + textwrap.indent(STEP, " " * 8)
    )
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}


def test_the_command_line_answers_before_torch_is_imported() -> None:
    out = run(
        """
        import sys
        import multimix.cli

        for arguments in (["--help"], ["--version"], ["trian"]):
            try:
                multimix.cli.main(arguments)
            except SystemExit:
                pass
        print("torch" in sys.modules, sorted(set(multimix.__all__) - set(dir(multimix))))
        """
    )
    assert out.splitlines()[-1] == "False []"


def test_training_step_with_torch_alone(report) -> None:
    # The fixture took the steps; and `import multimix` did not so much as try to import anything else.
    assert report["wanted"] == []


def test_torch_is_enough_for_the_encoders_written_here(report) -> None:
    # The fixture built and ran three; and said what the others need.
    needs = "ImportError this needs {0}, which is not installed: pip install 'multimix[train]' (in a clone: '.[train]')"
    assert " ".join(report["resnet50"]) == needs.format("torchvision")
    assert " ".join(report["timm:resnet18"]) == needs.format("timm")
    assert " ".join(report["resnet18"]).startswith("ValueError unknown model 'resnet18'")


def test_import_loads_nothing_heavy(report) -> None:
    loaded = report["loaded"]
    assert "multimix.criteria.multimix" in loaded
    foreign = [name for name in loaded if name.partition(".")[0] not in {*sys.stdlib_module_names, "multimix"}]
    heavy = [
        name for name in foreign if not name.startswith("torch.") or name.split(".")[1] in {"_dynamo", "_inductor"}
    ]
    assert heavy == []
    own = {name.split(".")[1] for name in loaded if name.startswith("multimix.")}
    assert not own & {"training", "data", "evaluation", "reports", "recipes", "cli", "benchmarking"}


def test_public_names() -> None:
    import multimix as mm

    assert {"MultiMix", "DenseMultiMix", "functional", "methods", "models", "__version__"} <= set(mm.__all__)
    assert all(hasattr(mm, name) for name in mm.__all__)
    functions = {"sample_weights", "interpolate", "attention_map", "attend", "mixed_cross_entropy"}
    assert functions <= set(mm.functional.__all__)
    assert all(callable(getattr(mm.functional, name)) for name in mm.functional.__all__ if not name.isupper())


def test_a_method_that_is_looked_for_in_the_wrong_place_is_named() -> None:
    import multimix

    with pytest.raises(AttributeError, match=r"has no attribute 'CutMix': did you mean multimix\.methods\.CutMix\?"):
        _ = multimix.CutMix
    with pytest.raises(AttributeError, match=r"has no attribute 'CatMix'$"):
        _ = multimix.CatMix
