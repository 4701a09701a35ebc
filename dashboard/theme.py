"""How the pages look: restrained, readable from a step away, the same words and colours everywhere."""

from __future__ import annotations

TRIAGE = {"high": ("High", "#b3261e"), "unknown": ("Unknown", "#8a6100"), "low": ("Low", "#2c6e49")}
"""Class, its name and its colour: each at least 4.5 to 1 against white (WCAG 2.2, 1.4.3), and never colour alone."""

MODELS = ("#0b5cad", "#8a3ffc", "#007d79", "#9f1853")
"""Colours of models in charts, for the colour-blind too (with a shape each)."""

OPTIONS = {
    "base": "light",
    "primaryColor": "#0b5cad",
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f3f5f8",
    "textColor": "#17212b",
    "baseRadius": "small",
    "font": "sans-serif",
}
"""Streamlit's own theme options, given on its command line."""

STYLE = """
<style>
  [data-testid="stMainBlockContainer"] {padding: 2.6rem 2rem 2rem; max-width: 1560px}
  [data-testid="stHeader"] {background: transparent; height: 2.4rem}
  [data-testid="stSidebarHeader"]::before {content: "edgerad"; font-weight: 700; font-size: 1.15rem; color: #17212b}
  [data-testid="stMainBlockContainer"] h1 {font-size: 1.5rem; font-weight: 650; padding: 0 0 .3rem}
  [data-testid="stMainBlockContainer"] h3 {font-size: 1.05rem; font-weight: 650; padding: .6rem 0 .1rem}
  [data-testid="stMetricValue"] {font-size: 1.7rem; font-variant-numeric: tabular-nums}
  [data-testid="stMetricLabel"] p {color: #55606b}
  .st-key-rows {gap: .45rem}
  [class*="st-key-row-"] {padding: .55rem .9rem; border-radius: .4rem}
  [class*="st-key-row-open-"] {border-left: 4px solid #b3261e; background: #fdf6f5}
  [class*="st-key-row-"] p {margin: 0}
  [class*="st-key-row-"] [data-testid="stMarkdownContainer"] {margin-bottom: 0}
  .st-key-viewer {background: #0b0e12; border-radius: .4rem; padding: .5rem; align-items: safe center;
              overflow-x: auto}
  .st-key-viewer img {max-height: 66vh; object-fit: contain; border-radius: 0}
  .st-key-viewer [data-testid="stFullScreenFrame"], .st-key-viewer [data-testid="stImageContainer"] {width: 100%}
  .er-tag {display: inline-block; padding: 0 .55em; border-radius: .25em; color: #fff; font-weight: 600;
           font-size: .82rem; line-height: 1.5rem; white-space: nowrap}
  .er-score {display: flex; align-items: center; gap: .7rem; white-space: nowrap}
  .er-risk {font-size: 1.7rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.2;
            min-width: 3.8rem}
  .er-large {font-size: 2.6rem}
  .er-small {color: #55606b; font-size: .84rem; line-height: 1.35; overflow-wrap: anywhere}
  .er-name {font-weight: 600; font-size: 1.1rem; line-height: 1.35}
  .er-line {font-size: 1.1rem; line-height: 1.35}
  .er-late {color: #b3261e; font-weight: 600}
  .er-history {border-collapse: collapse; width: 100%; font-size: .88rem}
  .er-history td {padding: .28rem .6rem .28rem 0; border: 0; border-bottom: 1px solid #e6e9ee; vertical-align: top}
  .er-history td:first-child {color: #55606b; white-space: nowrap; font-variant-numeric: tabular-nums}
  .er-scroll {overflow-x: auto}
  .er-table {border-collapse: collapse; width: 100%; font-size: .86rem; line-height: 1.35}
  .er-table th {text-align: left; color: #55606b; font-weight: 500; padding: .3rem .8rem .3rem 0; border: 0;
                border-bottom: 1px solid #b8c0c9; white-space: nowrap}
  .er-table td {padding: .32rem .8rem .32rem 0; border: 0; border-bottom: 1px solid #e6e9ee; vertical-align: top;
                font-variant-numeric: tabular-nums}
  .er-caveat {margin-top: 1.5rem; padding-top: .6rem; border-top: 1px solid #e6e9ee; color: #55606b; font-size: .8rem}
  /* A tablet, or a monitor on its side: what does not fit beside goes below, and nothing covers anything. */
  @media (max-width: 1100px) {
    [class*="st-key-row-"] [data-testid="stHorizontalBlock"],
    [data-testid="stHorizontalBlock"]:has(> [data-testid="stColumn"] [data-testid="stMetric"]),
    [data-testid="stHorizontalBlock"]:has(> [data-testid="stColumn"] .er-table),
    [data-testid="stHorizontalBlock"]:has(> [data-testid="stColumn"] [data-testid="stVegaLiteChart"]) {flex-wrap: wrap}
    [class*="st-key-row-"] [data-testid="stColumn"] {flex: 1 1 11.5rem; min-width: 11.5rem}
    [data-testid="stColumn"]:has([data-testid="stMetric"]) {flex: 1 1 7.5rem; min-width: 7.5rem}
    [data-testid="stColumn"]:has(.er-table), [data-testid="stColumn"]:has([data-testid="stVegaLiteChart"])
      {flex: 1 1 100%; min-width: 100%}
  }
  #MainMenu, [data-testid="stAppDeployButton"] {display: none}
</style>
"""

CAVEAT = "Decision support for trained staff. Not a medical device. Read every image yourself."
