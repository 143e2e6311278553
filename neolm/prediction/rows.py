"""Predictions for the rows of a table, in constant memory and in the order of the rows.

Each row gets the columns of the predictor, or `error` with the reason. A row that cannot be used does not end the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neolm.core.artifact import code_digest
from neolm.core.errors import InputError
from neolm.models.hf import model_directory
from neolm.prediction.find_entities import FindEntities, TagWords
from neolm.prediction.predict import Predictor
from neolm.tables.table import Row, Table
from neolm.tables.tagged_table import WORDS

ERROR = "error"


def added_columns(predictor: Predictor[Any]) -> list[str]:
    """The columns that a row may get."""
    return [*predictor.columns, ERROR]


def work(model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What predictions follow from: the code, the files of the model by name, size and time, and the settings."""
    directory = model_directory(model)
    files = {path.name: path.stat() for path in sorted(directory.iterdir()) if path.is_file()}
    stamps = {name: (status.st_size, status.st_mtime_ns) for name, status in files.items()}
    return {"code": code_digest("prediction"), "model": [str(directory.resolve()), stamps], "settings": dict(settings)}


def suited(predictor: Predictor[Any], table: Table, column: str | None) -> Predictor[Any]:
    """The predictor for a table: if it finds entities, and a column has lists of words, one that tags these.

    Args:
        predictor: Any predictor.
        table: The table; without a `column` and without the column `text`, it is the column `tokens`.
        column: The column, if it was named.
    """
    if not isinstance(predictor, FindEntities) or (column is None and predictor.inputs[0] in table.columns):
        return predictor
    values = (row.values.get(WORDS if column is None else column) for row in table.rows())
    first = next((value for value in values if value is not None), None)
    return TagWords(predictor) if isinstance(first, list) else predictor


def row_predictions(
    predictor: Predictor[Any], columns: Sequence[str], inputs: Callable[[Row], Sequence[Any]] | None = None
) -> Callable[[Sequence[Row]], Sequence[Mapping[str, Any]]]:
    """A function from rows to the columns that they get, by the texts in `columns`, one for each of its inputs.

    The input `tokens` is a list of words, the others are texts; or `inputs` reads them from a row.
    """

    def texts(row: Row) -> list[Any]:
        named = zip(predictor.inputs, columns, strict=True)
        return [row.words(column) if name == WORDS else row.text(column) for name, column in named]

    def predictions(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
        encoded, errors = [], {}
        for number, row in enumerate(rows):
            try:
                encoded.append(predictor.encode(*(inputs or texts)(row)))
            except InputError as error:
                errors[number] = {ERROR: str(error)}
        found = predictor.predict(encoded) if encoded else []
        results = iter({name: one[name] for name in predictor.columns} for one in found)
        return [errors.get(number) or next(results) for number in range(len(rows))]

    return predictions
