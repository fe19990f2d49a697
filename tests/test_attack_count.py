"""docs/security.md counts the attacks that the tests play, area by area."""

import re
from pathlib import Path

import test_attack_models as models
import test_attack_night as night
import test_attack_paths as paths
import test_attack_pickles as pickles
import test_attack_secrets as secrets
import test_attack_sql as sql
import test_attack_texts as texts
import test_attack_web as web
import test_attack_yaml as yaml

from pairloom.storage.modelstore import CARD_FILES

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
SHOWN = 6
"""Places where every hostile text is shown: page, report, card, terminal, errors, JSON."""

PLAYED = {
    "Pickles and code beside models": len(pickles.PICKLES) * len(pickles.PLACES) + 3,
    "SQL statements": len(sql.READS + sql.WRITES + sql.BOMBS + sql.SLOW) + len(sql.DATES) + 5,
    "Files that SQL names": 2 * len(sql.IMAGES) + 1,
    "Conditions of a search and of a source": len(sql.CONDITIONS + sql.SOURCE_WHERES) + 2,
    "Names of pipelines": len(paths.COMMANDS) + len(paths.NAMES) + 4,
    "YAML and `--set`": len(yaml.DOCUMENTS) + len(yaml.OVERRIDES),
    "HTML": SHOWN * len(texts.HTML),
    "Markdown": SHOWN * len(texts.MARKDOWN),
    "Terminals": SHOWN * len(texts.TERMINAL),
    "A whole night of them": 2 * len(night.COMMANDS) + 4,
    "Secrets": 3 * len(secrets.LEAKS),
    "The search page": len(web.FILTERED) * len(web.WHERES)
    + sum(map(len, (web.QUESTIONS, web.ABSENT, web.UPLOADS, web.FORMS, web.HOSTS)))
    + 8,
    "Models whose files changed": 2 * len(models.FILES) + len(CARD_FILES) + 2,
}


def test_table_of_attacks_says_what_the_tests_play() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    counted = {area.strip(): int(count.replace(",", "")) for area, count in rows}
    assert counted == {**PLAYED, "Together": sum(PLAYED.values())}
