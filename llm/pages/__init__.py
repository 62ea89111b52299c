"""Pages: folders of numbers to one self-contained HTML file.

    folder (metrics.jsonl, trials.csv, manifest.json, ...)
      -> training.py | corpus.py | journey.py    numbers: one plain dict, also written as report.json
         task_numbers.py | sweep_numbers.py
      -> importance.py                           what each setting of a sweep explains
      -> charts.py                               numbers to plotly specifications, axis titles with units
      -> blocks.py                               numbers to tiles, tables, cards; every text escaped here
      -> page.py (page.css, page.js)             blocks to one file: no network, light or dark, any width

What is drawn comes out of the numbers alone, so a page and its report.json cannot disagree. Nothing here
reads the clock: equal inputs give an equal page.
"""
