"""Numbers on the command line."""

import math
from typing import Any

import click


class NumberRange(click.FloatRange):
    """click's range of numbers, without the one that is not in any: NaN seconds never pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number.

        Raises:
            click.BadParameter: it is outside of the range, or no number.
        """
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number
