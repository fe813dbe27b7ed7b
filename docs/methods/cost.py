"""Write the measured cost of every method into its card: `python docs/methods/cost.py benchmarks/results/FILE...`.

The files are what `multimix bench methods --json` wrote. The paragraph `**Cost.**` of a card is replaced with
its table, or put before `**When.**`.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOISE = "good to about a twentieth (PreActResNet-18) or a tenth (the others), so that more than 1 is noise"


def main(files: list[str]) -> None:
    found: dict[str, dict[str, dict[str, str]]] = {}  # by card, method and setting
    machines: dict[str, str] = {}
    for file in files:
        result = json.loads(Path(file).read_text())
        setting, machine = result["setting"], result["machine"]
        side = setting["image_size"]
        where = f"{setting['model'].removeprefix('timm:')}, {side}x{side}, b = {setting['batch_size']}"
        processor = machine["cpu"].replace("(R)", "").removesuffix(" Processor")
        threads = f"{machine['threads']} thread{'s' if machine['threads'] != '1' else ''} of an {processor}"
        machines[where] = f"{machine.get('gpu') or threads}, {machine['date']}"
        for row in result["methods"]:
            if row["relative"] is not None:
                card = row["method"].split("(")[0].removesuffix("-alone").removesuffix("-small-alpha")
                method = re.sub(r'\(\w+=".*', "", row["method"])  # options that name files
                found.setdefault(card, {}).setdefault(method, {})[where] = f"{row['relative']:.2f}"
    for path in sorted(HERE.glob("*.md")):
        methods = found.get(path.stem)
        if methods is None or path.stem == "erm":
            continue
        settings = [where for where in machines if any(where in speeds for speeds in methods.values())]
        rows = [["", *settings], ["---"] * (len(settings) + 1)]
        rows += [[f"`{name}`", *(speeds.get(where, "–") for where in settings)] for name, speeds in methods.items()]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        where = "; ".join(sorted({machines[setting] for setting in settings}))
        text = re.sub(r"\*\*Cost\.\*\*.*?(?=\*\*When\.\*\*)", "", path.read_text(), flags=re.DOTALL)
        cost = (
            f"**Cost.** Speed of whole training steps as a share of ERM's ({where}; {NOISE}: "
            f"[the benchmark](../../benchmarks/README.md)).\n\n{table}\n\n"
        )
        path.write_text(text.replace("**When.**", cost + "**When.**", 1))


if __name__ == "__main__":
    main(sys.argv[1:])
