"""Write the measured cost of every method into its card: `python docs/methods/cost.py benchmarks/results/FILE...`.

The files are what `multimix bench methods --json` wrote. The paragraph `**Cost.**` of a card is replaced, or put before
`**When.**`.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(files: list[str]) -> None:
    found: dict[str, list[str]] = {}
    for file in files:
        result = json.loads(Path(file).read_text())
        setting, machine = result["setting"], result["machine"]
        where = f"{setting['model']}, {setting['image_size']}x{setting['image_size']}, b = {setting['batch_size']}"
        device = machine.get("gpu") or f"{machine['threads']} CPU thread{'s' if machine['threads'] != '1' else ''}"
        for row in result["methods"]:
            if row["relative"] is not None:
                card = row["method"].split("(")[0].removesuffix("-alone").removesuffix("-small-alpha")
                method = re.sub(r'\(\w+=".*', "", row["method"])  # options that name files
                label = "" if method == card else f"`{method}`: "
                found.setdefault(card, []).append(f"{label}{row['relative']:.2f} of ERM's speed ({where}, {device})")
    for path in sorted(HERE.glob("*.md")):
        measured = found.get(path.stem)
        if measured is None or path.stem == "erm":
            continue
        text = re.sub(r"\*\*Cost\.\*\*.*?\n\n", "", path.read_text(), flags=re.DOTALL)
        source = "[the benchmark](../../benchmarks/README.md)"
        noise = "good to about a twentieth (PreActResNet-18) or a tenth (the others), so that more than 1 is noise"
        cost = f"**Cost.** {'; '.join(measured)}. Whole training steps, {noise}: {source}.\n\n"
        path.write_text(text.replace("**When.**", cost + "**When.**", 1))


if __name__ == "__main__":
    main(sys.argv[1:])
