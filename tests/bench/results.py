"""What is kept of a run: rows beside those that were there before, the bars, tables and a chart."""
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess

from rows import BARS, ROWS

HERE = os.path.dirname(os.path.abspath(__file__))
KEY = ("name", "arch", "who", "cache", "fs")
PATHS = {end: os.path.join(HERE, "results." + end) for end in ("json", "md", "svg")}


def key(row):
    return tuple(row[word] for word in KEY)


def row(cell, run):
    """The figures of a cell, in seconds and bytes."""
    median, cpu = statistics.median(cell.wall), statistics.median(cell.cpu)
    return {**dict(zip(KEY, cell.key())), "runs": len(cell.wall), "median": round(median, 4), "shortest": round(min(cell.wall), 4),
            "longest": round(max(cell.wall), 4), "cpu": round(cpu, 4), "peak": max(cell.peak), "bytes": cell.bytes, "run": run,
            "walls": [round(wall, 4) for wall in cell.wall], "cpus": [round(cpu, 4) for cpu in cell.cpu]}


def last():
    """The rows and the tables of stages that were kept."""
    if not os.path.exists(PATHS["json"]):
        return [], {}
    with open(PATHS["json"]) as file:
        kept = json.load(file)
    return [row for row in kept["results"] if "run" in row], kept.get("stages", {})


def merge(before, now):
    """The rows of both, those of now in place of the same of before, in the order of ROWS."""
    rows = {**{key(row): row for row in before}, **{key(row): row for row in now}}
    names = [name for name, *_ in ROWS]
    return sorted((row for row in rows.values() if row["name"] in names), key=lambda row: (row["fs"] != "tmpfs", names.index(row["name"])))


def seconds(value):
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def table(rows, before):
    """The rows, with what was kept before beside."""
    old = {key(row): row for row in before}
    lines = ["| | arch | as | cache | on | wall, s, median (of) | user + sys, s | peak, MiB | s a 100 MB | last | ratio |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for now in rows:
        was = old.get(key(now))
        ratio = f"{seconds(was['median'])} | {now['median'] / was['median']:.2f}" if was and was["run"] != now["run"] else " | "
        per = f"{now['median'] / (now['bytes'] / 1e8):.2f}" if now["bytes"] else ""
        spread = f"{seconds(now['median'])} ({seconds(now['shortest'])} to {seconds(now['longest'])}, {now['runs']})"
        lines.append(f"| {now['name']} | {now['arch']} | {now['who']} | {now['cache']} | {now['fs']} | {spread} | {seconds(now['cpu'])} "
                     f"| {now['peak'] >> 20} | {per} | {ratio} |")
    return "\n".join(lines) + "\n"


def shown(how, value):
    digits = {"ratio": 2, "ms more each": 2, "MiB": 0, "s": 3}[how]
    return f"{value:.{digits}f}"


UNITS = {"ratio": " ×"}


def compared(how, what, ours, theirs):
    """What a bar is about, round by round: what the machine does besides falls on both rows of a round."""
    if what == "peak":
        return [ours["peak"] / (1 << 20)]
    own = ours.get(what + "s", [])
    if how == "s":
        return own
    pairs = zip(own, theirs.get(what + "s", []))
    # A row of a hundred runs.
    return [a / b if how == "ratio" else (a - b) * 10 for a, b in pairs]


def bars(rows, before):
    """The bars: what each is now, the median of the rounds with the least and the most, whether that is met, and what it was in the
    run that was kept before. Two rows are compared only where one run measured both."""
    found, kept = ({key(row): row for row in some} for some in (rows, before))
    lines = ["| | arch | compared with | is (of the rounds) | bar | | before | by user + sys |", "|---|---|---|---|---|---|---|---|"]
    for name, arch, what, other, how, most in BARS:
        def values(of, what):
            at = lambda name, who: of.get((name, arch, who, "warm", "tmpfs"))
            ours, theirs = at(name, "user" if name == other else "root"), other and at(other, "root")
            if not ours or (other and (not theirs or theirs["run"] != ours["run"])):
                return []
            return compared(how, what, ours, theirs)
        what = "wall" if what == "median" else what
        now, was = values(found, what), values(kept, what)
        peak, unit = " (peak)" if what == "peak" else "", UNITS.get(how, " " + how)
        start = f"| {name}{peak}{', as a user' if name == other else ''} | {arch} | {other or ''} |"
        wanted = f"≤ {shown(how, most) if how == 'ratio' else most}{unit}"
        if not now:
            lines.append(f"{start} | {wanted} | not measured | | |")
            continue
        value = statistics.median(now)
        spread = f" ({shown(how, min(now))} to {shown(how, max(now))}, {len(now)})" if len(now) > 1 else ""
        earlier = f"{shown(how, statistics.median(was))}{unit}" if was and was != now else ""
        # What other programs of the machine do, does not change that much.
        cpu = f"{shown(how, statistics.median(values(found, 'cpu')))}{unit}" if what == "wall" else ""
        met = "met" if value <= most else "**not met**"
        lines.append(f"{start} {shown(how, value)}{unit}{spread} | {wanted} | {met} | {earlier} | {cpu} |")
    return "\n".join(lines) + "\n"


def chart(rows):
    """A bar a row: the median, a line from the shortest to the longest, and a mark at user + sys."""
    most = max(max(row["longest"], row["cpu"]) for row in rows)
    x = lambda seconds: 440 + seconds / most * 440
    parts = []
    for n, row in enumerate(rows):
        y = 30 + n * 22
        text = f"{row['name']} ({row['arch']}, {row['who']}, {row['cache']}, {row['fs']})".replace("&", "&amp;").replace("<", "&lt;")
        parts.append(f'<text x="432" y="{y + 12}" text-anchor="end">{text}</text>'
                     f'<rect x="440" y="{y}" width="{x(row["median"]) - 440:.1f}" height="14" '
                     f'fill="{"#2a78d6" if text.startswith("ours") else "#898781"}"/>'
                     f'<path d="M{x(row["shortest"]):.1f} {y + 7}H{x(row["longest"]):.1f}" stroke="#000"/>'
                     f'<path d="M{x(row["cpu"]):.1f} {y - 2}v18" stroke="#d64a2a" stroke-width="2"/>'
                     f'<text x="{x(max(row["longest"], row["cpu"])) + 6:.1f}" y="{y + 12}">{seconds(row["median"])}</text>')
    height = 40 + len(rows) * 22
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{height}" font-family="sans-serif" font-size="11">'
            f'<rect width="960" height="{height}" fill="#fff"/><text x="440" y="16">seconds: bar the median, black the spread, red user + sys'
            f'</text>{"".join(parts)}</svg>\n')


