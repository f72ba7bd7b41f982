"""What a comparison shows: hostile names stay text, and old pictures go."""

import html.parser

from learnlag_jax.experiments import figures
from learnlag_jax.experiments.claims import Dataset
from learnlag_jax.experiments.commands import compare
from learnlag_jax.experiments.comparison import standings, standings_figures, trials
from tests.experiments.comparing import CONFIG, run_compare
from tests.experiments.test_standings import result

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</table></style>",
    "_hidden",
    "$x^{$ \\\\frac",
    "&lt;b&gt;",
    "=cmd|x",
    "Ω漢字😀",
    "[bold]x[/]",
    "a | b",
]


class _Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, sorted(name for name, _ in attributes)))


def _page(label, comparison):
    runs = [standings.Entry(label, name, label, (1.5,), (result([3, 1, 0.5], name),)) for name in (label, "other")]
    ranks = standings.stand(runs, 20)
    drawn = [(f, figures.draw(f)) for f in standings_figures.figures(runs, {label: label}, standings.profile(ranks))]
    tables = standings.tables(ranks, runs, [result([1], label, point=label)], 20)
    data = Dataset(label, None, "0" * 64, label, label)
    return compare.html(comparison, tables, drawn, [data], {label: label}), drawn


def test_hostile_names_stay_text(tmp_path, installed):
    (tmp_path / "c.toml").write_text(CONFIG)
    comparison = trials.read(tmp_path / "c.toml")
    plain = _Tags(_page("plain", comparison)[0]).found
    for label in HOSTILE:
        page, drawn = _page(label, comparison)
        assert _Tags(page).found == plain, label
        assert "default-src 'none'" in page
        assert all(
            line[:1] not in "=+-@"
            for _, picture in drawn
            for table in picture.tables.values()
            for line in table.split(chr(10))[0].split(",")
        )
    print(f"{len(HOSTILE)} hostile labels: the tags of the page are those of a plain one")
    assert _Tags("<script>" + _page("plain", comparison)[0]).found != plain  # what an unescaped label would do


def test_pictures_of_an_earlier_run_do_not_stay(tmp_path, installed):
    out = run_compare(tmp_path)
    (out / "figures" / "curves-7.png").write_bytes(b"old")
    (out / "mine.txt").write_text("kept")
    run_compare(tmp_path)
    assert not (out / "figures" / "curves-7.png").exists()
    assert (out / "figures" / "curves-0.png").exists()
    assert (out / "mine.txt").exists()
