"""Tables as a paper prints them: LaTeX that compiles, Markdown, and captions that say how to make them again."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dua_lightning.commands import report
from dua_lightning.errors import InputError
from dua_lightning.report import paper, reduce, runs
from dua_lightning.report.document import Printed, Table
from dua_lightning.report.paper import Made
from tests.report import folders
from tests.report.test_tables import made

ENGINE = next(filter(None, map(shutil.which, ("pdflatex", "tectonic"))), None)
MADE = Made("Seed 1; 3 users; 1 draw of each.", ["dua 'seed=[1,2]'"])
AWKWARD = st.text(st.sampled_from("\\{}$&#%_~^<>|[]*\"'`-±aé \n"), min_size=1, max_size=12)
NAMES = ("rows", "ledger", "differences", "extremes", "by_user", "training", "adaptation", "privacy")


def table(names: list[str], formats: dict[str, str] | None = None) -> Table:
    """A table of names with accuracies from 0 and spreads of 1."""
    frame = pd.DataFrame({"row": names, "accuracy": [float(n) for n in range(len(names))], "CI": 1.0})
    printed = Printed("Numbers", {"row": "", "accuracy": "CI"}, {"accuracy": "highest"}, "the spread")
    return Table("made_up", frame, "", formats or {}, printed=printed)


def tabular(text: str) -> list[list[str]]:
    """The cells of a LaTeX table of this package; anything that is not one is an error."""
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    environment = re.search(r"\\begin\{tabular\}\{(.+)\}\n(.*)\n +\\end\{tabular\}", text, re.DOTALL)
    assert environment
    columns = re.findall(r"l|r|p\{[\d.]+\\linewidth\}", environment[1])
    assert "".join(columns) == environment[1]
    top, *lines, bottom = (line.strip() for line in environment[2].split("\n"))
    assert (top, lines[1], bottom) == (r"\toprule", r"\midrule", r"\bottomrule")
    found = []
    for line in lines:
        if line in (r"\midrule", r"\addlinespace"):
            continue
        assert line.endswith(r" \\")
        assert not line.startswith(("[", "*"))
        cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
        over = re.match(r"\\multicolumn\{(\d+)\}", line)
        assert (int(over[1]) if over else len(cells)) == len(columns)
        found.append([cell.strip() for cell in cells])
    return found


def test_a_mean_and_its_spread_share_a_cell_and_the_best_is_bold() -> None:
    text = paper.latex(table(["a", "b"]), MADE)
    assert tabular(text) == [["row", "accuracy"], ["a", r"$0.00 \pm 1.00$"], ["b", r"$\mathbf{1.00} \pm 1.00$"]]
    caption = r"Numbers. Behind $\pm$: the spread. Bold: the best of each column. Seed 1; 3 users; 1 draw of each."
    made_by = r"Made by \texttt{dua \textquotesingle{}seed=\allowbreak{}{[}1,\allowbreak{}2{]}\textquotesingle{}}."
    assert rf"\caption[{{Numbers}}]{{{caption} {made_by}}}" in text
    assert r"\label{tab:made-up}" in text
    assert r"% \usepackage{booktabs}" in text
    lines = paper.markdown(table(["a", "b"]), MADE).splitlines()
    assert lines[0].endswith("Seed 1; 3 users; 1 draw of each. Made by `dua 'seed=[1,2]'`.")
    assert lines[2:] == ["| row | accuracy |", "| --- | --: |", "| a | 0.00 ± 1.00 |", "| b | **1.00 ± 1.00** |"]


def test_what_looks_equally_good_is_bold_and_a_single_line_is_not() -> None:
    found = table(["a", "b", "c"])
    found.frame["accuracy"] = [1.001, 1.004, 0.5]
    assert [line[1].count("mathbf") for line in tabular(paper.latex(found, MADE))[1:]] == [1, 1, 0]
    found.frame["accuracy"] = [1.0, 1.0, 1.0]
    assert "mathbf" not in paper.latex(found, MADE)
    assert "mathbf" not in paper.latex(table(["a"]), MADE)


def test_numbers_of_any_kind_are_numbers_of_latex() -> None:
    formats = {"accuracy": "+.2g", "CI": ",.0f"}
    found = table(["a", "b", "c"], formats=formats)
    found.frame["accuracy"], found.frame["CI"] = [-1e-7, float("nan"), 0.25], [1234.0, 1.0, float("nan")]
    cells = [line[1] for line in tabular(paper.latex(found, MADE))[1:]]
    assert cells == [r"$-1 \times 10^{-7} \pm 1{,}234$", "--", r"$\mathbf{+0.25}$"]


def test_of_many_lines_the_first_are_printed_and_counted() -> None:
    text = paper.latex(table([f"r{n}" for n in range(paper.LONGEST + 1)]), MADE)
    assert len(tabular(text)) == 1 + paper.LONGEST
    assert f"The first {paper.LONGEST} of {paper.LONGEST + 1} lines." in text


def test_headings_part_the_lines() -> None:
    found = table(["a", "b", "c"])
    found.frame["part"] = ["x_1", "x_1", "y"]
    found = replace(found, printed=Printed("Numbers", {"part": "", "row": "", "accuracy": "CI"}, parts="part"))
    heads = [line[0] for line in tabular(paper.latex(found, MADE))]
    x, y = (rf"\multicolumn{{2}}{{l}}{{\textit{{{name}}}}}" for name in (r"x\_1", "y"))
    assert heads == ["row", x, "a", "b", y, "c"]
    assert "| *x\\_1* | |" in paper.markdown(found, MADE)


@given(st.lists(AWKWARD, min_size=1, max_size=4))
def test_names_are_nothing_but_text(names: list[str]) -> None:
    text = paper.latex(table(names), MADE)
    assert len(tabular(text)) == 1 + len(names)
    depth = 0
    for token in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
    assert depth == 0
    assert len(paper.markdown(table(names), MADE).splitlines()) == 4 + len(names)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folders.run(tmp_path_factory.mktemp("paper"), given=[*folders.GIVEN, "paths.data_dir=/home/ann"])
    assert report.main([str(folder), "--latex", "--markdown", "--pdf"]) == 0
    return folder / "report"


def test_every_table_but_the_settings_has_its_files(out: Path) -> None:
    for name in NAMES:
        text = (out / "tables" / f"{name}.tex").read_text()
        lines = [line for line in tabular(text) if not line[0].startswith(r"\multicolumn")]
        assert len(lines) - 1 == len(pd.read_csv(out / "tables" / f"{name}.csv"))
        assert r"\texttt{dua +experiment=\allowbreak{}digits}." in text
        assert "Seeds 1, 2 and 3; 2 users; 2 draws of each." in text
        assert (out / "tables" / f"{name}.md").read_text().startswith(re.split(r"[\\(]", text.split("[{")[1])[0][:20])
    printed = {path.stem for path in (out / "tables").glob("*.tex")}
    assert printed == set(NAMES)


def test_figures_are_pdf_too_with_text_as_text(out: Path) -> None:
    drawn = {path.stem for path in (out / "figures").glob("*.pdf")}
    assert drawn == {path.stem for path in (out / "figures").glob("*.svg")}
    for path in (out / "figures").glob("*.pdf"):
        data = path.read_bytes()
        assert data.startswith(b"%PDF")
        assert b"/Type0" in data
        assert b"/Type3" not in data
        assert b"/CreationDate" not in data


@pytest.mark.parametrize(
    ("spread", "said"),
    [
        ("std", "the standard deviation over seeds"),
        ("users", r"half the 95 \% t interval over users"),
        pytest.param("iterations", r"half the 95 \% t interval over iterations", marks=pytest.mark.slow),
    ],
)
def test_the_spread_can_be_chosen_and_is_named(spread: str, said: str, tmp_path: Path) -> None:
    study = runs.study([folders.run(tmp_path)])
    report.write(study, tmp_path / "out", ["latex"], spread=spread)
    text = (tmp_path / "out" / "tables" / "rows.tex").read_text()
    assert rf"Behind $\pm$: {said}." in text
    draws = study.reduced.draws
    if spread == "std":
        expected = reduce.over_seeds(draws)["average_accuracy_std"]
    else:
        expected = reduce.over(draws, "average_accuracy", spread.removesuffix("s")).half
    for row, cell, *_ in tabular(text)[1:]:
        assert cell.endswith(rf"\pm {expected[row]:.2f}$")


def test_a_spread_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    folder = folders.run(tmp_path, [record for record in made() if record.seed == 1])
    with pytest.raises(InputError, match=r"--spread std needs several seeds, .* use --spread users or iterations"):
        report.main([str(folder), "--latex", "--spread", "std"])


@pytest.mark.skipif(ENGINE is None, reason="needs pdflatex; apt install texlive-latex-recommended")
def test_every_table_compiles(out: Path, tmp_path: Path) -> None:
    names = ["\\{}$&#%_~^<>|[]*\"'`--±é", "[b]", "*", "x" * 50]
    (tmp_path / "odd.tex").write_text(paper.latex(table(names), MADE), encoding="utf-8")
    inputs = [f"\\input{{{path.with_suffix('')}}}" for path in [*(out / "tables").glob("*.tex"), tmp_path / "odd.tex"]]
    pages = [r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}", r"\listoftables"]
    document = tmp_path / "paper.tex"
    document.write_text("\n".join([*pages, *inputs, r"\end{document}"]), encoding="utf-8")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if str(ENGINE).endswith("pdflatex") else []
    for _ in range(2):
        done = subprocess.run([str(ENGINE), *options, document.name], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert document.with_suffix(".pdf").exists()
