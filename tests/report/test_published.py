"""Measured beside published, in the units of what was published."""

from pathlib import Path

import pandas as pd
import pytest

from dua_lightning.report import records
from dua_lightning.report.published import compare, main, published
from dua_lightning.report.reduce import reduce
from tests.report.test_tables import made, value

TABLES = sorted((Path(__file__).parents[2] / "experiments").glob("table*/expected.csv"))


@pytest.fixture
def expected() -> pd.DataFrame:
    lines = [("digits", "mlp", "MAS-RACL", "none", 80.0, 1.0), ("digits", "mlp", "MAS-RACL", "adabn", 81.0, None)]
    return pd.DataFrame(lines, columns=["data", "model", "method", "adapt", "accuracy", "forgetting"])


def test_measured_is_the_mean_and_its_forgetting_is_over_all_tasks(expected: pd.DataFrame) -> None:
    first, second = compare(reduce([pd.DataFrame(made())]).draws, expected).to_dict("records")
    last = [value("racl", u, i, s, 3, on) for u in ("a", "bcd") for i in (1, 2) for s in (1, 2, 3) for on in (1, 2, 3)]
    assert first["measured"] == pytest.approx(sum(last) / len(last))
    assert first["gap"] == pytest.approx(first["measured"] - 80)
    lost = [(2 * (1 + s / 5) + 1 + s / 5) / 3 for s in (1, 2, 3)]
    assert first["measured_forgetting"] == pytest.approx(sum(lost) / 3)
    assert pd.isna(second["measured"])


def test_the_command_prints_both(expected: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(made(), tmp_path / "records.csv")
    expected.to_csv(tmp_path / "expected.csv", index=False)
    assert main([str(tmp_path / "expected.csv"), str(tmp_path)]) == 0
    assert "80.00 (1.00)" in capsys.readouterr().out


def test_bad_input_is_status_2(tmp_path: Path) -> None:
    assert main([]) == 2
    assert main([str(tmp_path / "absent.csv"), str(tmp_path)]) == 2


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parent.name)
def test_the_published_tables_can_be_read(path: Path) -> None:
    table = pd.read_csv(path)
    assert table["accuracy"].between(0, 100).all()
    assert not table.duplicated(["data", "model", "method", "adapt"]).any()


def test_what_is_published_is_known_without_being_given() -> None:
    known = published()
    assert len(known) == sum(len(pd.read_csv(path)) for path in TABLES)
    assert set(known["table"]) == {"2", "3", "4"}


def test_there_is_a_published_table_for_each_of_the_papers() -> None:
    assert [path.parent.name for path in TABLES] == ["table2", "table3", "table4"]
