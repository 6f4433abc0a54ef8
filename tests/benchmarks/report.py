"""The tables printed at the end of the run."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Goal:
    """A figure and what it is held to; `noise` is the figure's uncertainty."""

    what: str
    limit: float
    measured: float
    noise: float
    unit: str = ""
    digits: int = 3
    at_least: bool = False  # the limit is a lower one

    @property
    def verdict(self):
        if abs(self.measured - self.limit) <= self.noise and self.noise > 0:
            return "tie"
        met = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "met" if met else "missed"

    def cells(self):
        measured = f"{self.measured:.{self.digits}f}{self.unit}"
        sign = ">=" if self.at_least else "<="
        return self.what, f"{sign} {self.limit:g}{self.unit}", measured, f"± {self.noise:.{self.digits}f}", self.verdict


@dataclass
class Report:
    """Tables and goals, in the order in which they were measured."""

    lines: list[str] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def table(self, title, header, rows, notes=()):
        self.lines += ["", title, *aligned([header, *rows]), *(f"  {note}" for note in notes)]

    def all_lines(self):
        header = ("figure", "goal", "measured", "noise", "")
        return [*self.lines, "", "goals", *aligned([header, *(goal.cells() for goal in self.goals)])]


def aligned(rows):
    """The rows with columns of one width; the first is left-aligned, numbers right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        numbers = (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join(["", row[0].ljust(widths[0]), *numbers]).rstrip()