def host():
    """The machine, and the programs that ours are compared with."""
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    with open("/proc/meminfo") as file:
        memory = int(re.search(r"MemTotal: *(\d+)", file.read())[1]) >> 10
    programs = {}
    for name in ("pacman", "gpg", "pacstrap", "zstd", "bwrap", "mmdebstrap", "mkosi", "qemu-aarch64-static"):
        out = subprocess.run([name, "--version"], capture_output=True, text=True, check=False) if shutil.which(name) else None
        found = re.search(r"\d+(\.\d+)+", out.stdout) if out else None
        programs[name] = found[0] if found else None
    return {"cpus": os.cpu_count(), "model": model[1] if model else "", "memory": memory, "kernel": platform.release(),
            "load": round(os.getloadavg()[0], 1), "programs": programs}


def head():
    """The commit that is measured."""
    command = ["git", "-C", HERE, "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def write(name, content):
    """Writes a file beside this one for each ending, whole or not at all."""
    for end, text in content.items():
        path = os.path.join(HERE, f"{name}.{end}")
        with open(path + ".new", "w") as file:
            file.write(text)
        os.replace(path + ".new", path)


def keep(rows, before, stages, command, machine):
    """Writes the three files. Each appears whole, or stays as it was."""
    day, commit = datetime.date.today().isoformat(), head()
    programs = ", ".join(f"{name} {version}" for name, version in machine["programs"].items() if version)
    where = (f"{machine['cpus']} × {machine['model']}, {machine['memory']} MiB, Linux {machine['kernel']}, load {machine['load']} at the "
             f"start; {programs}.")
    text = f"# {day}, `{command}`, {commit}\n\n{where}\n\n## Bars\n\n{bars(rows, before)}\n## Rows\n\n{table(rows, before)}"
    text += "".join(f"\n## Where the time goes: {arch}\n\n{lines}" for arch, lines in stages.items())
    kept = {"date": day, "commit": commit, "command": command, "host": machine, "results": rows, "stages": stages}
    content = {"json": json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "md": text, "svg": chart(rows)}
    write("results", content)
